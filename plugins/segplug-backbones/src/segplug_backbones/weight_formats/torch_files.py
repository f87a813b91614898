"""Files of `torch.save` with other objects than plain data, as mmengine writes them. Code in a file is never run."""

from __future__ import annotations

import contextlib
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from segkernel.checkpoint import LOADING, SUFFIXES, read_torch
from segkernel.errors import CheckpointError
from segkernel.interfaces.model import WeightFormat
from segplug_backbones.weight_formats.inert import OBJECTS, stand_ins, to_plain
from segplug_backbones.weight_formats.layouts import arrange


class TorchCheckpoint(WeightFormat):
    """Checkpoints of MMSegmentation, mmengine and others, without message histories and other objects."""

    suffixes: ClassVar = SUFFIXES

    def read(self, path: Path) -> Any:
        try:
            wrong = _other_kind(path)
            if not wrong:
                with LOADING, _stand_ins():
                    return to_plain(read_torch(path))
        except Exception as error:  # a damaged file can make the unpickler fail in any way
            raise CheckpointError(f"{path}: {_why_unreadable(error)}") from error
        raise CheckpointError(f"{path}: is {wrong}")

    def arrange(self, content: Mapping[str, Any]) -> Mapping[str, Any]:
        return arrange(content)


_STAND_INS: list[Any] = list(stand_ins(OBJECTS).values())


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    """Let torch unpickle the stand-ins in place of the classes they are named after; process-wide: hold `LOADING`."""
    if hasattr(torch.serialization, "safe_globals"):  # since torch 2.5
        with torch.serialization.safe_globals(_STAND_INS):
            yield
        return
    before = list(torch.serialization.get_safe_globals())  # torch 2.4 returns its internal list, which it extends
    torch.serialization.add_safe_globals(_STAND_INS)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _other_kind(path: Path) -> str:
    """Return what the file is if its first bytes show that it is not a checkpoint, else an empty string."""
    with open(path, "rb") as file:
        start = file.read(512).lstrip().lower()
    if not start:
        return "empty; the download or the copy was cut off"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page, not weights; the download gave an error or login page"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not weights; fetch the file with 'git lfs pull'"
    if tarfile.is_tarfile(path):
        return "a tar archive, not weights; unpack it, or save again with a newer torch"
    return ""


def _why_unreadable(error: Exception) -> str:
    text = str(error)
    asked = re.search(r"GLOBAL ['\"]?([\w.]+)", text)
    if asked:
        return (
            f"refused: it asks for {asked.group(1)!r}, which is code and not weights; nothing in it was run\n"
            "    where the file was made, save the weights alone: torch.save(model.state_dict(), 'weights.pth')"
        )
    if isinstance(error, PermissionError):
        return f"cannot be read: {error.strerror}"
    if "TorchScript" in text:
        return "is a TorchScript program, not weights; save its state_dict() instead"
    if "operand" in text:
        return "was not written by torch.save as a checkpoint; nothing in it was run"
    damaged = ("central directory", "zip archive", "magic number", "ran out of input", "invalid load key", "EOF")
    if isinstance(error, EOFError | LookupError | OSError) or any(words in text for words in damaged):
        return "is damaged or not a checkpoint: truncated, or another kind of file; copy or download it again"
    return f"cannot be read as a checkpoint: {type(error).__name__}: {text.splitlines()[0] if text else 'no reason'}"
