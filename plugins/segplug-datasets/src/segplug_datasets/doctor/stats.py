"""Statistics of a data set: mean and standard deviation per band, pixels per class, sizes, class weights.

stats = measure(inspect(parts))
print(stats[0].mean, stats[0].std, class_weights(stats[0])["median_frequency"])
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segkernel.cli import table
from segkernel.errors import DataError
from segkernel.labels import IGNORE
from segplug_datasets.doctor.counts import Inspected, pixels_per_class
from segplug_datasets.doctor.findings import to_yaml
from segplug_datasets.doctor.image_files import is_sound
from segplug_datasets.doctor.sample_info import ImageInfo, SampleInfo


@dataclass
class DatasetStats:
    """Statistics of one set.

    Args:
        set: ``train``, ``val`` or ``test``.
        classes: Class names.
        images: Number of readable images.
        unreadable: Number of unreadable images, and of those with an unusable mask.
        mean: Mean of each band, over all pixels, in image values.
        std: Standard deviation of each band, over all pixels.
        pixels: Pixels of each class; of ignored ones under `IGNORE`.
        images_with: Number of images with the class.
        pixels_with: Pixels of those images that are not ignored.
        heights: Heights of the images in pixels.
        widths: Widths of the images in pixels.
    """

    set: str
    classes: tuple[str, ...]
    images: int = 0
    unreadable: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    pixels: Counter[int] = field(default_factory=Counter)
    images_with: Counter[int] = field(default_factory=Counter)
    pixels_with: Counter[int] = field(default_factory=Counter)
    heights: list[int] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)

    @property
    def counted(self) -> int:
        """Pixels that are not ignored."""
        return self.pixels.total() - self.pixels[IGNORE]

    def share(self, class_id: int) -> float:
        """Return the share of a class among the pixels that are not ignored, 0 to 1."""
        return self.pixels[class_id] / self.counted if self.counted else 0.0


def measure(inspected: Inspected) -> list[DatasetStats]:
    """Return the statistics of each set; samples that cannot be used are counted and left out.

    Raises:
        DataError: When images of one set differ in their number of bands, or none can be read.
    """
    groups: dict[str, list[tuple[Any, SampleInfo]]] = defaultdict(list)
    classes: dict[str, tuple[str, ...]] = {}
    for part, samples in inspected:
        classes.setdefault(part.set, part.labels.classes if part.labels else ())
        groups[part.set] += [(part, sample) for sample in samples]
        if part.problem:
            raise DataError(part.problem)
    return [_measured(name, classes[name], samples) for name, samples in groups.items()]


def _measured(name: str, classes: tuple[str, ...], samples: Sequence[tuple[Any, SampleInfo]]) -> DatasetStats:
    stats = DatasetStats(name, classes)
    sound = [(part, sample) for part, sample in samples if is_sound(sample)]
    stats.images, stats.unreadable = len(sound), len(samples) - len(sound)
    if not sound:
        raise DataError(f"no sample of {name} can be read: seg-kernel data check shows why")
    stats.mean, stats.std = _spread([sample.image for _, sample in sound])
    stats.heights = [sample.image.size[0] for _, sample in sound]
    stats.widths = [sample.image.size[1] for _, sample in sound]
    for part, sample in sound:
        if sample.mask is None:
            continue
        found = pixels_per_class(sample.mask, part)
        counted = found.total() - found[IGNORE]
        stats.pixels.update(found)
        for class_id in set(found) - {IGNORE}:
            stats.images_with[class_id] += 1
            stats.pixels_with[class_id] += counted
    return stats


def _spread(infos: Sequence[ImageInfo]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation per band from the images' sums, exactly for integers."""
    bands = {len(info.sums) for info in infos}
    if len(bands) > 1:
        raise DataError(
            f"images have {' or '.join(map(str, sorted(bands)))} bands: all images of a set need the same number"
        )
    count = sum(info.size[0] * info.size[1] for info in infos)
    sums = [sum(values) for values in zip(*(info.sums for info in infos))]
    squares = [sum(values) for values in zip(*(info.squares for info in infos))]
    mean = tuple(total / count for total in sums)
    variance = [(count * square - total * total) / (count * count) for total, square in zip(sums, squares)]
    return mean, tuple(math.sqrt(max(value, 0.0)) for value in variance)


# ---------------------------------------------------------------- weights


BETA = 0.999
"""beta of the effective number; Cui et al. use 0.9 to 0.9999."""


