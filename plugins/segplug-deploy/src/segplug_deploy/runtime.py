"""An exported file as a segmentor that only predicts; each format has a subclass.

model = ONNXSegmentor("model.onnx")
logits = model(images)["seg"]
"""

from __future__ import annotations

import importlib.util
import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from segkernel import build
from segkernel.errors import ExportError
from segkernel.interfaces.model import Segmentor, TestConfig, output_of
from segkernel.sample import Targets
from segplug_deploy.graph import Interface, Pixels
from segplug_deploy.outputs import unpack

PREFIX = "segkernel."
"""Prefix of segkernel's keys in the file's metadata; their values are JSON."""
Shape = tuple[int | None, ...]
"""Sizes of the images (N, C, H, W) that a file takes; None is any."""


class ExportedSegmentor(Segmentor):
    """Runs an exported file; takes normalised images and returns torch tensors, as any segmentor does.

    A file that takes uint8 images gets them from the normalised ones, so that all files run through the same loop.

    ``metadata`` was stored at export: classes, palette, preprocess. ``device`` is the device that the file runs on;
    images on another device are copied.

    Args:
        path: The file.
        stored: The metadata in it, JSON by key with `PREFIX`.
        device: Where it runs.
        shape: Sizes of the images that it takes; None takes those in the metadata.

    Raises:
        ExportError: When the metadata is damaged, or was not written by an exporter of this package.
    """

    def __init__(self, path: Path, stored: Mapping[str, str], device: torch.device, shape: Shape | None = None) -> None:
        super().__init__()
        self.path, self.device = path, device
        self.metadata = parse_metadata(stored, path)
        self.outputs = {name: output_of(spec) for name, spec in self.metadata.pop("outputs").items()}
        self.tensors: dict[str, list[str]] = self.metadata.pop("tensors", None) or {
            name: [name] for name in self.outputs
        }
        self.test_cfg: TestConfig = build(TestConfig, self.metadata.get("test_cfg") or {}, path="test_cfg")
        given = self.metadata.get("interface") or {}
        self.interface: Interface = build(Interface, given, path="interface")
        self.shape: Shape = shape or tuple(self.metadata.get("shape") or (None,) * 4)
        self.pixels = Pixels(self.metadata.get("preprocess") or {}) if self.interface.preprocess else None

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the images that it takes; None for any."""
        height, width = self.shape[2:]
        return None if height is None or width is None else (height, width)

    @property
    def names(self) -> list[str]:
        """The names of the tensors that `run` returns."""
        return [name for parts in self.tensors.values() for name in parts]

    def predict(self, images: Tensor) -> dict[str, Any]:
        """Return the raw values of every output for normalised images (N, C, H, W), on their device.

        Raises:
            ExportError: When the file was exported for other sizes, or fails at this one.
        """
        self._check(images)
        given = images.detach().float() if self.pixels is None else self.pixels.restore(images)
        try:
            with torch.autocast(images.device.type, enabled=False):  # the file has the precision of its export
                values = self.run(given.contiguous())
        except Exception as error:  # runtimes have no common base class; a graph that is wrong at this size fails here
            reason = first_line(error)
            shape = tuple(images.shape)
            raise ExportError(f"{self.path}: does not run on images of shape {shape}: {reason}") from error
        found = {name: value.to(images.device) for name, value in zip(self.names, values, strict=True)}
        parts = {name: {part: found[part] for part in self.tensors[name]} for name in self.outputs}
        return {name: unpack(name, output, parts[name]) for name, output in self.outputs.items()}

    @abstractmethod
    def run(self, images: Tensor) -> Sequence[Tensor]:
        """Return the tensors `names` for images as the file takes them."""

    def graph_text(self) -> str:
        """Return the operators of the file, one per line; raises `ExportError` where its format hides them."""
        raise ExportError(f"{self.path}: the operators of such a file cannot be printed")

    def forward(self, images: Tensor) -> Tensor:
        """Return the values of the main output."""
        return self.predict(images)["seg"]

    def train(self, mode: bool = True) -> Self:
        """Return the segmentor, which has no modes."""
        return self

    def loss(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Raise `ExportError`: an exported file cannot be trained."""
        raise ExportError(f"{self.path}: an exported model only predicts; it has no loss and cannot be trained")

    def _check(self, images: Tensor) -> None:
        fits = all(size in (None, given) for size, given in zip(self.shape, images.shape, strict=False))
        if len(self.shape) != images.ndim or not fits:
            taken = "x".join("any" if size is None else str(size) for size in self.shape)
            given = "x".join(map(str, images.shape))
            raise ExportError(f"{self.path}: takes images of {taken}, got {given}; {self._how_to_fit()}")

    def _how_to_fit(self) -> str:
        hint = "export with dynamic: true"
        if self.size is None or self.interface.labels:
            return hint
        windows = f"mode: slide, crop_size: {[*self.size]}, stride: {[*self.size]}"
        return f"{hint}\n    or predict larger images in windows: 'evaluate.test_cfg={{{windows}}}'"


