"""devenv: the base services of OpenStack on your own machine, ready and wired."""
