"""The certificate of an exported file: what it was compared on, and how far it differs from the model."""

from __future__ import annotations

import hashlib
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from segkernel.errors import ExportError
from segkernel.image import opencv
from segkernel.labels import IGNORE
from segplug_deploy.graph import Graph
from segplug_deploy.proof import Proof, prove, table
from segplug_deploy.runtime import ExportedSegmentor

Size = tuple[int, int]
Predict = Callable[[Any, Size | None], np.ndarray]
"""An image of the evidence, and the (height, width) to which it is resized, None for its own, to labels (H, W)."""
PACKAGES = (
    "seg-kernel",
    "segplug-deploy",
    "torch",
    "onnx",
    "onnxruntime",
    "openvino",
    "executorch",
    "coremltools",
    "tensorrt",
)


@dataclass
class Evidence:
    """Images to verify a file on, with labels, and images to calibrate with; all may be missing.

    Args:
        what: Description of the images, for the certificate.
        sources: Images.
        truths: The labels (H, W) of each, or None.
        example: An image as normalised input (1, C, H, W).
        predict: The model's labels of an image.
        predictor: From the exported file to its labels of an image.
        calibration: Images to calibrate int8 with.
    """

    what: str = "one example"
    sources: Sequence[Any] = ()
    truths: Sequence[np.ndarray | None] = ()
    example: Callable[[Any], Tensor] | None = None
    predict: Predict | None = None
    predictor: Callable[[Path], Predict] | None = None
    calibration: Sequence[Any] = ()
    classes: Sequence[str] = ()

    def images(self, count: int, size: Sequence[int]) -> Iterator[Tensor]:
        """Yield the images after the first, at most ``count``, as normalised input of a size in pixels."""
        return self._prepared(self.sources[1 : count + 1], size)

    def calibration_images(self, size: Sequence[int]) -> Iterator[Tensor]:
        """Yield the images to calibrate with, as normalised input of a size in pixels."""
        return self._prepared(self.calibration, size)

    def _prepared(self, sources: Iterable[Any], size: Sequence[int]) -> Iterator[Tensor]:
        for source in sources if self.example else ():
            images = self.example(source).detach().float().cpu()  # type: ignore[misc]
            yield interpolate(images, size=tuple(size), mode="bilinear", align_corners=False)


@dataclass
class Certificate:
    """What was measured of a file.

    Args:
        about: Format, precision, hash of the weights, versions.
        images: Description of the images.
        proofs: Differences of each output on each batch; empty for a file that was not verified.
        limits: The largest relative difference, the least agreement and the largest loss of mIoU allowed.
        latency: Milliseconds of the model and of the file for one batch, medians.
        scores: ``images``, ``model`` and ``file`` (mIoU in percent), ``classes`` (IoU of both by class); empty without
            labels.
    """

    about: Mapping[str, Any]
    images: str
    proofs: Sequence[Proof] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    latency: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """Return the result in one line."""
        if not self.proofs:
            return "not verified: the file was not run"
        worst = max(self.proofs, key=lambda proof: proof.relative)
        parts = [
            f"verified on {self.images}, {counted(len({proof.shape for proof in self.proofs}), 'size')}: "
            f"largest difference {worst.difference:.1e} ({worst.relative:.1e} of the largest logit)",
            f"same labels {min(proof.agreement for proof in self.proofs):.3%}",
        ]
        if self.scores:
            parts.append(f"mIoU {self.scores['model']:.2f} -> {self.scores['file']:.2f}")
        return ", ".join([*parts, f"{self.latency['model_ms']:.1f} ms -> {self.latency['file_ms']:.1f} ms"])

    def write(self, path: Path, file: str) -> None:
        """Write it as JSON."""
        content = {"file": file, "verified": bool(self.proofs), **asdict(self)}
        content["limits"] = {key: value for key, value in self.limits.items() if value != float("inf")}
        path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def certify(
    graph: Graph,
    exported: ExportedSegmentor,
    batches: Iterable[Tensor],
    evidence: Evidence,
    about: Mapping[str, Any],
    limits: Sequence[float],
) -> Certificate:
    """Compare a file with the model.

    Args:
        graph: The exported module, in torch.
        exported: The file.
        batches: Normalised images (N, C, H, W).
        evidence: Images with labels, for the mIoU.
        about: Entries for the certificate.
        limits: As in `Certificate`, in this order.

    Raises:
        ExportError: When a difference is out of bounds.
    """
    tolerance, agreement, miou_loss = limits
    batches = list(batches)
    proofs = prove(graph, exported, batches, tolerance, agreement)
    scores = _scores(exported, evidence)
    if scores and not scores["model"] - scores["file"] <= miou_loss:
        lost = f"{scores['model'] - scores['file']:.2f} points of mIoU, {scores['model']:.2f} to {scores['file']:.2f}"
        raise ExportError(f"the file loses {lost}, on {evidence.what}; miou_loss allows {miou_loss:g}\n{table(proofs)}")
    bounds = {"tolerance": tolerance, "agreement": agreement, "miou_loss": miou_loss}
    about = {
        **about,
        "weights_sha256": exported.metadata.get("weights_sha256"),
        "device": str(exported.device),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": installed(),
    }
    return Certificate(about, evidence.what, proofs, bounds, _latency(graph, exported, batches[0]), scores)


