"""Decode heads, one paper a file."""
