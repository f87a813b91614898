"""Configs of MMSegmentation 0.x and 1.x: read without running them, and written as configs of segkernel."""
