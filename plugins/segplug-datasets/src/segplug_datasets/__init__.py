"""Data sets, transforms and metrics for seg-kernel."""
