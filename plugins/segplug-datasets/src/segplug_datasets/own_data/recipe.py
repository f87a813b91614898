"""Sizes, batch, length and workers chosen from the data and the machine, each with its reason.

All numbers of this choice are the constants of this module; `choose` combines them.
"""

from __future__ import annotations

import math
import os
import shutil
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Size = tuple[int, int]
"""Height and width in pixels."""

SEEN = {"cpu": 512 * 384, "gpu": 1024 * 1024}
"""Pixels; larger images are reduced to this size: enough to show a scene, few enough to train on."""

CROP = {"cpu": 256 * 256, "gpu": 512 * 512}
"""Pixels of a training sample."""

THIN = 6.0
"""Pixels; images are not reduced so far that objects of a class become narrower: heads predict every fourth pixel."""

LITTLE = 0.8
"""Images are not reduced by a factor above this: it would gain little and lose detail."""

MULTIPLE = 32
"""Crops are multiples of the largest stride of the backbones."""

BATCH = {"cpu": 8, "gpu": 16}
GPU_MEMORY = 10.0
"""GiB: a smaller GPU gets half the batch."""

EPOCHS = 100
ITERATIONS = {"cpu": (400, 1000), "gpu": (2000, 20000)}
"""Minimum and maximum: a shorter run has not converged, a longer one gains little on data of this size."""

VALIDATIONS = 5
WORKERS = 8
SLIDE = 4 * 1024 * 1024
"""Pixels; larger images are evaluated in windows, since a whole image may not fit in memory."""

RARE = 0.02
"""A class with a smaller share of the labelled pixels is called rare."""


@dataclass(frozen=True)
class Machine:
    """A machine: CPU cores, memory in GiB, and memory of the first GPU in GiB, None without a GPU."""

    cores: int
    memory: float
    gpu: float | None = None

    @property
    def kind(self) -> str:
        """``cpu`` or ``gpu``."""
        return "cpu" if self.gpu is None else "gpu"

    @property
    def processor(self) -> str:
        """``1 core``, ``2 cores``."""
        return f"{self.cores} core{'s' * (self.cores != 1)}"

    def __str__(self) -> str:
        if self.gpu is not None:
            return f"a GPU of {self.gpu:.0f} GiB, {self.processor}"
        return f"{self.processor}, {self.memory:.0f} GiB, no GPU"


@dataclass(frozen=True)
class Facts:
    """Measurements of the training set.

    Args:
        images: Number of images.
        sizes: Height and width of each image.
        shares: Share of the labelled pixels that each class has, by name.
        widths: Typical width in pixels of the objects of each class that is not the most frequent one.
    """

    images: int
    sizes: Sequence[Size]
    shares: Mapping[str, float]
    widths: Mapping[str, float]

    @property
    def size(self) -> Size:
        """The median height and width."""
        return round(statistics.median(h for h, _ in self.sizes)), round(statistics.median(w for _, w in self.sizes))

    @property
    def rare(self) -> list[str]:
        """Classes with a share of less than `RARE` that do occur."""
        return [name for name, share in self.shares.items() if 0 < share < RARE]


@dataclass(frozen=True)
class Recipe:
    """The chosen sizes and lengths; ``why`` holds the reason for each, by its name.

    Args:
        resize: Height and width that images are scaled to fit into; None leaves them as they are.
        shown: Median height and width of the images after resizing.
        crop: Height and width of a training sample.
        windows: Whether evaluation moves a window of the crop size over the image.
        batch: Images per step.
        iterations: Number of steps.
        val_interval: Steps between two validations.
        workers: Processes that load images.
    """

    resize: Size | None
    shown: Size
    crop: Size
    windows: bool
    batch: int
    iterations: int
    val_interval: int
    workers: int
    why: Mapping[str, str]