def class_weights(stats: DatasetStats) -> dict[str, list[float]]:
    """Return weights per class, by the name of the rule; 1 for a class that never occurs.

    - ``inverse_sqrt``: 1 / sqrt(share of the pixels), scaled to a mean of 1.
    - ``median_frequency``: median of the frequencies / frequency, a class's frequency being its share of the pixels
      of the images with the class (Eigen and Fergus, 2015).
    - ``enet``: 1 / ln(1.02 + share of the pixels) (Paszke et al., 2016).
    - ``effective_number``: (1 - beta) / (1 - beta^n), scaled to a mean of 1, beta 0.999 (Cui et al., 2019). n
      is the number of images with the class: with pixel counts all weights would be equal.
    """
    present = [i for i in range(len(stats.classes)) if stats.pixels[i]]
    if not present:
        return {}
    share = {i: stats.share(i) for i in present}
    frequency = {i: stats.pixels[i] / stats.pixels_with[i] for i in present}
    median = statistics.median(frequency.values())
    rules = {
        "inverse_sqrt": _scaled({i: share[i] ** -0.5 for i in present}),
        "median_frequency": {i: median / frequency[i] for i in present},
        "enet": {i: 1 / math.log(1.02 + share[i]) for i in present},
        "effective_number": _scaled({i: (1 - BETA) / (1 - BETA ** stats.images_with[i]) for i in present}),
    }
    every = range(len(stats.classes))
    return {name: [round(weights.get(i, 1.0), 4) for i in every] for name, weights in rules.items()}


def _scaled(weights: Mapping[int, float]) -> dict[int, float]:
    mean = sum(weights.values()) / len(weights)
    return {class_id: weight / mean for class_id, weight in weights.items()}


# ---------------------------------------------------------------- output


def as_dict(stats: DatasetStats) -> dict[str, Any]:
    """Return the statistics of a set for JSON."""
    every = range(len(stats.classes))
    return {
        "set": stats.set,
        "images": stats.images,
        "unreadable": stats.unreadable,
        "mean": list(stats.mean),
        "std": list(stats.std),
        "height": _range(stats.heights),
        "width": _range(stats.widths),
        "aspect": _range([w / h for w, h in zip(stats.widths, stats.heights)]),
        "ignored_pixels": stats.pixels[IGNORE],
        "classes": [
            {
                "name": stats.classes[i],
                "pixels": stats.pixels[i],
                "share": stats.share(i),
                "images": stats.images_with[i],
            }
            for i in every
        ],
        "class_weight": class_weights(stats),
    }


def as_text(stats: DatasetStats) -> str:
    """Return the statistics of one set as text."""
    facts = as_dict(stats)
    left_out = f", {stats.unreadable} left out" if stats.unreadable else ""
    sizes = "  ".join(f"{name} {_shown(facts[name])}" for name in ("height", "width", "aspect"))
    lines = [f"{stats.set}: {stats.images} images{left_out}", f"sizes (min, median, max)  {sizes}", ""]
    bands = [(str(band), f"{mean:.3f}", f"{std:.3f}") for band, (mean, std) in enumerate(zip(stats.mean, stats.std))]
    lines.append(table([("band", "mean", "std"), *bands]))
    if stats.pixels:
        lines += ["", table(_class_rows(facts))]
    return "\n".join(lines)


def _class_rows(facts: Mapping[str, Any]) -> list[tuple[str, ...]]:
    weights = facts["class_weight"]
    total = sum(entry["pixels"] for entry in facts["classes"]) + facts["ignored_pixels"]
    rows = [("class", "pixels", "share", "images", *weights)]
    for place, entry in enumerate(facts["classes"]):
        own = (f"{values[place]:.3f}" for values in weights.values())
        rows.append((entry["name"], str(entry["pixels"]), f"{entry['share']:.2%}", str(entry["images"]), *own))
    ignored = facts["ignored_pixels"]
    return [
        *rows,
        ("(ignored)", str(ignored), f"{ignored / total if total else 0:.2%}", "", *("" for _ in weights)),
    ]


def config_lines(stats: DatasetStats, rule: str = "median_frequency") -> str:
    """Return the config lines that normalise by these statistics and weight classes by a rule."""
    preprocess = {"mean": [round(v, 3) for v in stats.mean], "std": [round(v, 3) or 1.0 for v in stats.std]}
    lines = to_yaml({"data": {"preprocess": preprocess}})
    weights = class_weights(stats)
    if not weights:
        return lines
    others = "\n".join(f"#     {name}: {values}" for name, values in weights.items() if name != rule)
    loss = {"model": {"decode_head": {"loss_decode": {"type": "CrossEntropyLoss", "class_weight": weights[rule]}}}}
    return f"{lines}\n# {rule}; the others are\n{others}\n{to_yaml(loss)}"


def _range(values: Sequence[float]) -> list[float]:
    return [round(float(v), 4) for v in (min(values), statistics.median(values), max(values))]


def _shown(values: Sequence[float]) -> str:
    return "/".join(f"{value:g}" for value in values)
