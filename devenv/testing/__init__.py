"""Lend an environment to a test suite, a command or a CI job."""
