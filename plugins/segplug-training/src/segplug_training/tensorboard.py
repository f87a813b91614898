"""`TensorBoardHook`: writes curves of a run and images of every validation.

    hooks:
      - type: TensorBoardHook

Events go to ``tensorboard/`` in the run directory; the run logs the command that shows them.
"""

from __future__ import annotations

import logging
import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from segkernel.annotations import NonNegativeInt, PositiveInt
from segkernel.config.show import to_yaml
from segkernel.errors import SegKernelError, UsageError
from segkernel.hookspecs import Priority, hookimpl

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from segkernel.hookspecs import Run
    from segkernel.labels import Color
    from segkernel.sample import Batch, Prediction, Targets

log = logging.getLogger("segkernel.tensorboard")  # below the kernel's logger, so that it reaches the run's log file

FOLDER = "tensorboard"


class TensorBoardHook:
    """Write every record of a training run as TensorBoard scalars, and predictions as images.

    Tags are ``train/loss``, ``train/lr``, ``train/images_per_second`` ...; ``val/mIoU`` and, one per class,
    ``val_IoU/road``; and ``test/mIoU``. Images are ``val_pictures/NAME`` and ``test_pictures/NAME``: input,
    ground truth and prediction from left to right. ``config`` is the config as text; the settings that runs are
    compared by and the last metrics become its hyper-parameters. A resumed run hides events after the iteration it
    resumes from.

    Args:
        interval: The first and then every ``interval``-th validated or tested image is drawn, the same ones every
            time.
        pictures: Maximum number of images per validation or test; 0 draws none.
        graph: Also write the graph of the model, traced in the first iteration.

    Raises:
        UsageError: When ``interval`` is below 1 or ``pictures`` below 0.
    """

    priority = Priority.VERY_LOW

    def __init__(self, interval: PositiveInt = 50, pictures: NonNegativeInt = 20, graph: bool = False) -> None:
        if pictures < 0 or interval < 1:
            raise UsageError(f"TensorBoardHook: pictures {pictures} and interval {interval}: need at least 0 and 1")
        self.interval, self.pictures, self.graph = interval, pictures, graph
        self._writer: SummaryWriter | None = None
        self._seen = 0

    @hookimpl
    def before_train(self, run: Run) -> None:
        if not run.is_main:
            return
        folder = run.work_dir / FOLDER
        self._writer = _open(folder, purge_step=run.iteration + 1)
        log.info("to show the curves: tensorboard --logdir %s", shlex.quote(str(folder)))
        if run.config:
            text = "".join(f"    {line}\n" for line in to_yaml(dict(run.config)).splitlines())
            self._writer.add_text("config", text, run.iteration)

    @hookimpl
    def before_train_iteration(self, run: Run, batches: list[Batch]) -> None:
        if self.graph and self._writer is not None:
            self.graph = False
            _add_graph(self._writer, run, batches[0])

    @hookimpl
    def on_record(self, record: Mapping[str, Any]) -> None:
        if self._writer is None:  # another rank, or a test without training
            return
        for key, value in record.items():
            if key not in ("kind", "iteration") and isinstance(value, int | float):
                self._writer.add_scalar(_tag(record["kind"], key), value, record["iteration"])
        self._writer.flush()

    @hookimpl
    def before_validation(self) -> None:
        self._seen = 0

    @hookimpl
    def before_test(self) -> None:
        self._seen = 0

    @hookimpl
    def after_prediction(self, run: Run, prediction: Prediction, target: Targets) -> None:
        number, rest = divmod(self._seen, self.interval)
        self._seen += 1
        if self._writer is not None and rest == 0 and number < self.pictures:
            tag = f"{run.mode}_pictures/{prediction.meta['name']}"
            self._writer.add_image(tag, _comparison(run, prediction, target), run.iteration, dataformats="HWC")

    @hookimpl
    def after_run(self, run: Run) -> None:
        if self._writer is not None:
            self._add_hyperparameters(self._writer, run)
            self._writer.close()
            self._writer = None

    def _add_hyperparameters(self, writer: SummaryWriter, run: Run) -> None:
        from torch.utils.tensorboard.summary import hparams

        metrics = {f"final/{name}": value for name, value in run.metrics.items() if "." not in name}
        settings = {"seed": run.seed, "iterations": run.max_iterations, **hyperparameters(run.config)}
        for summary in hparams(settings, metrics):
            writer.file_writer.add_summary(summary)  # type: ignore[attr-defined]
        for name, value in metrics.items():
            writer.add_scalar(name, value, run.iteration)


