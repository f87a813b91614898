"""Metrics, which compare predictions with ground truth."""
