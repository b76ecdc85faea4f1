"""Saved models, checkpoints and the table of components that they can hold."""
