"""Talk to the container engine."""
