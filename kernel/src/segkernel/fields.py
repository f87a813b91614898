"""The kinds of fields a sample may have: data about its image that moves with it.

Transforms call the methods of a field and never inspect its class, so all of them support kinds of other packages:

    class Polygons(ObjectField):
        '''(objects, points, 2) float32: x and y.'''

        def apply(self, geometry, size):
            return replace(self, array=geometry.move(self.array, size).astype(np.float32))

`RasterField` is for a value per pixel, `ObjectField` for an entry per object, `Field` for anything else.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from segkernel.errors import DataError
from segkernel.geometry import LINEAR, NEAREST, Geometry, Raster, Size
from segkernel.labels import IGNORE

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

Layer = tuple["Field", tuple[slice, slice], "np.ndarray | None"]
"""A field, the window of the canvas under its image, and the pixels (H, W) bool of it that are pasted (None: all)."""


@dataclass
class Field:
    """Data about an image that moves with it.

    The methods here are for every kind. `apply` is the only one that a kind must define.
    """

    array: np.ndarray

    def apply(self, geometry: Geometry, size: Size) -> Self:
        """Return the field after ``geometry`` is applied to an image of ``size``."""
        raise DataError(f"{type(self).__name__} cannot be moved: its class does not implement 'apply'")

    def overlay(self, layers: Sequence[Layer], size: Size, fill: float | tuple[float, ...] | None = None) -> Self:
        """Return the field of a canvas of ``size`` onto which images are pasted: mosaic, copy-paste and others.

        Args:
            layers: From the bottom to the top, the first with this field.
            size: Height and width of the canvas.
            fill: Value for uncovered pixels; the kind's own when None.
        """
        return self

    def planes(self) -> np.ndarray:
        """Return the array in the tensor's order of axes."""
        return self.array

    def tensor(self) -> Tensor:
        """Return the field as a tensor for `Targets`, in the dtype of the array."""
        import torch

        return torch.from_numpy(np.ascontiguousarray(self.planes()))

    def stack(self, fields: Sequence[Self], size: Size) -> Tensor | list[Tensor]:
        """Batch ``fields``, one of each sample and this one first, padded to ``size``."""
        return [field.tensor() for field in fields]


class RasterField(Field):
    """A value per pixel, (H, W) or (H, W, C)."""

    interpolation: ClassVar[int] = NEAREST
    fill: ClassVar[float] = 0
    """Value for pixels outside the image."""
    scalar: ClassVar[bool] = True
    """Whether a value is one number; a third axis then lists the slices of a volume."""

    @property
    def array(self) -> np.ndarray:
        """The values, with pending operations applied."""
        return self._raster.array(self.interpolation, self.fill)

    @array.setter
    def array(self, array: np.ndarray) -> None:
        self._raster = Raster(array)

    def apply(self, geometry: Geometry, size: Size) -> Self:
        if self._raster.size != tuple(size):
            raise DataError(f"a {type(self).__name__} of {self._raster.size} for an image of {tuple(size)} pixels")
        changed = copy.copy(self)
        changed._raster = self._raster.then(geometry)
        return changed

    def overlay(self, layers: Sequence[Layer], size: Size, fill: float | tuple[float, ...] | None = None) -> Self:
        canvas = np.full((*size, *self.array.shape[2:]), self.fill if fill is None else fill, self.array.dtype)
        for field, window, mask in layers:
            laid = True if mask is None else mask.reshape(*mask.shape, *[1] * (canvas.ndim - 2))
            np.copyto(canvas[window], field.array, where=laid)
        return replace(self, array=canvas)

    def stack(self, fields: Sequence[Self], size: Size) -> Tensor | list[Tensor]:
        import torch

        return torch.from_numpy(np.stack([field._padded(size).planes() for field in fields]))

    def _padded(self, size: Size) -> Self:
        window = slice(self._raster.size[0]), slice(self._raster.size[1])
        return self if self._raster.size == tuple(size) else self.overlay([(self, window, None)], size)


class ObjectField(Field):
    """An entry per object of the image; all such fields of a sample list the same objects in the same order."""

    axis: ClassVar[int] = 0
    """The axis of the array along which objects are listed."""

    @property
    def count(self) -> int:
        """The number of objects."""
        return self.array.shape[self.axis]

    def select(self, keep: np.ndarray) -> Self:
        """Return the objects ``keep``, indices or booleans."""
        return replace(self, array=self.array[(slice(None),) * self.axis + (keep,)])

    def join(self, fields: Sequence[Self]) -> Self:
        """Return the objects of all ``fields``, of which this is the first, as if of one image."""
        return replace(self, array=np.concatenate([field.array for field in fields], self.axis))

    def inside(self, size: Size) -> np.ndarray:
        """Return (objects,) bool, whether each still is in the image, of ``size``; the others are dropped."""
        return np.ones(self.count, bool)

    def masks(self, size: Size) -> np.ndarray | None:
        """Return the pixels of each object, (H, W, objects) with 0 outside; None for a kind without masks."""
        return None

    def occlude(self, visible: np.ndarray, masks: np.ndarray | None) -> Self:
        """Return the field after something was pasted over the image.

        Args:
            visible: (H, W) bool, the pixels that are still visible.
            masks: (H, W, objects), the objects before; None when no field of the sample has masks.
        """
        return self

    def remaining(self, visible: np.ndarray) -> np.ndarray:
        """Return (objects,) bool, whether any pixel of each is ``visible``; true for all without masks.

        If fields of a sample have masks, only those are asked.
        """
        masks = self.masks((visible.shape[0], visible.shape[1]))
        return np.ones(self.count, bool) if masks is None else masks[visible].any(0)


# ---------------------------------------------------------------- a value per pixel


class LabelMap(RasterField):
    """Class ids, uint8; `IGNORE` where unknown."""

    fill = IGNORE


class MultiLabelMap(LabelMap):
    """Yes (1) or no (0) for every class, (H, W, K) uint8; `IGNORE` where unknown. As a tensor it is (K, H, W)."""

    scalar = False

    def planes(self) -> np.ndarray:
        return np.moveaxis(self.array, 2, 0)


class WeightMap(RasterField):
    """The factor of each pixel's loss, float32, 0 or more."""

    interpolation = LINEAR


class DepthMap(RasterField):
    """Depth in metres, float32; 0 where unknown."""
