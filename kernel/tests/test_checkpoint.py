from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from segkernel import checkpoint, weights
from segkernel.catalog import Catalog
from segkernel.errors import CheckpointError, SegKernelError, UsageError
from segkernel.hooks.checkpoint import CheckpointHook
from segkernel.testing.core import CheckFailed
from segkernel.testing.hostile import HOSTILE, runs_nothing, write_hostile


def small_model(classes: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, classes, 1))


def whole_state() -> dict[str, Any]:
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    return {
        "state_dict": model.state_dict(),
        "meta": {"classes": ["a", "b", "c"], "palette": [(1, 2, 3)], "iteration": 7, "note": None},
        "optimizer": optimizer.state_dict(),
        "random": {"torch": torch.get_rng_state(), "numpy": {"state": 2**127 + 1}},
    }


# ---------------------------------------------------------------- saving


def test_saving_and_loading_round_trips(tmp_path):
    state = whole_state()
    checkpoint.save(tmp_path / "a.pth", state)
    loaded = checkpoint.load(tmp_path / "a.pth")
    assert loaded["meta"] == state["meta"]
    assert loaded["random"]["numpy"] == state["random"]["numpy"]
    assert torch.equal(loaded["random"]["torch"], state["random"]["torch"])
    assert all(torch.equal(loaded["state_dict"][name], value) for name, value in state["state_dict"].items())
    optimizer = torch.optim.AdamW(small_model().parameters())
    optimizer.load_state_dict(loaded["optimizer"])


def test_folders_are_created_and_no_temporary_file_is_left(tmp_path):
    checkpoint.save(tmp_path / "run" / "a.pth", whole_state())
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["a.pth"]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.float64(1.0), "numpy.float64"),
        (np.zeros(2), "numpy.ndarray"),
        (Path("x"), "Path"),
        (print, "builtin_function_or_method"),
        ({1, 2}, "builtins.set"),
        (b"bytes", "builtins.bytes"),
        (torch.float32, "torch.dtype"),
        (type("Marked", (dict,), {})(), "Marked"),
    ],
)
def test_anything_but_plain_data_is_refused_by_key_before_writing(tmp_path, value, kind):
    path = tmp_path / "a.pth"
    path.write_bytes(b"old")
    with pytest.raises(CheckpointError, match=r"hooks\.best\[1\]") as caught:
        checkpoint.save(path, {"hooks": {"best": [0, value]}})
    assert kind in str(caught.value)
    assert path.read_bytes() == b"old"


def test_a_key_that_is_not_plain_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"meta: a key is numpy"):
        checkpoint.save(tmp_path / "a.pth", {"meta": {np.int64(3): 1}})


