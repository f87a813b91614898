"""Files that run code when unpickled: readers of weights must refuse them.

path = write_hostile("program", folder / "a.pth")
with runs_nothing(folder), pytest.raises(CheckpointError):
    checkpoint.load(path)
"""

from __future__ import annotations

import os
import pickle
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segkernel.testing.core import require

PROOF = "ran"


class Payload:
    """Creates a file next to the one it is unpickled from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.folder / PROOF}'",)


class Program(nn.Module):
    """Draws a random number when it is loaded, as an example of code in a TorchScript archive."""

    @torch.jit.export
    def __getstate__(self) -> bool:
        return self.training

    @torch.jit.export
    def __setstate__(self, training: bool) -> None:
        self.training = training and bool(torch.rand(1) < 2)


@contextmanager
def runs_nothing(folder: Path) -> Iterator[None]:
    """Raise `CheckFailed` when the block runs code from a hostile file of the folder."""
    before = torch.get_rng_state()
    yield
    idle = torch.equal(before, torch.get_rng_state()) and not (folder / PROOF).exists()
    require(idle, "code in the file was run")


def write_hostile(kind: str, path: Path) -> Path:
    """Write a file that is one of `HOSTILE`; return its path."""
    HOSTILE[kind](path)
    return path


def _saved(path: Path, zipped: bool) -> None:
    content = {"state_dict": {"w": torch.ones(1)}, "meta": Payload(path.parent)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)


def _tar(path: Path) -> None:
    part = path.with_name("part")
    part.write_bytes(pickle.dumps(Payload(path.parent), protocol=2))
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.add(part, name)


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "zip": lambda path: _saved(path, zipped=True),
    "legacy": lambda path: _saved(path, zipped=False),
    "bare pickle": lambda path: path.write_bytes(pickle.dumps(Payload(path.parent), protocol=2)),
    "newer pickle": lambda path: path.write_bytes(pickle.dumps(Payload(path.parent), protocol=4)),
    "program": lambda path: torch.jit.save(torch.jit.script(Program()), path),
    "tar": _tar,
}
"""Kind of file to the function that writes it."""
