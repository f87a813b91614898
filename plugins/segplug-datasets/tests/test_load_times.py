"""`LoadTimesHook`: its measurements and log messages."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segkernel import Loader, Runner, hookimpl
from segkernel.sample import LabelMap, Sample
from segkernel.testing.toys import ToySegmentor
from segplug_datasets.load_times_hook import LoadTimesHook, advice


class Slow:
    """Takes its time."""

    needs = 0

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        time.sleep(0.02)
        return sample


class Plain:
    """Eight images of noise, 4 classes."""

    classes = ("a", "b", "c", "d")
    palette = ((200, 0, 0), (0, 200, 0), (0, 0, 200), (9, 9, 9))

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Sample:
        pixels = np.random.default_rng(index).integers(0, 255, (32, 32, 3)).astype(np.uint8)
        return Sample({"seg": LabelMap(pixels[..., 0] % 4)}, {"name": str(index)}, pixels)


class Records:
    """Keeps the records of kind ``load``."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []

    @hookimpl
    def on_record(self, record: dict[str, Any]) -> None:
        self.kept += [record] if record["kind"] == "load" else []


def train(folder: Path, iterations: int, hook: LoadTimesHook) -> list[dict[str, Any]]:
    """Return the records of kind ``load`` of a short training."""
    records = Records()
    loader = Loader(Plain(), [Slow()], micro_batch=2)
    optimizer = lambda model: torch.optim.SGD(model.parameters(), lr=0.01)  # noqa: E731
    Runner(
        ToySegmentor(), train=loader, optimizer=optimizer, iterations=iterations, hooks=[hook, records], work_dir=folder
    ).train()
    return records.kept


def test_waiting_for_data_is_reported_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        records = train(tmp_path, 50, LoadTimesHook(interval=20))
    assert "Slow takes" in caplog.text
    assert [record["iteration"] for record in records] == [20, 40]
    assert records[-1]["Slow"] >= 20
    assert {"decode", "resample", "collate"} <= records[-1].keys()


def test_a_short_run_causes_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert train(tmp_path, 5, LoadTimesHook()) == []
    assert "waited for data" not in caplog.text


def test_advice_names_the_stage_and_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(16), raising=False)
    text = advice(0.3, {"read": 5.0, "decode": 126.0, "Flip": 97.0}, workers=2)
    assert "waited for data 30% of the time: decode takes 126.0 of 228.0 ms per sample" in text
    assert "increase data.workers (now 2), up to 16" in text
    assert "seg-kernel data pack" in text
    assert "simplify Flip" in advice(0.3, {"read": 5.0, "Flip": 97.0}, 2)


def test_no_advice_after_short_waits() -> None:
    assert advice(0.09, {"decode": 126.0}, 2) == ""
