"""What a model looks at: class-activation maps (Grad-CAM) and feature maps, as arrays and pictures.

heat = class_activation(Predictor("best.pt"), "street.jpg", "car")         # (H, W) from 0 to 1
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from segkernel.errors import DataError, UsageError, suggest
from segkernel.image import opencv
from segkernel.sample import Sample
from segplug_datasets.image import as_rgb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from segkernel import Predictor

DEFAULT_LAYER = "backbone"
_TILE, _GAP = 160, 4  # pixels


def class_activation(
    predictor: Predictor, pixels: np.ndarray | Sample, class_name: str, layer: str = DEFAULT_LAYER
) -> np.ndarray:
    """Return where a layer speaks for a class: Grad-CAM (Selvaraju et al., 2017) of its logits, as for segmentation in
    Vinogradova et al. (2020).

    The logits of the class are summed over the pixels that are predicted as the class, over all when there are none.

    Args:
        predictor: The model; the image is predicted as a whole.
        pixels: The result of `segkernel.Predictor.read`.
        class_name: Name of the class.
        layer: Name of a module, such as ``backbone.layer3``; of several outputs the last counts.

    Returns:
        (H, W) float32 of the image's size, from 0 to 1; all 0 where nothing speaks for the class.

    Raises:
        UsageError: When there is no such class or module, or the model is an exported file.
    """
    import torch

    if class_name not in predictor.classes:
        raise UsageError(f"the model has no class {class_name!r}; {suggest(class_name, list(predictor.classes))}")
    class_id = predictor.classes.index(class_name)

    def weighted(seen: Tensor, logits: Tensor) -> Tensor:
        single = logits.shape[1] == 1  # a binary map: the logit is that of the second class
        plane = logits[0, 0] * (1 if class_id else -1) if single else logits[0, class_id]
        chosen = plane > 0 if single else logits[0].argmax(0) == class_id
        score = plane[chosen].sum() if chosen.any() else plane.sum()
        (gradient,) = torch.autograd.grad(score, seen)
        return (gradient.mean((-2, -1), keepdim=True) * seen).sum(1).relu()

    heat = _observed(predictor, pixels, layer, weighted)[0]
    return heat / max(float(heat.max()), 1e-12)


def feature_maps(predictor: Predictor, pixels: np.ndarray | Sample, layer: str = DEFAULT_LAYER) -> np.ndarray:
    """Return the output of a layer for an image, resized to the image: (C, H, W) float32.

    Arguments and errors as in `class_activation`.
    """
    return _observed(predictor, pixels, layer, lambda seen, logits: seen[0])


def _observed(predictor: Predictor, pixels: Any, layer: str, compute: Callable[[Tensor, Tensor], Tensor]) -> np.ndarray:
    """Return ``compute(output of the layer, logits)``, (C, h, w), resized to the image: (C, H, W)."""
    import torch

    from segkernel.nn import resize
    from segkernel.sample import collate

    batch = collate([predictor.prepare(pixels)]).to(predictor.device)
    images = predictor.preprocessor(batch)[0]
    with torch.enable_grad(), _captured(predictor.model, layer) as seen:
        logits = predictor.model(images.requires_grad_())
        if not seen or seen[-1].ndim != 4:
            what = "is not called" if not seen else f"returns {tuple(seen[-1].shape)}, not a map (N, C, H, W)"
            raise UsageError(f"the layer {layer!r} {what} in this model")
        found = compute(seen[-1], logits).detach()[None]
    (height, width), size = batch.sizes[0], images.shape[-2:]
    whole = resize(found, size=tuple(size), mode="bilinear", align_corners=False)[..., :height, :width]
    original = resize(whole, size=batch.original_sizes[0], mode="bilinear", align_corners=False)
    return np.asarray(original[0].cpu())


@contextmanager
def _captured(model: Any, layer: str) -> Iterator[list[Tensor]]:
    """Yield a list that gets the output of a module; what follows works on a copy, which it may change in place."""
    modules = dict(model.named_modules())
    if len(modules) == 1:
        raise UsageError("an exported file has no layers to look at; give the checkpoint that it is of")
    if layer not in modules:
        raise UsageError(f"the model has no module {layer!r}; {suggest(layer, [name for name in modules if name])}")
    seen: list[Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> Any:
        if isinstance(output, tuple | list):
            seen.append(output[-1])
            return type(output)([*output[:-1], output[-1].clone()])
        seen.append(output)
        return output.clone()

    handle = modules[layer].register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def heat_overlay(image: np.ndarray, heat: np.ndarray, opacity: float = 0.5) -> np.ndarray:
    """Return a map (H, W) from 0 to 1 in colours, blue to red, over its image: (H, W, 3) uint8 RGB."""
    if heat.shape != image.shape[:2]:
        raise DataError(f"a map of {heat.shape} (height, width) does not fit an image of {image.shape[:2]}")
    return opencv().addWeighted(_colored(heat), opacity, as_rgb(image), 1 - opacity, 0)


def channel_sheet(maps: np.ndarray, count: int = 16) -> np.ndarray:
    """Return the ``count`` channels of maps (C, H, W) that vary most, as tiles in colour with their numbers.

    Each is stretched from its smallest to its largest value: (h, w, 3) uint8 RGB.
    """
    cv2 = opencv()
    varied = np.argsort(-maps.std((1, 2)), kind="stable")[:count]
    scale = _TILE / max(maps.shape[1:])
    height, width = (max(1, round(length * scale)) for length in maps.shape[1:])
    columns = int(np.ceil(np.sqrt(len(varied))))
    rows = -(-len(varied) // columns)
    sheet = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), 255, np.uint8)
    for place, channel in enumerate(varied.tolist()):
        small = cv2.resize(maps[channel], (width, height), interpolation=cv2.INTER_AREA)
        low, high = float(small.min()), float(small.max())
        tile = np.ascontiguousarray(_colored((small - low) / max(high - low, 1e-12)))
        cv2.putText(tile, str(channel), (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA)
        top, left = place // columns * (height + _GAP), place % columns * (width + _GAP)
        sheet[top : top + height, left : left + width] = tile
    return sheet


def _colored(heat: np.ndarray) -> np.ndarray:
    """Return values from 0 to 1 as colours, (H, W, 3) RGB."""
    cv2 = opencv()
    return cv2.applyColorMap(np.rint(heat * 255).clip(0, 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]
