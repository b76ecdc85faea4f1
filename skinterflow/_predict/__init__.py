"""Predictions of a fitted model."""
