"""A recorded run is repeated: differences are reported, and the weights are the same."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from segkernel.errors import DataError
from segkernel.experiment import run
from segkernel.sample import LabelMap, Sample
from segplug_training.provenance import compare, fingerprint, fingerprints, git_state
from segplug_training.rerun import command

CONFIG = {
    "model": {"type": "segkernel.testing.toys:ToySegmentor"},
    "data": {"train": {"type": "command_toys:Squares"}, "workers": 0},
    "optim": {"optimizer": {"type": "AdamW", "lr": 0.01}, "batch_size": 4},
    "schedule": {"iterations": 5},
    "engine": {"type": "CUDAEngine", "device": "cpu", "deterministic": "strict"},
    "seed": 7,
}


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    yield
    torch.use_deterministic_algorithms(False)


def weights(folder):
    return torch.load(folder / "checkpoints" / "iter_0000005.pt", weights_only=False)["state_dict"]


def invoke(*arguments):
    return CliRunner().invoke(command, [*map(str, arguments)])


def test_a_rerun_ends_with_the_same_weights(tmp_path):
    first = tmp_path / "toys" / "first"
    run({**CONFIG, "work_dir": str(first)})
    torch.manual_seed(99)
    done = invoke(first)
    assert done.exception is None, done.output
    assert "no differences" in done.output
    again = weights(tmp_path / "toys" / "first_rerun")
    assert all(torch.equal(value, again[name]) for name, value in weights(first).items())
    assert (tmp_path / "toys" / "first_rerun" / "config.yaml").exists()

    record = json.loads((first / "environment.json").read_text())
    (first / "environment.json").write_text(json.dumps({**record, "torch": "1.0", "git": {"commit": "abc"}}))
    plugins = json.loads((first / "plugins.json").read_text())
    (first / "plugins.json").write_text(json.dumps({**plugins, "seg-kernel": "0.0.1"}))
    locked = (first / "requirements.txt").read_text()
    (first / "requirements.txt").write_text(re.sub("pluggy==.*", "pluggy==0.1", locked))
    done = invoke(first, "+data.train.shift=3", "--check")
    assert done.exit_code == 1
    for words in ("torch: 2", ", was 1.0", "was 0.0.1", "train.sha256: ", "git", ", was 0.1"):
        assert words in done.output
    assert done.output.count("torch: ") == 1
    assert sorted(path.name for path in first.parent.iterdir()) == ["first", "first_rerun"]


def test_a_folder_without_a_run_is_refused(tmp_path):
    assert isinstance(invoke(tmp_path).exception, DataError)


class Files:
    """A data set with files."""

    classes = ("a", "b")

    def __init__(self, folder):
        self.files = [(path.stem, str(path), None) for path in sorted(folder.glob("*.bin"))]

    def __len__(self):
        return len(self.files)


def test_the_fingerprint_of_files_covers_names_sizes_and_some_contents(tmp_path):
    for index in range(40):
        (tmp_path / f"{index:02}.bin").write_bytes(b"1234")
    before = fingerprint(Files(tmp_path))
    assert before == fingerprint(Files(tmp_path))
    assert before["samples"] == 40
    for change in ("00", "39"):  # of which the contents are read
        (tmp_path / f"{change}.bin").write_bytes(b"4321")
        after = fingerprint(Files(tmp_path))
        assert after["sha256"] != before["sha256"]
        before = after
    (tmp_path / "01.bin").write_bytes(b"12345")
    assert fingerprint(Files(tmp_path))["sha256"] != before["sha256"]


def test_the_fingerprint_of_samples_covers_images_and_labels():
    def of(labels, image=0):
        sample = Sample({"seg": LabelMap(np.full((4, 4), labels, np.uint8))}, {}, np.full((4, 4, 3), image, np.uint8))
        return fingerprint(type("Set", (list,), {"classes": ("a",)})([sample]))["sha256"]

    assert len({of(0), of(1), of(0, image=1)}) == 3
    assert of(0) == of(0)


def test_the_state_of_the_code_is_its_commit_and_what_is_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))  # temporary files may be in a repository
    assert git_state(tmp_path) is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "x.py").write_text("1")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    clean = git_state(tmp_path)
    assert clean["changes"] == "none"
    (tmp_path / "x.py").write_text("2")
    assert git_state(tmp_path)["commit"] == clean["commit"]
    assert git_state(tmp_path)["changes"] != "none"


def test_records_are_compared_entry_by_entry():
    assert compare({"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 4, "e": 5}}) == [
        "b.c: 4, was 2",
        "b.d: not there, was 3",
        "b.e: 5, was not there",
    ]
    assert compare({"git": None}, {"git": None}) == []


def test_a_run_without_sets_has_no_fingerprints():
    assert fingerprints(SimpleNamespace(train_set=object())) == {}
