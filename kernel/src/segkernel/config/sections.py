"""The sections of a config, declared once: what the kernel reads, checks and builds.

This module imports no torch, so that `load_config` knows every key of the sections without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from annotated_types import Gt, Interval, MinLen
from typing_extensions import TypedDict

from segkernel.annotations import LabelId, NonNegativeInt, Positive, PositiveInt
from segkernel.errors import UsageError
from segkernel.interfaces.spec import Spec
from segkernel.labels import Task

if TYPE_CHECKING:
    from typing import Any as Hook
    from typing import Any as ParameterGroups

    from torch.optim import Optimizer

    from segkernel.interfaces.data import Dataset, Metric, Sampler, Transform
    from segkernel.interfaces.model import Engine, Exporter, Segmentor
    from segkernel.schedules import Schedule
else:  # the classes need torch or numpy; to read a config, the group of a component is enough

    def _component(group: str) -> type:
        return type(group, (Protocol,), {"component_group": group})

    Dataset, Sampler, Transform, Metric = map(_component, ("datasets", "samplers", "transforms", "metrics"))
    Segmentor, Engine, Exporter, Hook = map(_component, ("segmentors", "engines", "exporters", "hooks"))
    Optimizer, ParameterGroups, Schedule = map(_component, ("optimizers", "parameter_groups", "schedules"))


Threads = Annotated[int, Interval(ge=1, le=1024)]
Processes = Annotated[int, Interval(ge=0, le=1024)]
Seed = Annotated[int, Interval(ge=0, lt=2**63)]
Side = Annotated[int, Interval(ge=1, le=1 << 16)]
"""Height or width of a padded image, in pixels; more is a typo that would exhaust the memory."""


class PaddingConfig(TypedDict, total=False):
    """Padding at the bottom and right.

    Args:
        size: To this (height, width), in pixels.
        size_divisor: To a multiple of this, in pixels.
    """

    size: tuple[Side, Side]
    size_divisor: Side


class PreprocessConfig(TypedDict, total=False):
    """Arguments of `segkernel.inference.Preprocessor`.

    Args:
        mean: Per channel, in the units of the file (0 to 255 for 8 bits), in the order of ``channel_order``.
        std: Per channel, in the same units; above 0.
        size: Training batches are padded to this (height, width).
        size_divisor: Training batches are padded to a multiple of this; excludes ``size``.
        test_cfg: Padding of evaluation batches; none by default.
        channel_order: Channel order of the model's input; images are RGB before.
    """

    mean: Sequence[float]
    std: Sequence[Positive]
    size: tuple[Side, Side] | None
    size_divisor: Side | None
    test_cfg: PaddingConfig | None
    channel_order: Literal["rgb", "bgr"]


@dataclass
class DataSection:
    """``data``: the data sets, their transforms, and how samples are loaded.

    Args:
        train: Data set to train on.
        val: Data set to validate on.
        test: Data set to test on.
        sampler: The draw order of training; None shuffles.
        train_transforms: Applied to training samples.
        eval_transforms: Applied to validation and test samples.
        preprocess: Normalisation and padding on the device.
        num_classes: For references: ``${data.num_classes}``.
        task: What a pixel's label is; sets the default channels, losses, activation and threshold of all heads, and
            how data sets read labels. None leaves that to the heads: usually ``multiclass``.
        crop_size: For references, (height, width).
        align_corners: For references.
        micro_batch: Samples per forward pass and device; None takes ``optim.batch_size``.
        eval_batch: Images per forward pass in evaluation; images of different sizes are never batched.
        workers: Processes that load samples; 0 loads them in the main process.
        start_method: How the worker processes start; None takes Python's default.
        opencv_threads: OpenCV's threads in each worker; 0 runs it sequentially.
        persistent_workers: Keep the workers between evaluations.
    """

    train: Dataset | None = None
    val: Dataset | None = None
    test: Dataset | None = None
    sampler: Sampler | None = None
    train_transforms: Sequence[Transform] = ()
    eval_transforms: Sequence[Transform] = ()
    preprocess: PreprocessConfig = field(default_factory=lambda: PreprocessConfig())
    num_classes: PositiveInt | None = None
    task: Task | None = None
    crop_size: tuple[PositiveInt, PositiveInt] | None = None
    align_corners: bool = False
    micro_batch: PositiveInt | None = None
    eval_batch: PositiveInt = 1
    workers: Processes = 2
    start_method: Literal["fork", "spawn", "forkserver"] | None = None
    opencv_threads: Processes = 0
    persistent_workers: bool = True


class ClipGrad(TypedDict, total=False):
    """Gradient clipping.

    Args:
        max_norm: Gradients are scaled so that their norm is at most this.
        norm_type: Order of the norm; 2 by default.
    """

    max_norm: Annotated[float, Gt(0)]
    norm_type: Annotated[float, Gt(0)]


@dataclass
class OptimSection:
    """``optim``: the optimiser and its step.

    Args:
        optimizer: Torch's by name, or a plugin's.
        batch_size: Samples per step over all devices.
        base_batch_size: The batch size that the learning rate is given for: the rate is scaled in proportion to
            ``batch_size``.
        clip_grad: Gradient clipping by norm.
        paramwise: Learning rate and weight decay per parameter; without ``type``, ``Paramwise``.
    """

    optimizer: Spec[Optimizer] | None = None
    batch_size: PositiveInt = 1
    base_batch_size: PositiveInt | None = None
    clip_grad: ClipGrad | None = None
    paramwise: ParameterGroups | None = None


@dataclass
class ScheduleSection:
    """``schedule``: the length of training, and the learning rate over it.

    Args:
        iterations: Length of training in optimiser steps; it has this or ``epochs``.
        epochs: Length in passes over the training set, fractions too.
        val_interval: Distance of validations, in the unit of the length.
        val_begin: The iteration before which there is no validation.
        lr: Schedules, applied in turn.
    """

    iterations: PositiveInt | None = None
    epochs: Positive | None = None
    val_interval: Positive | None = None
    val_begin: NonNegativeInt = 0
    lr: Sequence[Schedule] = ()

    def __post_init__(self) -> None:
        if self.iterations and self.epochs:
            raise UsageError("iterations and epochs are both set: remove one, ~schedule.iterations or ~schedule.epochs")


class TestConfig(TypedDict, total=False):
    """How a segmentor processes an image at inference; sizes are (height, width) in pixels, or one for both.

    Args:
        mode: ``whole`` processes it as a whole, ``slide`` in windows, whose overlaps are averaged. ``whole_flip`` and
            ``slide_flip`` also process the mirrored image or window, and average the two.
        crop_size: Size of a window.
        stride: Distance of two windows; no larger than ``crop_size``.
        blend: Weights in the average over overlapping windows: ``uniform``, or ``gaussian``, less at the border of a
            window, which hides seams.
        batch_size: Windows that are computed at once; 1 by default.
    """

    mode: Literal["whole", "slide", "whole_flip", "slide_flip"]
    crop_size: tuple[PositiveInt, PositiveInt] | PositiveInt
    stride: tuple[PositiveInt, PositiveInt] | PositiveInt
    blend: Literal["uniform", "gaussian"]
    batch_size: PositiveInt


class Metadata(TypedDict, total=False):
    """What a weights file or an exported file states about its model."""

    classes: Sequence[str] | None
    palette: Sequence[tuple[LabelId, LabelId, LabelId]] | None
    preprocess: PreprocessConfig | None
    test_cfg: TestConfig | None
    config: Mapping[str, object] | None
    plugins: Mapping[str, str] | None


class TTA(TypedDict, total=False):
    """Test-time augmentation: probabilities are averaged.

    Args:
        scales: Factors on the size of the image.
        flip: Also process each scale mirrored.
    """

    scales: Annotated[Sequence[Positive], MinLen(1)]
    flip: bool


def as_pair(size: tuple[int, int] | int) -> tuple[int, int]:
    """Return (height, width) of a size; a number is the side of a square."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def check_views(test_cfg: TestConfig | None) -> None:
    """Validate the windows of ``slide``.

    Raises:
        UsageError: When ``slide`` lacks its sizes, or leaves gaps between its windows.
    """
    if test_cfg and test_cfg.get("mode", "whole").startswith("slide"):
        crop, stride = as_pair(test_cfg.get("crop_size", 0)), as_pair(test_cfg.get("stride", 0))
        if min(crop + stride) < 1 or stride[0] > crop[0] or stride[1] > crop[1]:
            raise UsageError("test_cfg: mode slide needs crop_size and stride of 1 or more, stride <= crop_size")


