"""Metrics: predictions and labels to figures."""
