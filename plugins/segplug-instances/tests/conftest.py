"""Access to the recorded results of Detectron, detectron2 and torchvision."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, which compiling a model does as well


@pytest.fixture(scope="session")
def golden() -> Any:
    """Return the recorded results, see `recorded.Golden`."""
    from recorded import Golden

    return Golden()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