def test_a_full_disk_leaves_the_previous_file_intact(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    checkpoint.save(path, {"state_dict": {"w": torch.ones(2)}})
    before = path.read_bytes()

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left on device; the existing file is unchanged"):
        checkpoint.save(path, {"state_dict": {"w": torch.zeros(2)}})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.pth"]


@pytest.mark.skipif(os.name != "posix", reason="file size limits are a POSIX thing")
def test_an_interrupted_write_leaves_the_previous_file_intact(tmp_path):
    script = """
        import os, resource, sys, torch
        from segkernel import checkpoint, weights
        path = sys.argv[1]
        checkpoint.save(path, {"state_dict": {"w": torch.ones(2)}})
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            checkpoint.save(path, {"state_dict": {"w": torch.ones(1_000_000)}})
        except checkpoint.CheckpointError as error:
            print(error)
        print(sorted(os.listdir(os.path.dirname(path))), len(checkpoint.load(path)["state_dict"]["w"]))
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "a.pth")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "File too large; the existing file is unchanged" in done.stdout
    assert done.stdout.splitlines()[-1] == "['a.pth'] 2"


def test_a_folder_that_cannot_be_created_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot be written"):
        checkpoint.save(tmp_path / "file" / "a.pth", {"state_dict": {}})


# ---------------------------------------------------------------- files of other tools


@pytest.mark.parametrize("wrap", [lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}, lambda s: s])
def test_common_wrappings_give_the_same_names(tmp_path, wrap):
    torch.save(wrap(small_model().state_dict()), tmp_path / "a.pth")
    loaded = checkpoint.load(tmp_path / "a.pth")
    assert list(loaded["state_dict"]) == list(small_model().state_dict())
    assert loaded["meta"] == {}


def test_old_torch_files_that_are_not_zip_archives_are_read(tmp_path):
    torch.save(small_model().state_dict(), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert len(checkpoint.load(tmp_path / "a.pth")["state_dict"]) == 9


# ---------------------------------------------------------------- bad files


@pytest.fixture
def alone() -> Iterator[None]:
    """The kernel without any plugin."""
    with Catalog(()).active():
        yield


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.filterwarnings("ignore")
def test_a_file_with_code_is_refused_and_not_run(tmp_path, kind, alone):
    path = write_hostile(kind, tmp_path / "a.pth")
    pickled = r"a\.pth' needs a package.*\n.*segplug-backbones"
    said = {"program": "nothing in it was run", "tar": "nothing in it was run", "newer pickle": ""}
    with runs_nothing(tmp_path), pytest.raises(SegKernelError, match=said.get(kind, pickled)):
        checkpoint.load(path)


@pytest.mark.filterwarnings("ignore")
def test_code_run_by_a_program_is_detected(tmp_path):
    path = write_hostile("program", tmp_path / "a.pth")
    with pytest.raises(CheckFailed, match="was run"), runs_nothing(tmp_path):
        torch.jit.load(path)


def truncated(path: Path) -> None:
    torch.save(small_model().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-700])


def with_a_wrong_bit(path: Path) -> None:
    torch.save({"w": torch.ones(1000)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.ones(1000).numpy().tobytes()) + 400] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (with_a_wrong_bit, "is damaged"),
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: path.mkdir(), "is a folder"),
        (truncated, "is damaged"),
        (lambda path: path.write_text("hello, these are no weights"), "damaged"),
        (lambda path: torch.save([1, 2], path), "holds a list"),
        (lambda path: torch.save({"epoch": 1, "meta": {}}, path), "holds no weights; its keys are 'epoch', 'meta'"),
        (lambda path: torch.save(torch.ones(3), path), "holds a Tensor"),
        (lambda path: torch.jit.save(torch.jit.script(nn.ReLU()), path), "nothing in it was run"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_bad_file_is_one_clear_error_that_names_it(tmp_path, write, said, alone):
    path = tmp_path / "weights.pth"
    write(path)
    with pytest.raises(SegKernelError, match=said) as caught:
        checkpoint.load(path)
    assert str(path) in str(caught.value)


def test_a_misspelt_name_gets_a_suggestion(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "latest.pth")
    with pytest.raises(CheckpointError, match=r"did you mean latest\.pth"):
        checkpoint.load(tmp_path / "lastest.pth")


def test_a_folder_names_the_files_in_it(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "latest.pth")
    with pytest.raises(CheckpointError, match=r"did you mean latest\.pth"):
        checkpoint.load(tmp_path)


# ---------------------------------------------------------------- into a model


def test_strict_loads_weights_that_fit_completely():
    report = weights.load_weights(small_model(), small_model().state_dict(), mode="strict")
    assert len(report.loaded) == 9
    assert (report.skipped, report.reshaped, report.fresh) == ((), (), ())
    assert str(report) == "loaded 9 of 9 tensors"


def test_strict_refuses_another_class_count_by_name_and_leaves_the_model():
    model = small_model(5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"2\.weight: \(3, 4, 1, 1\) in the file, \(5, 4, 1, 1\)") as caught:
        weights.load_weights(model, small_model(3).state_dict(), mode="strict", classes=["a", "b", "c"])
    assert "trained on 3 classes: a, b, c" in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_strict_names_missing_and_unknown_keys():
    state = small_model().state_dict()
    state["aux.weight"] = state.pop("0.weight")
    with pytest.raises(CheckpointError, match=r"not in the file: 0\.weight\n    not in the model: aux\.weight"):
        weights.load_weights(small_model(), state, mode="strict")


def test_finetune_loads_what_fits_and_reports_the_rest():
    state = small_model(3).state_dict()
    state["0.weight"] = state["0.weight"] + 1
    state["other"] = torch.ones(1)
    del state["0.bias"]
    model = small_model(5)
    head = model[2].weight.clone()
    report = weights.load_weights(model, state, mode="finetune")
    assert report.skipped == ("other",)
    assert report.fresh == ("0.bias",)
    assert report.reshaped == (("2.weight", (3, 4, 1, 1), (5, 4, 1, 1)), ("2.bias", (3,), (5,)))
    assert torch.equal(model[2].weight, head)
    assert torch.equal(model[0].weight, state["0.weight"])
    assert "2.bias: (3,) in the file, (5,) in the model" in str(report)


def test_weights_of_another_model_are_refused_even_when_fine_tuning():
    with pytest.raises(CheckpointError, match="no tensor in the file fits"):
        weights.load_weights(small_model(), {"x": torch.ones(1)}, mode="finetune")


def test_a_file_from_before_batch_norm_counted_batches_loads_strictly(tmp_path):
    state = small_model().state_dict()
    del state["1.num_batches_tracked"]
    state._metadata["1"]["version"] = 1  # type: ignore[attr-defined]
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    weights.load_weights(small_model(), checkpoint.load(tmp_path / "a.pth")["state_dict"], mode="strict")


@pytest.mark.parametrize(
    ("metric", "wanted"), [("mIoU", 3), ("loss", 1), ("depth.rmse", 1), ("ECE", 1), ("IoU.piece", 3)]
)
def test_the_best_of_error_metrics_is_the_lowest(metric, wanted):
    hook = CheckpointHook(best=metric)
    for iteration, value in enumerate((0.1, 0.2, 0.3), 1):
        hook.after_validation(SimpleNamespace(iteration=iteration), {metric: value})
    assert hook.best[metric] == [(wanted / 10, wanted)]
    with pytest.raises(UsageError, match=f"validation has no metric '{metric}'"):
        hook.after_validation(SimpleNamespace(iteration=4), {"Acc": 0.5})
    CheckpointHook().after_validation(SimpleNamespace(iteration=4), {"Acc": 0.5})  # the default is silent
