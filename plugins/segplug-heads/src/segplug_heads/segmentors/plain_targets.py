"""Class ids of one's own training loop, as the targets of a segmentor's loss."""

from __future__ import annotations

import torch
from torch import Tensor

from segkernel.errors import DataError, UsageError
from segkernel.interfaces.model import Head, PixelClasses
from segkernel.labels import IGNORE
from segkernel.sample import Targets


def targets_of(masks: Targets | Tensor, images: Tensor, *heads: Head) -> Targets:
    """Return the targets of ``images``: as `Targets.of`, but class ids on the CPU must also be in range.

    Args:
        masks: Targets, or class ids (N, H, W) of an integer dtype.
        images: (N, C, H, W), of a floating dtype.
        heads: Those that learn the class ids, with their ``output`` and their ignored label ``ignore_index``, 255
            without.

    Raises:
        UsageError: When ``masks`` is neither, or has another size than the images; or when these are of integers.
        DataError: When an id is neither a class nor ignored. On other devices, where to look at values would wait for
            the device, torch reports it.
    """
    if not images.is_floating_point():
        raise UsageError(f"images are {images.dtype}: normalise them first, (images.float() - mean) / std")
    targets = Targets.of(masks, images)
    if isinstance(masks, Targets) or masks.device.type != "cpu" or torch.compiler.is_compiling():
        return targets
    for head in heads:
        _check_ids(targets["seg"], head)
    return targets


def _check_ids(ids: Tensor, head: Head) -> None:
    if not isinstance(head.output, PixelClasses):
        return
    classes, ignored = head.output.classes, getattr(head, "ignore_index", IGNORE)
    outside = ids[((ids < 0) | (ids >= classes)) & (ids != ignored)].unique().tolist()
    if outside:
        given = ", ".join(map(str, outside[:8])) + ", ..." * (len(outside) > 8)
        known = f"the model has {classes} classes, 0 to {classes - 1}"
        raise DataError(f"masks hold {given}; {known}, and ignores {ignored} (ignore_index of the head)")
