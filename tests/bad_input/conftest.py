"""A tiny project in an empty folder, and the command line to use it with."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from segplug_datasets import image

sys.path[:0] = map(str, Path(__file__).parents[:2])  # for the fuzzing scripts and `forked`
from forked import Forked  # noqa: E402

SIZE = (32, 48)
CLASSES = ["ground", "sky", "wall"]


@pytest.fixture(autouse=True, scope="session")
def needs() -> None:
    """Skip these tests without torch, or without the plugins of the model and the data."""
    for package in ("torch", "segplug_backbones", "segplug_heads", "segplug_datasets"):
        pytest.importorskip(package)


@dataclass
class Outcome:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    def must_fail(self, code: int, *parts: str) -> str:
        """Check for the exit code, and one message without traceback that contains all ``parts``; return it."""
        assert self.code == code, self.out + self.err
        begins = [line for line in self.err.splitlines() if line.startswith(("Error:", "Traceback"))]
        assert len(begins) == 1, self.err
        assert begins[0].startswith("Error:"), self.err
        message = self.err[self.err.index("Error:") :]
        for part in parts:
            assert part in message, message
        return message


Command = Callable[..., Outcome]


@pytest.fixture
def seg_kernel(capfd: pytest.CaptureFixture[str]) -> Command:
    """Run the command line in this process; an uncaught exception fails the test."""
    from segkernel.cli import main

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        done = capfd.readouterr()
        return Outcome(int(caught.value.code or 0), done.out, done.err)

    return run


@pytest.fixture
def start(project: Path) -> Callable[..., Forked]:
    """Start the command line in a separate process, in the project's folder."""

    def begin(*arguments: object, before: Callable[[], object] | None = None) -> Forked:
        return Forked(arguments, project, before=before)

    return begin


@pytest.fixture
def finish() -> Callable[[Forked], Outcome]:
    """Wait for a process; the timeout is only for tests that hang."""

    def wait(process: Forked) -> Outcome:
        return Outcome(process.wait(), process.out(), process.err())

    return wait


@pytest.fixture
def run_limited(project: Path) -> Callable[..., Outcome]:
    """Run the command line with a limit of ``size`` bytes per file, which fails like a full disk."""
    resource = pytest.importorskip("resource", reason="limits are POSIX")

    def run(size: int, *arguments: str) -> Outcome:
        limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))
        command = [sys.executable, "-m", "segkernel", *arguments]
        done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, timeout=300)
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with four images and masks and ``tiny.yaml``, a config that trains on them."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for index in range(4):
        write_pair(folder, str(index))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny_config(), sort_keys=False))
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a finished run of ``tiny.yaml``."""
    from segkernel import run

    folder = tmp_path_factory.mktemp("finished")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for index in range(4):
            write_pair(folder, str(index))
        run(tiny_config())
    finally:
        os.chdir(before)
    return folder / "run"


@pytest.fixture
def trained(project: Path, finished: Path) -> Path:
    """A checkpoint, ``run/checkpoints/iter_0000002.pt``, in the project."""
    shutil.copytree(finished, project / "run")
    return Path("run/checkpoints/iter_0000002.pt")


@pytest.fixture
def tiny() -> SimpleNamespace:
    """Helpers to create more input."""
    return SimpleNamespace(config=tiny_config, write_pair=write_pair, size=SIZE, classes=CLASSES)


def write_pair(folder: Path, name: str, size: tuple[int, int] = SIZE) -> None:
    """Write an image of noise and a mask of the three classes."""
    rng = np.random.default_rng(len(name))
    image.write(folder / "images" / f"{name}.png", rng.integers(0, 256, (*size, 3), np.uint8))
    image.write_mask(folder / "masks" / f"{name}.png", rng.integers(0, len(CLASSES), size, np.uint8))


def tiny_config() -> dict[str, Any]:
    """Return a config whose run takes less than a few seconds."""
    data = {"type": "FolderDataset", "images": "images", "masks": "masks", "classes": CLASSES}
    return {
        "model": {
            "type": "EncoderDecoder",
            "backbone": {"type": "ResNetV1c", "depth": 18, "base_channels": 4, "stem_channels": 4},
            "decode_head": {
                "type": "FCNHead", "in_channels": 32, "in_index": 3, "channels": 4, "num_convs": 1,
                "num_classes": 3, "norm_cfg": {"type": "BN"}, "loss_decode": {"type": "CrossEntropyLoss"},
            },
        },
        "data": {"train": dict(data), "val": dict(data), "test": dict(data), "train_transforms": [], "workers": 0},
        "optim": {"optimizer": {"type": "SGD", "lr": 0.01}, "batch_size": 2},
        "schedule": {"iterations": 2, "val_interval": 2},
        "engine": {"type": "LocalEngine", "device": "cpu"},
        "evaluate": {"metrics": [{"type": "IoUMetric"}]},
        "hooks": [{"type": "PicturesHook", "count": 0}],
        "work_dir": "run",
    }  # fmt: skip
