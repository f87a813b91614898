"""From images to predictions: preprocessing, whole images and sliding windows, test-time augmentation.

Validation, ``seg-kernel test``, `Predictor` and exported models all use `predict_batch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.weak import WeakTensorKeyDictionary

from segkernel.annotations import Positive
from segkernel.config.sections import TTA, PaddingConfig, Side, TestConfig, as_pair, check_views
from segkernel.errors import UsageError
from segkernel.interfaces.data import DeviceStep
from segkernel.interfaces.model import Output, PixelClasses
from segkernel.interfaces.output import PixelMap
from segkernel.labels import IGNORE
from segkernel.nn import resize
from segkernel.nn.windows import SlidingWindows
from segkernel.sample import Batch, Prediction, Size, Targets

Predict = Callable[[Tensor], dict[str, Any]]
"""Normalised images (N, C, H, W) to the raw values of each output (see `segkernel.interfaces.model.Output`)."""


IMAGE_SIZES = WeakTensorKeyDictionary()
"""For images (N, C, H, W) that are being predicted, by the tensor itself: for each image, height and width without
padding, and those before it was resized. A model that needs them looks them up; views of test-time augmentation have
none."""


class Preprocessor(nn.Module):
    """Normalise on the device, then fill the padding: images with 0, labels with 255.

    Operations that transforms leave to the device (`segkernel.interfaces.data.DeviceStep`) run first.

    Args:
        mean: Per channel, in the units of the file (0 to 255 for 8 bits), in the order of ``channel_order``.
        std: Per channel, in the same units; above 0.
        size: Training batches are padded to this (height, width).
        size_divisor: Training batches are padded to a multiple of this; excludes ``size``.
        test_cfg: Padding of evaluation batches; none by default.
        channel_order: Channel order of the model's input; images are RGB before.

    Raises:
        UsageError: When an image has another number of channels than ``mean``.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] = (123.675, 116.28, 103.53),
        std: Sequence[Positive] = (58.395, 57.12, 57.375),
        size: tuple[Side, Side] | None = None,
        size_divisor: Side | None = None,
        test_cfg: PaddingConfig | None = None,
        channel_order: Literal["rgb", "bgr"] = "rgb",
    ) -> None:
        super().__init__()
        if channel_order == "bgr" and len(mean) != 3:
            raise UsageError(f"data.preprocess: channel_order bgr is for 3 channels, mean has {len(mean)}")
        if len(mean) != len(std):
            raise UsageError(f"data.preprocess: mean has {len(mean)} channels, std {len(std)}")
        if size and size_divisor:
            raise UsageError("give 'size' or 'size_divisor', not both")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        padding = {"size": size, "size_divisor": size_divisor}
        self.padding: dict[bool, Mapping[str, Any]] = {True: padding, False: test_cfg or {}}
        self._config: dict[str, Any] = {"mean": list(mean), "std": list(std), **padding, "test_cfg": test_cfg or None}
        self._config["channel_order"] = channel_order

    def config(self) -> dict[str, Any]:
        """Return the arguments this was built with, as plain values."""
        return dict(self._config)

    def forward(self, batch: Batch) -> tuple[Tensor, Targets]:
        """Return images (N, C, H, W) float32 and targets with int64 label maps, padded to the same size."""
        given, known = batch.images.shape[1], self.mean.shape[1]
        if given != known:
            raise UsageError(f"images of {given} channels, but data.preprocess normalises {known}")
        images = _augmented(batch.images.to(torch.float32), batch.device_steps)
        images = ((images.flip(1) if self._config["channel_order"] == "bgr" else images) - self.mean).div_(self.std)
        for image, (height, width) in zip(images, batch.sizes):
            image[:, height:] = 0
            image[:, :, width:] = 0
        bottom, right = self._missing(images.shape[-2], images.shape[-1])
        if bottom or right:
            images = pad(images, (0, right, 0, bottom))
        fields = {name: self._target(value, bottom, right) for name, value in batch.targets.fields.items()}
        return images, Targets(fields, batch.targets.meta)

    def _missing(self, height: int, width: int) -> tuple[int, int]:
        padding = self.padding[self.training]
        if size := padding.get("size"):
            return max(size[0] - height, 0), max(size[1] - width, 0)
        divisor = padding.get("size_divisor") or 1
        return -height % divisor, -width % divisor

    @staticmethod
    def _target(value: Any, bottom: int, right: int) -> Any:
        if not isinstance(value, Tensor):
            return value
        is_label = not value.is_floating_point()
        if bottom or right:
            value = pad(value, (0, right, 0, bottom), value=IGNORE if is_label else 0)
        return value.long() if is_label else value


