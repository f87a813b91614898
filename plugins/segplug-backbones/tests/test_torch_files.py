"""Files of torch that hold more than plain data, or are none: read without what is no weights, or refused."""

from __future__ import annotations

import argparse
import os
import sys
import types
from collections import OrderedDict, defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path, PurePosixPath
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
        "meta": {"iter": 5, "seed": np.float32(1.5), "dataset_meta": {"classes": ("a",), "palette": np.eye(1, 3)}},
        "message_hub": {"log_scalars": {"loss": buffer}, "list": [1, buffer]},
    }
    torch.save(content, tmp_path / "a.pth")
    monkeypatch.undo()
    loaded = checkpoint.load(tmp_path / "a.pth")
    assert loaded["message_hub"] == {"log_scalars": {}, "list": [1]}
    known = {"classes": ("a",), "palette": [[1.0, 0.0, 0.0]]}
    assert loaded["meta"] == {"iter": 5, "seed": 1.5, "dataset_meta": known, "classes": ("a",), "palette": None}
    assert len(loaded["state_dict"]) == 9


class Config(dict):
    """Pickles as mmengine's ConfigDict."""

    def __reduce_ex__(self, protocol: int) -> tuple[Any, ...]:
        return type(self), (dict(self),), None, None, None


ConfigDict = type("ConfigDict", (Config,), {"__module__": "mmengine.config.config"})
OBJECTS = {
    "scalar": (np.float64(0.25), 0.25),
    "flag": (np.bool_(True), True),
    "text": (np.str_("road"), "road"),
    "big-endian": (np.array([1, 2], ">i4"), [1, 2]),
    "Fortran": (np.asfortranarray(np.arange(6).reshape(2, 3)), [[0, 1, 2], [3, 4, 5]]),
    "empty": (np.zeros((0, 3)), []),
    "namespace": (argparse.Namespace(lr=0.1, dims=np.arange(2)), {"lr": 0.1, "dims": [0, 1]}),
    "queue": (deque([1, 2], maxlen=3), [1, 2]),
    "default": (defaultdict(list, a=[1]), {"a": [1]}),
    "path": (PurePosixPath("/a/b.pth"), "/a/b.pth"),
    "config": (ConfigDict(type="SGD", lr=np.float64(1)), {"type": "SGD", "lr": 1.0}),
    "key": ({np.int64(3): "x"}, {3: "x"}),
    "shared": ([[0]] * 2, [[0], [0]]),
}
GONE = {"time": datetime(2024, 1, 1), "object array": np.array([{}], object), "complex": np.complex64(1)}


def test_plain_values_of_pickled_objects_are_kept_and_other_objects_removed(tmp_path, monkeypatch):
    modules = {name: types.ModuleType(name) for name in ("mmengine", "mmengine.config", "mmengine.config.config")}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    modules["mmengine.config.config"].ConfigDict = ConfigDict  # type: ignore[attr-defined]
    meta = {name: value for name, (value, _) in OBJECTS.items()} | GONE
    torch.save({"w": torch.ones(1), "meta": meta}, tmp_path / "a.pth")
    loaded = checkpoint.load(tmp_path / "a.pth")["meta"]
    assert {name: loaded.get(name) for name in meta} == {
        **{name: value for name, (_, value) in OBJECTS.items()},
        **dict.fromkeys(GONE),
    }
    checkpoint.save(tmp_path / "again.pth", {"meta": loaded})


def test_arrays_among_weights_become_tensors(tmp_path):
    torch.save({"state_dict": {"w": np.ones((2, 3), np.float32), "n": np.int64(2)}}, tmp_path / "a.pth")
    loaded = checkpoint.load(tmp_path / "a.pth")
    assert {name: value.tolist() for name, value in loaded["state_dict"].items()} == {"w": [[1, 1, 1], [1, 1, 1]]}


class Forged:
    """Pickles as an array whose state claims another size than its content has."""

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild, arguments, (_, _, dtype, *_) = np.zeros(1).__reduce__()  # type: ignore[misc]
        return rebuild, arguments, (1, (10**6, 10**6), dtype, False, b"8 bytes.")


def test_an_array_that_claims_a_huge_size_is_removed(tmp_path):
    torch.save({"w": torch.ones(1), "meta": {"x": Forged(), "y": 1}}, tmp_path / "a.pth")
    assert checkpoint.load(tmp_path / "a.pth")["meta"] == {"y": 1}


def test_an_object_that_holds_itself_many_times_is_read_once(tmp_path):
    deep: list[Any] = [np.float64(1)]
    for _ in range(60):
        deep = [deep, deep]
    deep.append(deep)
    torch.save({"w": torch.ones(1), "meta": {"x": deep}}, tmp_path / "a.pth")
    assert len(checkpoint.load(tmp_path / "a.pth")["meta"]["x"]) == 3


# ---------------------------------------------------------------- layouts


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", None])
def test_prefixes_that_all_names_share_are_removed(tmp_path, key, prefix):
    state = OrderedDict((prefix + name, value) for name, value in small_model().state_dict().items())
    torch.save(state if key is None else {key: state, "epoch": 3}, tmp_path / "a.pth")
    assert list(checkpoint.load(tmp_path / "a.pth")["state_dict"]) == list(small_model().state_dict())


@pytest.mark.parametrize(
    "meta",
    [{"dataset_meta": {"classes": ("a", "b")}}, {"CLASSES": ("a", "b")}, {"dataset_meta": {"CLASSES": ("a", "b")}}],
)
def test_classes_are_found_where_other_tools_put_them(tmp_path, meta):
    torch.save({"state_dict": {"w": torch.ones(1)}, "meta": meta}, tmp_path / "a.pth")
    assert checkpoint.load(tmp_path / "a.pth")["meta"]["classes"] == ("a", "b")


RAW, MEAN = {"a.w": torch.zeros(2), "a.n": torch.tensor(7)}, {"a.w": torch.ones(2), "a.n": torch.tensor(7)}
BUFFER = {"ema_a_w": torch.ones(2)}
AVERAGED = {
    "mmengine": {
        "state_dict": MEAN | {"data_preprocessor.mean": torch.ones(3)},
        "ema_state_dict": {"steps": torch.tensor(9), **{f"module.{name}": value for name, value in RAW.items()}},
    },
    "mmcv, iterations": {"state_dict": RAW | BUFFER, "meta": {"config": "runner = dict(type='IterBasedRunner')"}},
    "mmcv, epochs": {
        "state_dict": MEAN | {"ema_a_w": torch.zeros(2)},
        "meta": {"config": "runner = dict(type='EpochBasedRunner')"},
    },
    "timm": {"state_dict": RAW, "state_dict_ema": MEAN},
    "DeiT": {"model": RAW, "model_ema": MEAN},
}


@pytest.mark.parametrize("kind", AVERAGED)
def test_averaged_weights_are_taken_and_the_others_kept_for_resuming(tmp_path, kind):
    torch.save(AVERAGED[kind], tmp_path / "a.pth")
    loaded = checkpoint.load(tmp_path / "a.pth")
    for key, expected in (("state_dict", MEAN), ("source_state_dict", RAW)):
        assert {name: value.tolist() for name, value in loaded[key].items()} == {
            name: value.tolist() for name, value in expected.items()
        }


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
