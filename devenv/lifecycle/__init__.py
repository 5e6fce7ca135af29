"""Carry an environment through its life: up, data, loans, down."""
