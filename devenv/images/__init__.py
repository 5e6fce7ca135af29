"""Manage everything that is kept as an image: builds, bundles, golden states, snapshots."""