@dataclass
class Evaluation:
    """``evaluate``: how validation and test process images and which metrics they compute.

    Args:
        metrics: Each is copied before an evaluation.
        test_cfg: Whole or sliding windows; None takes the model's.
        tta: Test-time augmentation, for the test only.
        loss: Also compute the loss on the validation set. None does if it needs no second forward pass: the model is
            `one_pass` and processes whole images.
        format_only: Predict a set without annotations: no metrics, no loss.
    """

    metrics: Sequence[Metric] = ()
    test_cfg: TestConfig | None = None
    tta: TTA | None = None
    loss: bool | None = None
    format_only: bool = False

    def __post_init__(self) -> None:
        check_views(self.test_cfg)


@dataclass
class PluginsSection:
    """``plugins``: which package is meant.

    Args:
        prefer: The distributions to prefer when several offer the same short name, best first.
    """

    prefer: Sequence[str] = ()


@dataclass
class Sections:
    """A whole config; an empty section (None) counts as missing.

    Args:
        model: The segmentor.
        data: Data sets and transforms.
        optim: Optimiser and batch size.
        schedule: Length of training and learning rate.
        engine: Device and precision; without ``type``, segplug-training's `DDPEngine`, or `LocalEngine` without it.
        hooks: Hooks in addition to those that every run has.
        evaluate: Metrics and inference.
        export: Exporters that write the model after training.
        plugins: Preferred distributions.
        seed: Seed of all random numbers; 0 by default.
        work_dir: The run directory; ``work_dirs/NAME/TIME`` by default.
        load_from: A checkpoint to start from, at iteration 0.
    """

    model: Segmentor | None = None
    data: DataSection | None = field(default_factory=DataSection)
    optim: OptimSection | None = field(default_factory=OptimSection)
    schedule: ScheduleSection | None = field(default_factory=ScheduleSection)
    engine: Engine | None = None
    hooks: Sequence[Hook] | None = ()
    evaluate: Evaluation | None = field(default_factory=Evaluation)
    export: Sequence[Exporter] | None = ()
    plugins: PluginsSection | None = field(default_factory=PluginsSection)
    seed: Seed | None = None
    work_dir: str | None = None
    load_from: str | None = None