def _augmented(images: Tensor, device_steps: Sequence[Sequence[DeviceStep]]) -> Tensor:
    """Run the operations that transforms left to the device, in each sample's order."""
    for steps in zip_longest(*device_steps):
        for kind in dict.fromkeys(type(step) for step in steps if step is not None):
            images = kind.together(images, [step if type(step) is kind else None for step in steps])
    return images


def infer(predict: Predict, images: Tensor, outputs: Mapping[str, Output], test_cfg: TestConfig) -> dict[str, Any]:
    """Return the raw values of each output at the size of ``images``, predicted whole or in windows by ``test_cfg``.

    Raises:
        UsageError: As `check_views`, or when an output cannot be merged over windows.
    """
    raw, size = _stacked([raw for raw, _ in _strips(predict, images, outputs, test_cfg)]), _size_of(images)
    return {name: outputs[name].resize(value, size, size) for name, value in raw.items()}


def _strips(
    predict: Predict, images: Tensor, outputs: Mapping[str, Output], test_cfg: TestConfig
) -> Iterable[tuple[dict[str, Any], Size]]:
    """Return raw values and their size in the images: whole images at the stride of the model, or strips of windows."""
    check_views(test_cfg)
    mode = test_cfg.get("mode", "whole")
    predict = _both_ways(predict, outputs) if mode.endswith("flip") else predict
    if mode.startswith("whole"):
        return [(predict(images), _size_of(images))]
    if others := [type(kind).__name__ for kind in outputs.values() if not isinstance(kind, PixelMap)]:
        raise UsageError(f"test_cfg: {others[0]} cannot be merged over sliding windows; use mode: whole")
    sizes, how = (as_pair(test_cfg["crop_size"]), as_pair(test_cfg["stride"])), test_cfg.get("blend", "uniform")
    windows = SlidingWindows(_size_of(images), *sizes, how, test_cfg.get("batch_size", 1))

    def maps(crops: Tensor) -> dict[str, Tensor]:
        return {name: outputs[name].resize(raw, *2 * [windows.window]) for name, raw in predict(crops).items()}

    return ((raw, _size_of(next(iter(raw.values())))) for raw in windows.average(maps, images))


