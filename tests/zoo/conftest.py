"""Make the modules of this folder importable; they are no package, so that ``compare.py`` runs as a script."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@pytest.fixture(scope="session")
def full_facts() -> Path:
    """Return the file of full facts, in ``SEGKERNEL_ZOO_FACTS`` or a checkout's neighbour ``shared``."""
    default = HERE.parents[2] / "shared" / "zoo" / "experiments.jsonl"
    path = Path(os.environ.get("SEGKERNEL_ZOO_FACTS", default))
    if not path.is_file():
        pytest.skip(f"{path} is not there; tests/zoo/digest.json holds a digest of it")
    return path
