"""Read what was asked for and compute what should be."""
