"""Adapters to other packages, each of which needs an optional extra."""