def counted(count: int, what: str) -> str:
    """Return a number with its noun: ``1 image``, ``2 images``."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def installed() -> dict[str, str]:
    """Return the versions of what an exported file depends on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of a model's tensors and their names, which does not depend on the file they came from."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# ---------------------------------------------------------------- latency


@torch.no_grad()
def _latency(graph: Graph, exported: ExportedSegmentor, images: Tensor) -> dict[str, Any]:
    return {
        "images": list(images.shape),
        "model_ms": median_ms(lambda: graph.predict(images)),
        "file_ms": median_ms(lambda: exported.predict(images)),
    }


def median_ms(run: Callable[[], Any], repeats: int = 5, seconds: float = 3) -> float:
    """Return the median time of a call in milliseconds: ``repeats`` calls, fewer when they take long."""
    times: list[float] = []
    while len(times) < repeats and sum(times) < seconds:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000


# ---------------------------------------------------------------- mIoU


def _scores(exported: ExportedSegmentor, evidence: Evidence) -> dict[str, Any]:
    """Return the IoU of the model and of the file on the labelled images of the evidence; empty without any."""
    labelled = [(source, truth) for source, truth in zip(evidence.sources, evidence.truths) if truth is not None]
    if not labelled or evidence.predict is None or evidence.predictor is None:
        return {}
    both = {"model": evidence.predict, "file": evidence.predictor(exported.path)}
    count, size = len(evidence.classes), exported.size
    ious = {}
    for name, predict in both.items():
        pairs = ((predict(source, size), _nearest(truth, size)) for source, truth in labelled)
        counts = (confusion(labels, truth, count) for labels, truth in pairs)
        ious[name] = iou(sum(counts, np.zeros((count, count))))
    means = {name: float(np.nanmean(values)) if np.isfinite(values).any() else 0.0 for name, values in ious.items()}
    classes = {
        name: {kind: _rounded(values[index]) for kind, values in ious.items()}
        for index, name in enumerate(evidence.classes)
    }
    return {"images": len(labelled), **means, "classes": classes}


def _nearest(labels: np.ndarray, size: Size | None) -> np.ndarray:
    return labels if size is None else opencv().resize(labels, size[::-1], interpolation=opencv().INTER_NEAREST)


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 3)


def confusion(labels: np.ndarray, truth: np.ndarray, count: int) -> np.ndarray:
    """Return the pixels (count, count) by true and by predicted class; those of the ignored label are left out."""
    known = (truth != IGNORE) & (truth < count)
    pairs = truth[known].astype(np.int64) * count + labels[known].astype(np.int64)
    return np.bincount(pairs, minlength=count * count).reshape(count, count)


def iou(matrix: np.ndarray) -> np.ndarray:
    """Return the IoU of each class in percent from `confusion`; nan for a class that does not occur."""
    hits = np.diag(matrix)
    union = matrix.sum(0) + matrix.sum(1) - hits
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(union > 0, 100 * hits / union, np.nan)
