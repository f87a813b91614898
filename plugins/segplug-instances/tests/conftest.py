"""Access to the recorded results of Detectron, detectron2 and torchvision."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, which compiling a model does as well


@pytest.fixture(scope="session")
def golden() -> Any:
    """Return the recorded results: ``load``, ``case``, ``sliced``, ``error``, ``ok``, and the fills of weights.

    They are in the folder ``instances`` of ``SEGKERNEL_PARITY``, or of a checkout's neighbour ``shared/parity``.
    """
    from reference_models import RECORDED as folder

    if not folder.is_dir():
        pytest.skip(f"{folder}, recorded results of other programs, is not there")
    compare, weights, blobs = (_module(folder / f"{name}.py") for name in ("compare", "weights", "blobs"))
    return SimpleNamespace(
        folder=folder,
        load=lambda name: compare.load(str(folder / name)),
        names=lambda pattern: sorted(path.stem for path in folder.glob(pattern)),
        case=compare.case,
        sliced=compare.sliced,
        error=compare.error,
        ok=compare.ok,
        fill=weights.fill,
        fill_blobs=lambda table: {key: torch.from_numpy(value) for key, value in blobs.fill_blobs(table).items()},
    )


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"golden_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
