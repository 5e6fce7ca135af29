"""Run devenv on every engine that people have: `python -m tests.engines`."""
