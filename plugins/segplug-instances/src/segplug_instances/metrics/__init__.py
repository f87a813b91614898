"""Metrics of instances."""
