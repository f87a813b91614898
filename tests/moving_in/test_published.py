"""The import of MMSegmentation's own configs: packaged experiments have the digests that imports had."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from outcomes import digest

from segkernel.config import load_config

DIGESTS: dict[str, str] = json.loads(Path(__file__).with_name("digests.json").read_text("utf-8"))
UNAVAILABLE = ("vpd_sd_4xb8-25k_nyu-480x480", "vpd_sd_4xb8-25k_nyu-512x512")
"""Packaged without a model, which would need Stable Diffusion."""

NAMES = [name for name in DIGESTS if name not in UNAVAILABLE]


def different(names: list[str]) -> list[str]:
    return [name for name in names if digest(load_config(name).data) != DIGESTS[name]]


def test_packaged_experiments_are_what_was_imported() -> None:
    assert len(DIGESTS) == 681
    assert different(NAMES[::12]) == []


@pytest.mark.slow  # the quick test checks every twelfth
def test_all_packaged_experiments_are_what_was_imported() -> None:
    assert different(NAMES) == []