def _stacked(strips: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the values of strips one below the other; those of a single strip may be of any kind."""
    names = strips[0] if strips[1:] else ()
    return {name: torch.cat([strip[name] for strip in strips], -2) for name in names} or strips[0]


def _both_ways(predict: Predict, outputs: Mapping[str, Output]) -> Predict:
    """Return a function that averages predictions over images and their mirror images."""

    def averaged(images: Tensor) -> dict[str, Any]:
        seen, mirrored = predict(images), predict(images.flip(-1))
        return {name: both(outputs[name], raw, mirrored[name], _size_of(images)) for name, raw in seen.items()}

    def both(output: Output, raw: Any, mirrored: Any, size: Size) -> Any:
        return output.mean(output.merge(output.merge(None, raw), output.flip(mirrored, size)), 2)

    return averaged


def _size_of(images: Tensor) -> Size:
    return images.shape[-2], images.shape[-1]


def predict_batch(
    predict: Predict,
    batch: Batch,
    images: Tensor,
    *,
    outputs: Mapping[str, Output],
    test_cfg: TestConfig | None = None,
    tta: TTA | None = None,
    probabilities: bool = False,
) -> list[Prediction]:
    """Predict every image of a batch at its original size (``batch.original_sizes``, else its own).

    Args:
        predict: Usually ``segmentor.predict`` or ``engine.predict``.
        batch: Before preprocessing.
        images: The batch after preprocessing, (N, C, H, W).
        outputs: The segmentor's ``outputs``.
        test_cfg: Whole (the default) or sliding windows.
        tta: Test-time augmentation.
        probabilities: Also return them, as ``NAME_probabilities`` (K, H, W).

    Raises:
        UsageError: As `infer`.
    """
    test_cfg, originals = test_cfg or {"mode": "whole"}, batch.original_sizes or batch.sizes
    IMAGE_SIZES[images] = list(zip(batch.sizes, originals))
    if tta is None and not probabilities:
        strips, sizes = _strips(predict, images, outputs, test_cfg), list(zip(batch.sizes, originals))
        if resized := {*batch.sizes, *originals} != {_size_of(images)}:  # pixels are interpolated from two strips
            strips = [(_stacked([raw for raw, _ in strips]), _size_of(images))]

        def finish(raw: dict[str, Any], size: Size) -> list[dict[str, Any]]:
            pairs = enumerate(sizes if resized else [(size, size)] * len(sizes))
            return [{k: outputs[k].finish(raw[k][i : i + 1], size, *pair) for k in raw} for i, pair in pairs]

        parts = [finish(*strip) for strip in strips]
        return [Prediction(_stacked(fields), dict(meta)) for fields, meta in zip(zip(*parts), batch.meta)]
    views = _views(tta)
    merged: list[dict[str, Any]] = [{} for _ in batch.sizes]
    for scale, flip in views:
        view = _view(images, scale, flip)
        raw = infer(predict, view, outputs, test_cfg)
        for index, (image, true, original) in enumerate(zip(merged, batch.sizes, originals)):
            share = true[0] / images.shape[-2], true[1] / images.shape[-1]
            for name, values in raw.items():
                output = outputs[name]
                value = _restore(output, values[index : index + 1], _size_of(view), share, original, flip)
                image[name] = output.merge(image.get(name), output.activate(value))
    means = ({name: outputs[name].mean(value, len(views)) for name, value in image.items()} for image in merged)
    return [_prediction(mean, outputs, dict(meta), probabilities) for mean, meta in zip(means, batch.meta)]


def _views(tta: TTA | None) -> list[tuple[float, bool]]:
    flips = (False,) if tta is None or not tta.get("flip", True) else (False, True)
    return [(float(scale), flip) for scale in (tta or {}).get("scales", (1.0,)) for flip in flips]


def _view(images: Tensor, scale: float, flip: bool) -> Tensor:
    images = images if scale == 1 else resize(images, [round(length * scale) for length in images.shape[-2:]])
    return images.flip(-1) if flip else images


def _restore(output: Output, raw: Any, seen: Size, share: tuple[float, float], original: Size, flip: bool) -> Any:
    """Undo the mirroring, remove the padding (``share`` of each side is image) and resize to the original size."""
    raw = output.flip(raw, seen) if flip else raw
    true = round(seen[0] * share[0]), round(seen[1] * share[1])
    return output.resize(output.crop(raw, true), true, original)


def _prediction(values: Mapping[str, Any], outputs: Mapping[str, Output], meta: Any, keep: bool) -> Prediction:
    fields = {name: outputs[name].decode(value, True) for name, value in values.items()}
    kept = [name for name in values if keep and isinstance(outputs[name], PixelClasses)]
    return Prediction(fields | {f"{name}_probabilities": values[name][0] for name in kept}, meta)
