"""Commands of ``seg-kernel`` that this package brings."""