def parse_metadata(stored: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Return the metadata of a file from JSON by key; raise `ExportError` when it is damaged."""
    try:
        metadata = {key[len(PREFIX) :]: json.loads(text) for key, text in stored.items() if key.startswith(PREFIX)}
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path}: its metadata is damaged: {error}") from error
    outputs = metadata.get("outputs")
    described = isinstance(outputs, dict) and all(isinstance(output, dict) for output in outputs.values())
    if not (described and "seg" in metadata["outputs"]):
        raise ExportError(f"{path}: its metadata does not describe its outputs; was it written by another tool?")
    return metadata


def stored_metadata(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return metadata as JSON by key, as files hold it; raise `ExportError` when it is not plain values."""
    try:
        return {PREFIX + key: json.dumps(value) for key, value in metadata.items()}
    except TypeError as error:
        raise ExportError(f"the metadata of an exported file must be plain values: {error}") from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class if it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


@contextmanager
def opening(path: Path, what: str) -> Iterator[None]:
    """Turn exceptions inside the block into `ExportError`: readers raise anything on a damaged file."""
    try:
        yield
    except Exception as error:
        raise ExportError(f"{path}: cannot be opened as {what}: {first_line(error)}") from error


def require(what: str, extra: str, *packages: str) -> None:
    """Raise `ExportError` with the command that installs them, when one of the packages is missing.

    Args:
        what: What needs them, for the message: ``exporting to ONNX``.
        extra: The extra of segplug-deploy that brings them; empty when none does.
        packages: Import names, which are those of pip.
    """
    absent = [name for name in packages if missing(name)]
    if absent:
        wanted = f"'segplug-deploy[{extra}]'" if extra else " ".join(absent)
        raise ExportError(f"{what} needs {', '.join(absent)}\n    pip install {wanted}")


def missing(package: str) -> str | None:
    """Return that a package is not installed; None if it is."""
    return f"{package} is not installed" if importlib.util.find_spec(package) is None else None


def only_file(path: Path) -> Path:
    """Return a path that is a file; raise `ExportError` when it is not."""
    if not path.is_file():
        raise ExportError(f"{path}: no such file")
    return path


def cpu_or_cuda(asked: str | None, path: Path) -> torch.device:
    """Return the device of a runtime that has torch's: ``cpu`` or ``cuda``; None is CUDA if there is one.

    Raises:
        ExportError: When torch does not know the device or has none.
    """
    try:
        device = torch.device(asked or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ExportError(f"{asked!r} is not a device; {path.name} runs on cpu, cuda or cuda:1") from error
    if device.type not in ("cpu", "cuda"):
        raise ExportError(f"{path}: cannot run on {asked}; choose device: cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ExportError(f"{path}: cannot run on {asked}, torch finds no CUDA device; choose device: cpu")
    return device


def cpu_only(asked: str | None, path: Path) -> torch.device:
    """Return the CPU; raise `ExportError` when another device was asked for."""
    if asked not in (None, "cpu"):
        raise ExportError(f"{path}: cannot run on {asked}, its runtime has the CPU only")
    return torch.device("cpu")
