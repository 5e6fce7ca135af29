"""Talk to the container engine: the verbs of any engine, and how Docker and Podman do them."""
