"""Run OpenStack's own test suites, unchanged, on devenv's services."""
