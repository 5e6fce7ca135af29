"""Load, for as long as it takes to show: many components at work at once, then many environments at once."""
