"""TensorBoard: the curves of a run and pictures of every validation.

    hooks:
      - type: TensorBoardHook

Events go to ``tensorboard/`` in the run directory; the run says how to look at them.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segkernel.annotations import NonNegativeInt
from segkernel.errors import SegKernelError, UsageError
from segkernel.hookspecs import Priority, hookimpl

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from segkernel.hookspecs import Run
    from segkernel.labels import Color
    from segkernel.sample import Prediction, Targets

log = logging.getLogger("segkernel.tensorboard")  # below the kernel's logger, so that the run's log file has it too

FOLDER = "tensorboard"


class TensorBoardHook:
    """Write every record of a training run as TensorBoard scalars, and predictions as pictures.

    Tags are ``train/loss``, ``train/lr``, ``train/images_per_second`` ...; ``val/mIoU`` and, one per class,
    ``val_IoU/road``; ``test/mIoU`` likewise. Pictures are ``val_pictures/NAME``: image, truth and prediction from left
    to right. A resumed run hides the events written after the iteration it goes on from.

    Args:
        pictures: How many images of the validation set are drawn, the same ones every time.

    Raises:
        UsageError: When ``pictures`` is negative.
    """

    priority = Priority.VERY_LOW

    def __init__(self, pictures: NonNegativeInt = 4) -> None:
        if pictures < 0:
            raise UsageError(f"TensorBoardHook: pictures is 0 or more, not {pictures}")
        self.pictures = pictures
        self._writer: SummaryWriter | None = None
        self._drawn = 0

    @hookimpl
    def before_train(self, run: Run) -> None:
        if run.is_main:
            folder = run.work_dir / FOLDER
            self._writer = _open(folder, purge_step=run.iteration + 1)
            log.info("to see the curves: tensorboard --logdir %s", shlex.quote(str(folder)))

    @hookimpl
    def on_record(self, record: Mapping[str, Any]) -> None:
        if self._writer is None:  # another rank, or a test alone
            return
        for key, value in record.items():
            if key not in ("kind", "iteration") and isinstance(value, int | float):
                self._writer.add_scalar(_tag(record["kind"], key), value, record["iteration"])
        self._writer.flush()

    @hookimpl
    def before_validation(self) -> None:
        self._drawn = 0

    @hookimpl
    def after_prediction(self, run: Run, prediction: Prediction, target: Targets) -> None:
        if self._writer is None or run.mode != "val" or self._drawn >= self.pictures:
            return
        self._drawn += 1
        tag = f"val_pictures/{prediction.meta['name']}"
        self._writer.add_image(tag, _picture(run, prediction, target), run.iteration, dataformats="HWC")

    @hookimpl
    def after_run(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


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
    """Return ``val/mIoU`` for mIoU and ``val_IoU/road`` for IoU.road: what precedes the slash becomes a group."""
    group, _, name = key.partition(".")
    return f"{kind}_{group}/{name}" if name and kind != "train" else f"{kind}/{key}"


def _picture(run: Run, prediction: Prediction, target: Targets) -> np.ndarray:
    """Return the image, the truth and the prediction side by side, (H, W', 3) uint8 RGB."""
    image = run.val_set.dataset[prediction.meta["index"]].image  # type: ignore[union-attr]
    maps = [prediction.labels] if "seg" not in target else [target["seg"], prediction.labels]
    painted = [_painted(each.cpu().numpy(), run.labels.palette) for each in maps]
    return np.concatenate([_shown(image), *painted], axis=1)


def _painted(values: np.ndarray, palette: Sequence[Color]) -> np.ndarray:
    """Return class ids (H, W), or binary masks (K, H, W), in colours, black where there is none; others in grey."""
    if values.dtype.kind == "f":
        return _shown(values[..., None])
    picture = np.zeros((*values.shape[-2:], 3), np.uint8)
    for index, color in enumerate(palette):
        picture[values == index if values.ndim == 2 else values[index] == 1] = color
    return picture


def _shown(image: np.ndarray) -> np.ndarray:
    """Return (H, W, C) as (H, W, 3) uint8: the first three bands, or one; what is not uint8 from its least value up."""
    bands = image[..., :3] if image.shape[2] > 2 else np.repeat(image[..., :1], 3, 2)
    if bands.dtype == np.uint8:
        return bands
    finite = np.where(np.isfinite(bands), bands, np.nan).astype(np.float64)
    low, high = np.nanmin(finite), np.nanmax(finite)
    return np.nan_to_num((finite - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
