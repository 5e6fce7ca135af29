"""Run services in a Kubernetes cluster: how devenv logs in and talks to it, and how it does the verbs of an engine."""
