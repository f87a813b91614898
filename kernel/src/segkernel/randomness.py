"""The global random generators of Python, numpy and torch: seeding, and their state for checkpoints."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from segkernel.errors import UsageError


def seed_everything(seed: int, devices: bool = True) -> None:
    """Seed the global generators of Python, numpy and torch, of the CPU only (much faster) without ``devices``."""
    if seed < 0:
        raise UsageError(f"seed {seed}: must be 0 or more")
    random.seed(seed)
    np.random.seed(seed % 2**32)
    (torch.manual_seed if devices else torch.default_generator.manual_seed)(seed)


def random_state() -> dict[str, Any]:
    """Return the states of the generators as plain values and tensors."""
    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore states from `random_state`."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
