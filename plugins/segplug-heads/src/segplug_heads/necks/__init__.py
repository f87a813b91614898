"""Necks: feature maps to feature maps."""
