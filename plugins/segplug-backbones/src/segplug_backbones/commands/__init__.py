"""Commands of ``seg-kernel`` in this package."""
