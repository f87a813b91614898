"""Recorded results of Detectron.pytorch, detectron2 and torchvision, and the weights that their models had.

A file is ``NAME.json``, facts, and ``NAME.npz``, arrays. They are in the folder ``instances`` of ``SEGKERNEL_PARITY``,
or of a checkout's neighbour ``shared/parity``; a checkout alone has those in ``golden_models``.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

HERE = Path(__file__).parent
ALL = Path(os.environ.get("SEGKERNEL_PARITY", HERE.parents[3] / "shared" / "parity")) / "instances"
RECORDED = ALL if ALL.is_dir() else HERE / "golden_models"


class Golden:
    """The recorded results; a test whose file is not there is skipped."""

    folder = RECORDED

    def load(self, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return facts and arrays of a file."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            pytest.skip(f"{path}, results of another program, is not there")
        arrays = path.with_name(f"{path.stem}.npz")
        return json.loads(path.read_text("utf-8")), dict(np.load(arrays)) if arrays.exists() else {}

    def case(self, facts: Any, arrays: Mapping[str, np.ndarray], name: str) -> tuple[Any, Any, Any]:
        """Return parameters, inputs and outputs of a case of a file that has several."""
        fact = next(each for each in facts["cases"] if each["name"] == name)
        inputs, outputs = ({key: arrays[f"{name}/{key}"] for key in fact[part]} for part in ("inputs", "outputs"))
        return fact["params"], inputs, outputs

    def sliced(self, facts: Any, name: str, value: Any) -> np.ndarray:
        """Return an array cut as the recorded one was: every so many channels, rows and columns."""
        fact, value = facts["arrays"][name], np.asarray(value)
        if (step := fact.get("channel_stride", 1)) > 1:
            value = value[:, ::step]
        if (step := fact.get("stride", 1)) > 1:
            value = value[..., ::step, ::step]
        return value

    def error(self, got: Any, reference: Any) -> float:
        """Return the largest difference, divided by the largest value; inf for another shape."""
        got, reference = np.asarray(got), np.asarray(reference)
        if got.shape != reference.shape:
            return float("inf")
        if reference.size == 0 or np.array_equal(got, reference):
            return 0.0
        got, reference = got.astype(np.float64), reference.astype(np.float64)
        return float(np.abs(got - reference).max() / max(np.abs(reference).max(), 1e-12))

    def ok(self, got: Any, reference: Any, tolerance: float = 1e-4) -> bool:
        """Return whether an array is the recorded one; integers and bool must be equal."""
        return self.error(got, reference) <= (0 if np.asarray(reference).dtype.kind in "biu" else tolerance)

    def fill(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return random weights by torch's names; those of a name are always the same."""
        return {name: _filled(name, value) for name, value in state.items()}

    def fill_blobs(self, table: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return random weights by Caffe2's names; a table has ``shape`` for each name."""
        return {name: torch.from_numpy(_blob(name, tuple(fact["shape"]))) for name, fact in table.items()}


def _filled(name: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return torch.zeros(value.shape, dtype=value.dtype)
    state, leaf = np.random.RandomState(zlib.crc32(name.encode())), name.rpartition(".")[2]
    if leaf == "running_var":
        drawn = state.uniform(0.5, 1.5, value.shape)
    elif value.ndim >= 2:
        drawn = state.standard_normal(value.shape) * np.sqrt(1 / np.prod(value.shape[1:]))
    elif leaf == "weight":
        drawn = 1 + 0.1 * state.standard_normal(value.shape)
    else:
        drawn = 0.1 * state.standard_normal(value.shape)
    return torch.from_numpy(np.asarray(drawn, np.float32)).to(value.dtype)


def _blob(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name in ("kps_score_w", "kps_score_b"):  # a fixed kernel, which no model reads
        return np.zeros(shape, np.float32)
    drawn = np.asarray(np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape))
    if name.endswith("_momentum"):
        drawn = 0.01 * drawn
    elif len(shape) >= 2:
        drawn = drawn * np.sqrt(1 / np.prod(shape[1:]))
    elif name.endswith("_s"):
        drawn = 1 + 0.1 * drawn
    else:
        drawn = 0.1 * drawn
    return drawn.astype(np.float32)
