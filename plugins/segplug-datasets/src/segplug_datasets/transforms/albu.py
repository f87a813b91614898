"""A bridge to the transforms of Albumentations 2 (Buslaev et al., 2020).

Needs the package ``albumentations``: ``pip install "segplug-datasets[albumentations]"``. It is imported when the
transform is built.
"""

from __future__ import annotations

import importlib.util
import os
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from segkernel.errors import ComponentError, DataError, UsageError, suggest
from segkernel.sample import RasterField, Sample
from segplug_datasets.change import SecondImage


class AlbumentationsMissingError(ComponentError):
    """The extra ``albumentations`` is not installed."""

    exit_code = 3

    def __init__(self, error: ImportError) -> None:
        message = f"Albu needs albumentations: {error}\n    pip install 'segplug-datasets[albumentations]'"
        super().__init__("transforms", "Albu", message)


class Albu:
    """Apply transforms of Albumentations to the image and, where they move pixels, to all fields.

    Pixels from outside the image get the label 255. A second image is transformed like the first. All random
    numbers come from ``rng``.

    Args:
        transforms: Each a mapping of ``type``, Albumentations' name, and arguments; ``OneOf`` and similar
            ones have nested ``transforms``.

    Raises:
        AlbumentationsMissingError: When the package is missing.
        UsageError: When a name is unknown, or its arguments are invalid.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = {
        "transforms": [
            {"type": "HorizontalFlip", "p": 0.5},
            {"type": "Rotate", "limit": 20, "p": 0.5},
            {"type": "OneOf", "transforms": [{"type": "RandomBrightnessContrast"}, {"type": "RandomGamma"}]},
        ]
    }
    conformance_exceptions: ClassVar = (
        {} if importlib.util.find_spec("albumentations") else {"constructs": "albumentations is missing"}
    )

    def __init__(self, transforms: Sequence[Mapping[str, Any]]) -> None:
        library = _library()
        self._pipeline = library.Compose(
            [_build(library, spec, f"transforms[{i}]") for i, spec in enumerate(transforms)]
        )
        self._moves = any(isinstance(part, library.DualTransform) for part in _leaves(self._pipeline))

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        # One generator for all: with a seed, each transform would draw the same numbers as the others.
        self._pipeline.set_random_state(rng, random.Random(int(rng.integers(2**32))))
        fields = (
            sample.fields if self._moves else {k: v for k, v in sample.fields.items() if isinstance(v, SecondImage)}
        )
        strange = [name for name, field in fields.items() if not isinstance(field, RasterField)]
        if strange:
            raise DataError(f"Albu cannot move the field {strange[0]!r}", sample.meta.get("path"))
        kinds = {name: "image" if isinstance(field, SecondImage) else "mask" for name, field in fields.items()}
        self._pipeline.add_targets(kinds)
        changed = self._pipeline(
            image=np.ascontiguousarray(sample.image), **{name: _to_mask(field) for name, field in fields.items()}
        )
        sample.image = changed["image"]
        sample.fields |= {name: _from_mask(field, changed[name]) for name, field in fields.items()}
        sample.moved = "Albu" if self._moves else sample.moved
        return sample


def _library() -> ModuleType:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise it checks online for updates
    try:
        import albumentations
    except ImportError as error:
        raise AlbumentationsMissingError(error) from error
    return albumentations


def _build(library: ModuleType, spec: Mapping[str, Any], where: str) -> Any:
    arguments = dict(spec)
    name = arguments.pop("type", None)
    kind = getattr(library, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, library.BasicTransform | library.BaseCompose)):
        known = [known for known in dir(library) if known[0].isupper()]
        raise UsageError(f"{where}: Albumentations has no transform {name!r}: {suggest(name, known)}")
    if "fill_mask" in arguments:
        raise UsageError(f"{where}: leave out 'fill_mask': pixels from outside the image get the label 255")
    if "transforms" in arguments:
        inner = enumerate(arguments["transforms"])
        arguments["transforms"] = [_build(library, one, f"{where}.transforms[{i}]") for i, one in inner]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Argument", UserWarning)  # it only warns about unknown arguments
            return kind(**arguments)
    except (TypeError, ValueError, UserWarning) as error:
        raise UsageError(f"{where}: {name}: invalid arguments: {error}") from error


def _leaves(part: Any) -> Iterator[Any]:
    inner = getattr(part, "transforms", None)
    if inner is None:
        yield part
    for one in inner or ():
        yield from _leaves(one)


def _to_mask(field: RasterField) -> np.ndarray:
    """Return a field for Albumentations, which fills masks with 0: the field's fill value is shifted to 0."""
    return field.array - field.array.dtype.type(field.fill) if field.fill else np.ascontiguousarray(field.array)


def _from_mask(field: RasterField, changed: np.ndarray) -> RasterField:
    return replace(field, array=changed + changed.dtype.type(field.fill) if field.fill else changed)
