"""Check and provision each server: one file per server, its probe and provisioner side by side."""