def this_machine() -> Machine:
    """Return the cores and memory of this machine, without importing torch."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30 if hasattr(os, "sysconf") else 8.0
    return Machine(cores, memory, _gpu_memory())


def _gpu_memory() -> float | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.split()
        return float(found[0]) / 1024
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return None


def choose(
    facts: Facts, machine: Machine, iterations: int | None = None, crop: Size | None = None, small: bool = True
) -> Recipe:
    """Choose sizes, batch size, length and workers.

    Args:
        facts: Measurements of the training set.
        machine: The machine to train on.
        iterations: The length, if the user set it.
        crop: The size of a training sample, if the model is built for one.
        small: Whether the model is as small as that of ``starter``; larger ones get half the batch size.
    """
    why: dict[str, str] = {}
    resize = _resize(facts, machine, why)
    shown = facts.size if resize is None else fitted(facts.size, resize)
    if crop is None:
        crop = _crop(shown, machine, why)
    else:
        why["crop_size"] = "the model is built for this size"
    batch = _batch(facts, machine, small, why)
    length = iterations or _iterations(facts, machine, batch, why)
    if iterations:
        why["iterations"] = f"set by --iterations: {_times(length * batch / facts.images)} over the training images"
    interval = max(length // VALIDATIONS, 1)
    why["val_interval"] = f"{length // interval} validations; the best checkpoint is kept"
    windows = shown[0] * shown[1] > SLIDE
    why["windows"] = f"images of {_by(shown)} are too large to predict in one pass"
    workers = min(machine.cores, WORKERS)
    why["workers"] = f"of {machine.processor}"
    return Recipe(resize, shown, crop, windows, batch, length, interval, workers, why)


def _resize(facts: Facts, machine: Machine, why: dict[str, str]) -> Size | None:
    height, width = facts.size
    factor = min(1.0, math.sqrt(SEEN[machine.kind] / (height * width)))
    thinnest, narrow = min(facts.widths.items(), key=lambda item: item[1], default=("", THIN))
    least = min(1.0, THIN / narrow)
    if factor < least:
        factor = least
        why["resize"] = (
            f"{thinnest} is {facts.widths[thinnest]:.0f} pixels wide and must not become narrower than {THIN:.0f}"
        )
    if factor > LITTLE:
        factor = 1.0
    several = len(set(facts.sizes)) > 1
    if factor == 1.0 and not (several and _vary(facts.sizes)):
        return None
    size = max(round(height * factor), 1), max(round(width * factor), 1)
    if factor < 1.0:
        why.setdefault(
            "resize", f"images of {_by(facts.size)} are reduced to {factor:.0%}: a sample then shows more of the scene"
        )
    else:
        why["resize"] = "images differ in size: all are scaled to the median size, so that objects have similar sizes"
    return size


def _vary(sizes: Sequence[Size]) -> bool:
    """Whether the longest images are more than half longer than the shortest."""
    lengths = sorted(max(size) for size in sizes)
    return lengths[int(0.95 * (len(lengths) - 1))] > 1.5 * lengths[int(0.05 * (len(lengths) - 1))]


def fitted(size: Size, limit: Size) -> Size:
    """Return the size of an image that is scaled to fit into a limit, long edge to long edge: ``keep_ratio``."""
    factor = min(max(limit) / max(size), min(limit) / min(size))
    return round(size[0] * factor), round(size[1] * factor)


def _crop(shown: Size, machine: Machine, why: dict[str, str]) -> Size:
    whole = _up(shown[0]), _up(shown[1])
    if whole[0] * whole[1] <= 1.3 * CROP[machine.kind]:
        why["crop_size"] = f"whole images of {_by(shown)}, in multiples of {MULTIPLE}"
        return whole
    factor = math.sqrt(CROP[machine.kind] / (whole[0] * whole[1]))
    crop = min(_near(shown[0] * factor), whole[0]), min(_near(shown[1] * factor), whole[1])
    share = crop[0] * crop[1] / (shown[0] * shown[1])
    device = "a CPU" if machine.gpu is None else "a GPU"
    why["crop_size"] = f"{share:.0%} of an image of {_by(shown)}: small enough to train on {device} in reasonable time"
    return crop


def _batch(facts: Facts, machine: Machine, small: bool, why: dict[str, str]) -> int:
    batch = BATCH[machine.kind] if small else BATCH[machine.kind] // 2
    why["batch_size"] = f"for {machine}"
    if machine.gpu is not None and machine.gpu < GPU_MEMORY:
        batch //= 2
    if facts.images < 2 * batch:
        batch = max(min(batch, facts.images // 2), 2)
        why["batch_size"] = f"there are only {facts.images} training images"
    return batch


def _iterations(facts: Facts, machine: Machine, batch: int, why: dict[str, str]) -> int:
    least, most = ITERATIONS[machine.kind]
    wanted = EPOCHS * facts.images / batch
    length = int(min(max(wanted, least), most))
    length = round(length, -2)
    times = f"{_times(length * batch / facts.images)} over {facts.images} training images"
    limit = ", the maximum for a first run on this machine" if wanted > most else ""
    why["iterations"] = times + limit
    return length


def _times(epochs: float) -> str:
    return f"{epochs:.0f} times" if epochs >= 2 else "once" if epochs >= 1 else f"{epochs:.0%} of one pass"


def _up(length: int) -> int:
    return max(-(-length // MULTIPLE) * MULTIPLE, 2 * MULTIPLE)


def _near(length: float) -> int:
    return max(round(length / MULTIPLE) * MULTIPLE, 2 * MULTIPLE)


def _by(size: Size) -> str:
    return f"{size[0]} x {size[1]}"