def hyperparameters(config: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """Return the settings that runs are compared by, by dotted key: of model, optimiser, schedule and engine."""
    found: dict[str, str | int | float | bool] = {}

    def collect(value: Any, key: str) -> None:
        if isinstance(value, Mapping):
            for name, entry in value.items():
                collect(entry, f"{key}.{name}" if key else str(name))
        elif isinstance(value, list | tuple):
            for index, entry in enumerate(value):
                collect(entry, f"{key}[{index}]")
        elif isinstance(value, str | int | float | bool):
            found[key] = value

    collect({name: config[name] for name in ("model", "optim", "schedule", "engine") if name in config}, "")
    return found


def _add_graph(writer: SummaryWriter, run: Run, batch: Batch) -> None:
    """Trace the model on one image; tracing failures are logged, not raised."""
    model, image = run.model, batch.images[:1].to(run.engine.device).float()
    was_training = model.training
    try:
        model.eval()
        with torch.random.fork_rng(), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer warns about Python values
            writer.add_graph(model, image)
    except Exception as error:  # the tracer raises many types
        log.warning("TensorBoardHook: the graph of the model is skipped: %s", str(error).splitlines()[0])
    finally:
        model.train(was_training)


def _open(folder: Path, purge_step: int) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SegKernelError(f"TensorBoard cannot be loaded: {error}\n    pip install tensorboard") from error
    try:
        return SummaryWriter(str(folder), purge_step=purge_step)
    except OSError as error:
        raise SegKernelError(f"{folder}: cannot write TensorBoard events: {error.strerror or error}") from error


def _tag(kind: str, key: str) -> str:
    """Return ``val/mIoU`` for mIoU and ``val_IoU/road`` for IoU.road: the part before the slash becomes a group."""
    group, _, name = key.partition(".")
    return f"{kind}_{group}/{name}" if name and kind != "train" else f"{kind}/{key}"


def _comparison(run: Run, prediction: Prediction, target: Targets) -> np.ndarray:
    """Return the image, the ground truth and the prediction side by side, (H, W', 3) uint8 RGB."""
    part = run.val_set if run.mode == "val" else run.test_set
    image = part.dataset[prediction.meta["index"]].image  # type: ignore[union-attr]
    output: Any = run.model.outputs["seg"]
    if hasattr(output, "draw"):
        fields = [target, prediction["seg"]] if target.fields else [prediction["seg"]]
        drawn = [output.draw(shown(image), each, run.labels.classes, run.labels.palette, 0.5) for each in fields]
        return np.concatenate([shown(image), *drawn], axis=1)
    maps = [prediction.labels] if "seg" not in target else [target["seg"], prediction.labels]
    panels = [painted(each.cpu().numpy(), run.labels.palette) for each in maps]
    return np.concatenate([shown(image), *panels], axis=1)


def painted(values: np.ndarray, palette: Sequence[Color]) -> np.ndarray:
    """Return class ids (H, W), or binary masks (K, H, W), in colour, black where no class applies; floats in grey."""
    if values.dtype.kind == "f":
        return shown(values[..., None])
    canvas = np.zeros((*values.shape[-2:], 3), np.uint8)
    for index, color in enumerate(palette):
        canvas[values == index if values.ndim == 2 else values[index] == 1] = color
    return canvas


def shown(image: np.ndarray) -> np.ndarray:
    """Return (H, W, C) as (H, W, 3) uint8: the first three bands, or one; other dtypes are min-max scaled."""
    bands = image[..., :3] if image.shape[2] > 2 else np.repeat(image[..., :1], 3, 2)
    if bands.dtype == np.uint8:
        return bands
    finite = np.where(np.isfinite(bands), bands, np.nan).astype(np.float64)
    low, high = np.nanmin(finite), np.nanmax(finite)
    return np.nan_to_num((finite - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
