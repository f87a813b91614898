"""A check that ``seg-kernel config check`` and every run make in addition."""

from __future__ import annotations

from segkernel.config import Config
from segkernel.errors import Problem

LARGEST_BATCH = 4096


def check_config(config: Config) -> list[Problem]:
    """Return a problem for a batch that no machine holds."""
    size = (config.get("optim") or {}).get("batch_size") or 0
    if size > LARGEST_BATCH:
        return [Problem(f"{size} images per batch", "optim.batch_size", hint=f"use {LARGEST_BATCH} at most")]
    return []
