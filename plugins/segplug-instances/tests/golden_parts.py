"""Recorded results of single parts: of torchvision, detectron2, Detectron and Detectron.pytorch.

All cases are read from the folder that `conftest.golden` names. Without it, those of ``golden_parts.npz`` remain, which
``python golden_parts.py`` writes.
"""

from __future__ import annotations

import json
import os
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

KEPT = {
    "anchors": ("d2_c4_97x141", "tv_fpn_97x141", "tv_multi_size"),
    "box_codec": ("*_w10_0", "clip", "min_size_edges"),
    "box_post": ("*_1",),
    "d1_anchors": ("stride16_32*", "stride64*", "field"),
    "d1_boxes": ("*",),
    "d1_dataset": ("*",),
    "d1_proposals": ("*",),
    "d1_results": ("box_results_t0.1*", "paste", "keypoints", "oks", "flip", "fpn_pool_sr0", "sizes", "prep"),
    "d1_solver": ("*",),
    "d1_train": ("*",),
    "iou_nms": ("*_1*", "edges*", "empty"),
    "keypoints": ("*",),
    "levels": ("assign", "pooler*sr0", "pooler_tv", "large_tv"),
    "losses": ("*",),
    "masks": ("*",),
    "matching": ("*_0", "sample*", "d2_edges", "d2_no_gt"),
    "proposals": ("*",),
    "resize": ("*",),
    "roi_pooling": ("align_s0.25_a?_sr0*", "align_s1_a1_sr2_o2x3", "pool_s0.25"),
}
"""Cases that the packed file holds: every rule once."""
HERE = Path(__file__).parent
PACKED = HERE / "golden_parts.npz"
FOLDER = Path(os.environ.get("SEGKERNEL_PARITY", HERE.parents[3] / "shared" / "parity")) / "instances" / "parts"


class Case(NamedTuple):
    """One call of a reference: what it was given, and what it returned."""

    params: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[name])


@cache
def load(file: str) -> dict[str, Case]:
    """Return the cases of a file by name."""
    if FOLDER.is_dir():
        facts = json.loads((FOLDER / f"{file}.json").read_text("utf-8"))["cases"]
        arrays = dict(np.load(FOLDER / f"{file}.npz"))
    else:
        packed = dict(np.load(PACKED))
        facts = json.loads(packed["facts"].tobytes())[file]
        arrays = {name.partition("/")[2]: array for name, array in packed.items() if name.startswith(f"{file}/")}
    return {
        fact["name"]: Case(fact["params"], {name: arrays[f"{fact['name']}/{name}"] for name in _names(fact)})
        for fact in facts
    }


def _names(fact: dict[str, Any]) -> list[str]:
    return [*fact["inputs"], *fact["outputs"]]


def cases(file: str, *patterns: str) -> Any:
    """Return a decorator that runs a test for each case of a file whose name fits a pattern, as argument ``name``."""
    found = [name for name in load(file) if any(fnmatch(name, pattern) for pattern in patterns)]
    return pytest.mark.parametrize("name", found)


def random(seed: int, *shape: int) -> torch.Tensor:
    """Return the standard normal values that a recorded case names by their seed."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def check(got: torch.Tensor, wanted: torch.Tensor, tolerance: float = 2e-6) -> None:
    """Compare: integers and booleans are equal, others differ by at most ``tolerance`` times the largest value."""
    assert got.shape == wanted.shape
    if not wanted.is_floating_point():
        assert torch.equal(got.to(wanted.dtype), wanted)
    elif wanted.numel():
        assert (got - wanted).abs().max() <= tolerance * wanted.abs().max().clamp(min=1e-12)


def pack() -> None:
    """Write the chosen cases of all files to `PACKED`."""
    facts: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for file, patterns in KEPT.items():
        stored = json.loads((FOLDER / f"{file}.json").read_text("utf-8"))["cases"]
        facts[file] = [fact for fact in stored if any(fnmatch(fact["name"], pattern) for pattern in patterns)]
        for fact in facts[file]:
            case = load(file)[fact["name"]]
            arrays |= {f"{file}/{fact['name']}/{name}": array for name, array in case.arrays.items()}
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    np.savez_compressed(PACKED, facts=text, **arrays)


if __name__ == "__main__":
    pack()
