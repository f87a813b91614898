"""Torch's data sets and loaders in place of segkernel's: `Runner` converts them by `adapt`.

Runner(model, train=TorchDataset(pairs, classes=["background", "crack"]), optimizer=..., iterations=1000)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from segkernel.annotations import PositiveInt
from segkernel.errors import DataError, UsageError
from segkernel.image import to_array, to_pixels
from segkernel.interfaces.data import Dataset
from segkernel.labels import IGNORE, Color, Labels
from segkernel.sample import LabelMap, Sample
from segplug_datasets.labelled import Named

if TYPE_CHECKING:
    from segkernel.data import Loader

IMAGE_KEYS = ("image", "img", "pixel_values")
MASK_KEYS = ("mask", "label", "labels", "segmentation", "annotation", "target")
"""Keys of a dict, in the order in which they are looked for."""


class TorchDataset(Named):
    """A torch ``Dataset`` of pairs (image, mask) or dicts, as a data set of a run.

    Images are what `segkernel.image.to_pixels` reads: PIL's, arrays or tensors, uint8 (0 to 255) or float (0 to 1).
    They are not normalised: the run's `Preprocessor` does that. Masks are class ids (H, W) or (1, H, W): integers, or a
    PIL image of them; 255 and negative ids are ignored.

    Args:
        dataset: Anything with a length whose entries are pairs, dicts with one of `IMAGE_KEYS` and of `MASK_KEYS`, or
            samples.
        classes: Names of the classes; None takes the attribute ``classes`` of ``dataset``.
        palette: One RGB colour per class; None takes ``palette`` of ``dataset``, else a fixed table of colours.
        channels: Channels of the images.

    Raises:
        UsageError: When the classes are unknown.
    """

    def __init__(
        self,
        dataset: Any,
        classes: Sequence[str] | None = None,
        palette: Sequence[Color] | None = None,
        channels: PositiveInt = 3,
    ) -> None:
        self.dataset, self.channels = dataset, channels
        names = classes or _inner(dataset, "classes")
        if not names:
            name = type(dataset).__name__
            hint = f"wrap it: segplug_datasets.TorchDataset({name}(...), classes=[...])"
            raise UsageError(f"the classes of {name} are unknown; {hint}")
        colors = palette or (() if classes else _inner(dataset, "palette")) or ()
        self.labels = Labels(tuple(names), tuple(colors))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """Return a sample.

        Raises:
            DataError: When its mask cannot be used.
            UsageError: When the entry is neither a pair nor a dict, or its image has another shape or range of values.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        item = self.dataset[index]
        if isinstance(item, Sample):
            return item
        name = f"{type(self.dataset).__name__}[{index}]"
        image, mask = _pair(item, name)
        try:
            pixels = to_pixels(image, self.channels)
        except UsageError as error:  # not a DataError, after which the loader would try the next sample
            raise UsageError(f"{name}: {error}") from error
        labels = self._labels(mask, name)
        if labels.shape != pixels.shape[:2]:
            raise DataError(f"the mask is {labels.shape} (height, width), the image {pixels.shape[:2]}", name)
        return Sample({"seg": LabelMap(labels)}, {"name": name}, pixels)

    def _labels(self, mask: Any, name: str) -> np.ndarray:
        # The ids of a PIL image are its stored values: `to_array` would convert a palette to colours.
        array = np.asarray(mask if hasattr(mask, "getbands") else to_array(mask))
        array = array[0] if array.ndim == 3 and len(array) == 1 else array
        if array.ndim != 2 or array.dtype.kind not in "biu":
            raise DataError(f"a mask is class ids (H, W), integers, not {array.shape} {array.dtype}", name)
        ignored = (array < 0) | (array == IGNORE)
        wrong = np.unique(array[~ignored & (array >= len(self.classes))])
        if wrong.size:
            listed = ", ".join(map(str, wrong[:5]))
            raise DataError(f"the mask has the ids {listed}, but there are {len(self.classes)} classes", name)
        return np.where(ignored, IGNORE, array).astype(np.uint8)


def adapt(part: Any, model: Any, seed: int) -> Loader | TorchDataset | None:
    """Return what a run uses in place of torch's data set or loader; None for other objects.

    Args:
        part: As given to `Runner`.
        model: The run's; names the classes ``class 0`` and so on of a data set without names.
        seed: Seed of the draw order and the augmentation.

    Raises:
        UsageError: For a loader or data set that cannot be resumed at any sample: of a stream, or with an own sampler
            or ``collate_fn``.
    """
    from torch.utils.data import DataLoader, IterableDataset

    if isinstance(part, DataLoader):
        return _loader_of(part, model, seed)
    if isinstance(part, IterableDataset):
        raise UsageError(f"{type(part).__name__} is a stream: a run needs a data set with a length and an index")
    if not (hasattr(part, "__len__") and hasattr(part, "__getitem__")) or isinstance(part, str | bytes | Mapping):
        return None
    output = getattr(model, "outputs", {}).get("seg")
    numbered = [f"class {index}" for index in range(getattr(output, "classes", 0))]
    return TorchDataset(part, None if _inner(part, "classes") else numbered)


def _loader_of(loader: Any, model: Any, seed: int) -> Loader:
    """Return the same data set with the same batches and workers."""
    from torch.utils import data

    from segkernel.data import Loader

    samplers = (data.RandomSampler, data.SequentialSampler)
    own = {
        "an own collate_fn": loader.collate_fn is not data.default_collate,
        "an own sampler or batch_sampler": type(loader.sampler) not in samplers or loader.batch_size is None,
        "a stream": isinstance(loader.dataset, data.IterableDataset),
    }
    if reasons := " and ".join(reason for reason, found in own.items() if found):
        hint = "pass segkernel.Loader(dataset, micro_batch=4, workers=2), of its data set"
        raise UsageError(f"a DataLoader with {reasons} cannot be resumed: {hint}")
    dataset = loader.dataset if isinstance(loader.dataset, Dataset) else adapt(loader.dataset, model, seed)
    if dataset is None:
        raise UsageError(
            f"the data set of the DataLoader is a {type(loader.dataset).__name__}, without length or index"
        )
    return Loader(
        dataset,  # type: ignore[arg-type]
        micro_batch=loader.batch_size,
        workers=loader.num_workers,
        seed=seed,
        shuffle=isinstance(loader.sampler, data.RandomSampler),
        start_method=getattr(loader.multiprocessing_context, "get_start_method", lambda: None)(),
        prefetch=loader.prefetch_factor or 2,
        pin_memory=loader.pin_memory,
    )


def _pair(item: Any, name: str) -> tuple[Any, Any]:
    """Return image and mask of an entry."""
    if isinstance(item, Mapping):
        found = [next((item[key] for key in keys if key in item), None) for keys in (IMAGE_KEYS, MASK_KEYS)]
        if any(entry is None for entry in found):
            keys = f"a key of {', '.join(IMAGE_KEYS)} and one of {', '.join(MASK_KEYS)}"
            raise UsageError(f"{name}: the dict has the keys {', '.join(map(str, item))}: it needs {keys}")
        return found[0], found[1]
    if isinstance(item, Sequence) and len(item) == 2:
        return item[0], item[1]
    raise UsageError(f"{name}: an entry is a pair (image, mask), a dict or a Sample, not {type(item).__name__}")


def _inner(dataset: Any, attribute: str) -> Any:
    """Return an attribute of a data set, or of the one that it is a subset of."""
    while not (found := getattr(dataset, attribute, None)) and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    return found
