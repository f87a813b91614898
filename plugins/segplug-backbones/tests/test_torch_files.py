"""Files of torch that hold more than plain data, or are none: read without what is no weights, or refused."""

from __future__ import annotations

import os
import sys
import types
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from segkernel import checkpoint
from segkernel.errors import CheckpointError
from segkernel.testing.hostile import HOSTILE, runs_nothing, write_hostile


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))


def fake_history_buffer(monkeypatch) -> type:
    """Make a class that pickles as mmengine's, with bound methods in its state as the real one has."""
    names = ["mmengine", "mmengine.logging", "mmengine.logging.history_buffer"]
    modules = {name: types.ModuleType(name) for name in names}

    class HistoryBuffer:
        def __init__(self) -> None:
            self.history, self.count = np.arange(3.0), np.int64(4)
            self.statistics = {"mean": HistoryBuffer.mean}

        def mean(self) -> float:
            return 0.0

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = names[-1], "HistoryBuffer"
    HistoryBuffer.mean.__module__, HistoryBuffer.mean.__qualname__ = names[-1], "HistoryBuffer.mean"
    modules[names[-1]].HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return HistoryBuffer


def test_an_mmengine_file_loads_without_its_history(tmp_path, monkeypatch):
    buffer = fake_history_buffer(monkeypatch)()
    content = {
        "state_dict": small_model().state_dict(),
        "meta": {"iter": 5, "seed": np.float32(1.5), "dataset_meta": {"classes": ("a",), "palette": np.zeros((1, 3))}},
        "message_hub": {"log_scalars": {"loss": buffer}, "list": [1, buffer]},
    }
    torch.save(content, tmp_path / "a.pth")
    monkeypatch.undo()
    loaded = checkpoint.load(tmp_path / "a.pth")
    assert loaded["message_hub"] == {"log_scalars": {}, "list": [1]}
    assert loaded["meta"] == {"iter": 5, "dataset_meta": {"classes": ("a",)}, "classes": ("a",)}
    assert len(loaded["state_dict"]) == 9


def test_the_stand_ins_are_taken_back_after_loading(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    torch.save({"w": torch.ones(1)}, tmp_path / "a.pth")
    checkpoint.load(tmp_path / "a.pth")
    assert set(torch.serialization.get_safe_globals()) == before


def test_stand_ins_work_without_the_context_manager_of_newer_torch(tmp_path, monkeypatch):
    monkeypatch.delattr(torch.serialization, "safe_globals", raising=False)
    before = set(torch.serialization.get_safe_globals())
    torch.save({"w": torch.ones(1), "n": np.float64(1)}, tmp_path / "a.pth")
    assert list(checkpoint.load(tmp_path / "a.pth")["state_dict"]) == ["w"]
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.filterwarnings("ignore")
def test_a_file_that_wants_to_run_code_is_refused_and_not_run(tmp_path, kind):
    asks = r"refused: it asks for '(posix|nt)\.system'"
    said = {"program": "is a TorchScript program", "tar": "is a tar archive", "newer pickle": "nothing in it was run"}
    path = write_hostile(kind, tmp_path / "a.pth")
    with runs_nothing(tmp_path), pytest.raises(CheckpointError, match=said.get(kind, asks)):
        checkpoint.load(path)


def test_threads_do_not_take_the_stand_ins_from_each_other(tmp_path):
    torch.save({"w": torch.ones(1), "n": [np.float64(1)] * 200}, tmp_path / "a.pth")
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda _: list(checkpoint.load(tmp_path / "a.pth")["state_dict"]), range(64)))
    assert loaded == [["w"]] * 64


def test_a_whole_pickled_model_is_refused_with_what_to_do(tmp_path):
    torch.save(small_model(), tmp_path / "a.pth")
    with pytest.raises(
        CheckpointError, match=r"refused: it asks for 'torch\.nn\.modules\..*\n.*save the weights alone"
    ):
        checkpoint.load(tmp_path / "a.pth")


def test_getattr_in_a_file_reaches_nothing(tmp_path):
    class Reach:
        def __reduce__(self) -> tuple[Any, ...]:
            return getattr, (OrderedDict, "fromkeys")

    torch.save({"state_dict": {"w": torch.ones(1)}, "meta": {"x": Reach()}}, tmp_path / "a.pth")
    assert checkpoint.load(tmp_path / "a.pth")["meta"] == {}


def truncated(path: Path) -> None:
    torch.save(small_model().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-700])


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_text("\n<!DOCTYPE html><html>404</html>"), "is a web page"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid"), "Git LFS pointer"),
        (truncated, "is damaged"),
        (lambda path: path.write_bytes(os.urandom(5000)), "checkpoint"),
        (lambda path: path.write_text("hello, these are no weights"), "checkpoint"),
        (lambda path: torch.save([1, 2], path), "holds a list"),
        (lambda path: torch.save({"epoch": 1, "meta": {}}, path), "holds no weights; its keys are 'epoch', 'meta'"),
        (lambda path: torch.save(torch.ones(3), path), "holds a Tensor"),
        (lambda path: torch.jit.save(torch.jit.script(nn.ReLU()), path), "TorchScript"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_bad_file_is_one_clear_error_that_names_it(tmp_path, write, said):
    path = tmp_path / "weights.pth"
    write(path)
    with pytest.raises(CheckpointError, match=said) as caught:
        checkpoint.load(path)
    assert str(path) in str(caught.value)
