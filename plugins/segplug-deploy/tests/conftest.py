"""Make the models of this folder importable."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, which compiling a model does as well

sys.path.insert(0, str(Path(__file__).parent))
