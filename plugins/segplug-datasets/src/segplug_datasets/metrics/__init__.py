"""Metrics: they compare predictions with labels."""
