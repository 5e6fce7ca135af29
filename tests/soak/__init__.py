"""Load, for as long as it takes to show: many components at work together, then many environments together."""
