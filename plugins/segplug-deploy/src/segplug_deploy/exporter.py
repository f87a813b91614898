"""`VerifiedExporter`: the base of all exporters here, which writes no file whose outputs differ from the model's."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import shutil
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from typing_extensions import TypedDict, Unpack

from segkernel import Catalog
from segkernel.annotations import NonNegative, PositiveInt, Probability
from segkernel.errors import ExportError
from segkernel.interfaces.model import Exporter, Segmentor, TestConfig
from segplug_deploy.certificate import Certificate, Evidence, certify, installed, weights_hash
from segplug_deploy.fusion import fused_copy
from segplug_deploy.graph import Graph, Interface
from segplug_deploy.runtime import ExportedSegmentor, Shape, stored_metadata

log = logging.getLogger(__name__)
Dynamic = bool | Literal["batch", "size"]
OPEN_BATCH: tuple[Dynamic, ...] = (True, "batch")
"""The values of ``dynamic`` with which a file takes any number of images."""
OPEN_SIZE: tuple[Dynamic, ...] = (True, "size")
"""Those with which it takes images of any size."""
Precision = Literal["float32", "float16", "int8"]
TOLERANCES: dict[str, tuple[float, float, float]] = {
    "float32": (1e-3, 0.999, 0.1),
    "float16": (2e-2, 0.99, 0.5),
    "int8": (float("inf"), 0.9, 2.0),
}
"""By precision: the largest relative difference of the logits, the least share of equal labels, and the largest loss of
mIoU in points."""


class ExporterArguments(TypedDict, total=False):
    """Arguments of every `VerifiedExporter`."""

    dynamic: Dynamic | None
    with_preprocess: bool
    with_labels: bool
    check_sizes: Sequence[tuple[PositiveInt, PositiveInt]]
    tolerance: NonNegative | None
    agreement: Probability | None
    miou_loss: NonNegative | None
    verify: bool
    device: str | None


class VerifiedExporter(Exporter):
    """Writes a file under a temporary name, runs it, compares it with the model, and only then moves it to its place.

    Beside the file is its certificate, ``NAME.json``: what was compared on which images, with differences, mIoU where
    there are labels, and latency of both.

    Args:
        dynamic: ``True`` leaves batch, height and width dynamic, ``"batch"`` the batch only, ``"size"`` height and
            width only, ``False`` fixes all three to the example's; None is True where the format has dynamic sizes.
        with_preprocess: Whether the file takes uint8 RGB images (N, H, W, C) and normalises them; else it takes
            normalised images (N, C, H, W).
        with_labels: Whether the file resizes the logits to the size of the images and returns class ids (N, H, W),
            uint8 where they fit; else it returns logits.
        check_sizes: Further (height, width) at which a file with dynamic sizes is verified; when empty, two are
            chosen around the example's.
        tolerance: Largest difference of the logits, as a share of the largest one; None is 0.001, for float16 0.02, for
            int8 any.
        agreement: Least share of pixels with the same label; None is 0.999, for float16 0.99, for int8 0.9.
        miou_loss: Largest loss of mIoU in points, where there are labels; None is 0.1, for float16 0.5, for int8 2.
        verify: Whether to run the file; False writes it unverified, for a machine that cannot run the format.
        device: Device on which `load` runs a file; None is the one passed to `load`, or the best that is supported.
    """

    precision: Precision = "float32"
    runs_code: ClassVar[bool] = False
    """Whether a file can run any code when it is opened, so that it must be trusted."""
    usual_dynamic: ClassVar[Dynamic] = True
    """What ``dynamic: null`` means."""
    runs_on: ClassVar[str] = "cpu"
    """The device to verify files on."""

    def __init__(
        self,
        dynamic: Dynamic | None = None,
        with_preprocess: bool = False,
        with_labels: bool = False,
        check_sizes: Sequence[tuple[PositiveInt, PositiveInt]] = (),
        tolerance: NonNegative | None = None,
        agreement: Probability | None = None,
        miou_loss: NonNegative | None = None,
        verify: bool = True,
        device: str | None = None,
    ) -> None:
        self.dynamic: Dynamic = self.usual_dynamic if dynamic is None else dynamic
        self.check_sizes, self.verify = tuple(check_sizes), verify
        self.interface = Interface(with_preprocess, with_labels)
        self.limits = tolerance, agreement, miou_loss
        self.device = device

    # ------------------------------------------------------------ what a format implements

    def require(self) -> None:
        """Raise `ExportError` when a package is missing that writing needs."""

    @abstractmethod
    def write(self, graph: Graph, path: Path, images: Tensor, stored: Mapping[str, str], evidence: Evidence) -> None:
        """Write the graph.

        Args:
            graph: In evaluation mode, on the CPU.
            path: In an empty folder, whose files are all moved to their place.
            images: What the graph takes; with dynamic sizes two of different height and width.
            stored: Metadata to store in the file, JSON by key.
            evidence: Images to calibrate with.

        Raises:
            ExportError: When the model cannot be exported; other exceptions become one.
        """

    @abstractmethod
    def open(self, path: Path, device: str | None) -> ExportedSegmentor:
        """Return a file as a segmentor; raises `ExportError`."""

    # ------------------------------------------------------------ the contract

    def load(self, path: str | Path, device: str | None = None) -> ExportedSegmentor:
        if self.runs_code and not Catalog.current().trusted:
            raise ExportError(
                f"{path}: such a file holds code, which was not run\n"
                "    if you trust the source of the file: --trust, or trust=True"
            )
        return self.open(Path(path), self.device or device)

    def export(
        self,
        segmentor: Segmentor,
        path: str | Path,
        example: Tensor,
        metadata: Mapping[str, Any] | None = None,
        evidence: Evidence | None = None,
    ) -> str:
        """Write ``path`` and its certificate; return the certificate in one line. The segmentor is not modified.

        Args:
            segmentor: The model.
            path: The file.
            example: A normalised image (1, C, H, W).
            metadata: Plain values to store in the file.
            evidence: Further images, with labels, to verify on and to calibrate with.

        Raises:
            ExportError: When the model cannot be exported or the file's outputs differ; an existing file at ``path``
                is then kept.
        """
        self.require()
        path, metadata = Path(path), dict(metadata or {})
        evidence = evidence or Evidence()
        model = copy.deepcopy(segmentor).cpu().eval()
        graph = Graph(model, self.interface, metadata.get("preprocess")).eval()
        example = self._snap(graph, example.detach().float().cpu())
        graph.name_tensors(example)
        stored = stored_metadata({**metadata, **self._described(model, graph, example)})
        with _temporary_folder(path) as temporary:
            self._write(fused_copy(graph), temporary / path.name, example, stored, evidence)
            certificate = self._certify(graph, temporary / path.name, example, evidence)
            certificate.write(temporary / f"{path.name}.json", path.name)
            _move(temporary, path)
        return certificate.line()

    def _certify(self, graph: Graph, file: Path, example: Tensor, evidence: Evidence) -> Certificate:
        about = {"format": type(self).__name__, "precision": self.precision}
        if not self.verify:
            return Certificate({**about, "versions": installed()}, evidence.what)
        log.info("comparing the outputs of the file with those of the model")
        exported = self.open(file, self.device or self.runs_on)
        usual = TOLERANCES[self.precision]
        limits = [default if given is None else given for given, default in zip(self.limits, usual)]
        batches = self._batches(graph, example, evidence)
        return certify(graph, exported, batches, evidence, about, limits)

    def _snap(self, graph: Graph, images: Tensor) -> Tensor:
        """Return normalised images as they are after a file that takes uint8 has received them."""
        return graph.pixels.normalise(graph.pixels.restore(images)) if self.interface.preprocess else images

    def _write(self, graph: Graph, path: Path, example: Tensor, stored: Mapping[str, str], evidence: Evidence) -> None:
        log.info("tracing the model on an image of %d x %d", *example.shape[-2:])
        normalised = for_tracing(example, self.dynamic, graph.pixels.divisor)
        images = graph.pixels.restore(normalised) if self.interface.preprocess else normalised
        try:
            with torch.no_grad():
                graph(images)  # fills caches of what is the same for all images, such as class embeddings
                self.write(graph, path, images, stored, evidence)
        except (ExportError, OSError):
            raise
        except Exception as error:  # exporters can stop with any exception of a compiler
            raise ExportError(self._why(error)) from error

    def _why(self, error: Exception) -> str:
        lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
        reason = "\n    ".join(lines[:6]) or type(error).__name__
        hint = "\n    a graph with fixed sizes may work: dynamic: false" if self.dynamic else ""
        return f"{type(self).__name__}: torch cannot export this model: {reason}{hint}"

    def _described(self, model: Segmentor, graph: Graph, example: Tensor) -> dict[str, Any]:
        """Return what the file states about itself."""
        views = {"mode": "whole"} if self.interface.labels else dict(getattr(model, "test_cfg", None) or {})
        # A model's may hold more, for its head.
        test_cfg = {key: value for key, value in views.items() if key in TestConfig.__annotations__}
        return {
            "outputs": {name: output.config() for name, output in graph.outputs.items()},
            "tensors": graph.tensors,
            "test_cfg": test_cfg,
            "interface": {"preprocess": self.interface.preprocess, "labels": self.interface.labels},
            "shape": list(self._shape(example)),
            "precision": self.precision,
            "weights_sha256": weights_hash(model),
            "torch": str(torch.__version__),
        }

    def _shape(self, example: Tensor) -> Shape:
        count, channels, height, width = example.shape
        sides = (None, None) if self.dynamic in OPEN_SIZE else (height, width)
        return (None if self.dynamic in OPEN_BATCH else count), channels, *sides

    def _batches(self, graph: Graph, example: Tensor, evidence: Evidence) -> Iterator[Tensor]:
        """Yield normalised images that the file supports: the example, and batches of two and three at other sizes."""
        yield example
        if not self.dynamic:
            return
        images = [example, *evidence.images(2, example.shape[-2:]), example.flip(-1), example.flip(-2)]
        if self.dynamic == "batch":
            yield self._snap(graph, torch.cat(images[:2]))
            return
        for count, size in enumerate(self.check_sizes or _other_sizes(graph, example), 2):
            resized = [interpolate(each, size=tuple(size), mode="bilinear", align_corners=False) for each in images]
            yield self._snap(graph, torch.cat(resized[: min(count, 3) if self.dynamic in OPEN_BATCH else 1]))


class FormatExporter(VerifiedExporter):
    """A `VerifiedExporter` without arguments of its own."""

    def __init__(self, **kwargs: Unpack[ExporterArguments]) -> None:
        super().__init__(**kwargs)


def conformance_exceptions(reason: str | None) -> dict[str, str]:
    """Return what the conformance kit is told of a format that this machine cannot write, or of none."""
    return {"round-trip": reason} if reason else {}


def dynamic_shapes(dynamic: Dynamic, interface: Interface) -> tuple[dict[int, Any], ...] | None:
    """Return torch.export's description of the dynamic axes of a graph's images."""
    if not dynamic:
        return None
    batch, sides = (0,) if dynamic in OPEN_BATCH else (), (1, 2) if interface.preprocess else (2, 3)
    return (dict.fromkeys((*batch, *(sides if dynamic in OPEN_SIZE else ())), torch.export.Dim.DYNAMIC),)


def for_tracing(example: Tensor, dynamic: Dynamic, divisor: int = 1) -> Tensor:
    """Return the images to trace a graph with: torch specialises a batch of 1, equal sizes, and no padding."""
    if not dynamic:
        return example
    images = torch.cat([example[:1], example[:1]]) if dynamic in OPEN_BATCH else example
    if dynamic == "batch":
        return images
    if images.shape[2] == images.shape[3]:
        images = interpolate(images, size=(images.shape[2], images.shape[3] + 32), mode="nearest")
    return images[..., :-1, :-3].contiguous() if divisor > 3 else images


def _other_sizes(model: Graph, example: Tensor) -> list[tuple[int, int]]:
    height, width = example.shape[-2:]
    rounded = (max(_round(height * 0.75), 32), _round(width * 1.25))
    odd = (height + 13, max(width - 7, 33))
    with torch.no_grad():
        try:
            model.predict(interpolate(example[:1], size=odd))
        except Exception:  # the torch model does not support odd sizes
            odd = (_round(height * 1.5), max(_round(width * 0.75), 32))
    return [rounded, odd]


def _round(length: float) -> int:
    return max(round(length / 32), 1) * 32


@contextlib.contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder on the same file system, from which finished files can be moved."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        yield temporary
    except ExportError as error:
        raise ExportError(str(error).replace(str(temporary / path.name), str(path))) from error.__cause__
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move(folder: Path, path: Path) -> None:
    """Move the files of a folder next to ``path``, it last, so that it is only there when all others are."""
    for file in sorted(folder.iterdir(), key=lambda file: file.name == path.name):
        target = path.with_name(file.name)
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(file, target)
