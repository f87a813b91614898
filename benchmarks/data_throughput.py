"""Training samples per second of one thread, compared with MMSegmentation's pipeline.

    OMP_NUM_THREADS=1 python benchmarks/data_throughput.py
    OMP_NUM_THREADS=1 python benchmarks/data_throughput.py --opencv --photos FOLDER --rounds 9
    OMP_NUM_THREADS=1 python benchmarks/data_throughput.py --reference FOLDER

Two recipes: Cityscapes (1024 x 2048 PNG, crops of 512 x 1024) and ADE20K (JPEG of 512 x 683, crops of 512 x 512). The
reference is the pipeline of MMSegmentation 1.2.2, written out below with the same libraries: OpenCV decodes images,
Pillow label maps, the whole image is resized, cropped, flipped, its colours are distorted in floating point, and the
batch is normalised and padded. ``--reference`` also measures the real one: a folder with the unpacked wheels of
mmsegmentation 1.2.2, mmengine and mmcv-lite 2.1 (their requirements addict, yapf and termcolor must be installed).

All rows but the real one draw the same random numbers, hence the same crops (the outputs are compared first). All run
in turn in this process and end with a batch of tensors; ours are uint8 and normalised on the device. Times are CPU
times of the thread, so that other processes disturb them little. ``decode`` is reading and decoding the two files by
OpenCV, and nothing else. Photometric work on the device is not counted. PNGs are decoded by kornia_rs where that is
installed (``segplug-datasets[fast-png]``), unless ``--opencv`` is given.

Images are synthetic (StreetScenes, enlarged) or read from ``--photos``; label maps are synthetic. Pillow writes the
files: it chooses a filter for each row of a PNG, as Cityscapes' files have, which takes twice as long to decode as the
single one of OpenCV. A ratio is the reference's time divided by the row's, the median over the rounds.
"""

from __future__ import annotations

import argparse
import importlib
import io
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from segkernel.data import Loader, sample_rng
from segkernel.sample import Batch
from segplug_datasets import image as images
from segplug_datasets.files import ListedFiles
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.packed import PackedDataset, pack
from segplug_datasets.street_scenes import LABELS, StreetScenes
from segplug_datasets.transforms.color import PhotoMetricDistortion
from segplug_datasets.transforms.place import RandomCrop, RandomFlip
from segplug_datasets.transforms.resize import RandomResize, Resize

MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STD = np.array([58.395, 57.12, 57.375], np.float32)
BATCH = 4


@dataclass(frozen=True)
class Recipe:
    """Files and crops of a data set; sizes are (height, width), the scale is (width, height)."""

    name: str
    size: tuple[int, int]
    suffix: str
    scale: tuple[int, int]
    crop: tuple[int, int]
    offset: int  # of the label files: 1 where 0 means unlabelled

    @property
    def labels(self) -> LabelSpec:
        """The classes and the offset of the label files."""
        return LabelSpec(LABELS.classes, LABELS.palette, offset=self.offset)


RECIPES = (
    Recipe("Cityscapes", (1024, 2048), ".png", (2048, 1024), (512, 1024), 0),
    Recipe("ADE20K", (512, 683), ".jpg", (2048, 512), (512, 512), 1),
)

Files = list[tuple[str, str, str | None]]


# ---------------------------------------------------------------- files


def write_files(recipe: Recipe, folder: Path, count: int, photos: list[Path]) -> Files:
    """Write images and label maps like those of the recipe; return their names and paths."""
    height, width = recipe.size
    scenes = StreetScenes(size=(height // 2, width // 2), length=count)
    files = Files()
    for index in range(count):
        scene = scenes[index]
        image = images.read(photos[index % len(photos)]) if photos else scene.image
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
        labels = cv2.resize(scene["seg"].array, (width, height), interpolation=cv2.INTER_NEAREST)
        path, mask = folder / f"{index}{recipe.suffix}", folder / f"{index}_labels.png"
        stored = np.where(labels == 255, 255 if recipe.offset == 0 else 0, labels + recipe.offset).astype(np.uint8)
        Image.fromarray(image).save(path, quality=75)  # about 40 KB per JPEG, as in ADE20K
        Image.fromarray(stored).save(mask)
        files.append((str(index), str(path), str(mask)))
    return files


def megabytes(files: Files) -> float:
    """Return the mean size of an image file."""
    return statistics.mean(Path(path).stat().st_size for _, path, _ in files) / 2**20


# ---------------------------------------------------------------- the reference, written out


def reference_batches(files: Files, recipe: Recipe, position: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches of normalised float32 RGB images and int64 labels endlessly; smaller images are padded."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    while True:
        samples = [reference_sample(files, recipe, position + index) for index in range(BATCH)]
        inputs = [(image[[2, 1, 0]].float() - mean) / std for image, _ in samples]
        images, labels = [], []
        for image, (_, truth) in zip(inputs, samples):
            missing = 0, max(recipe.crop[1] - image.shape[2], 0), 0, max(recipe.crop[0] - image.shape[1], 0)
            images.append(torch.nn.functional.pad(image, missing))
            labels.append(torch.nn.functional.pad(truth, missing, value=255))
        yield torch.stack(images), torch.stack(labels)
        position += BATCH


def reference_sample(files: Files, recipe: Recipe, position: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a uint8 BGR image and int64 labels; every step processes the whole output of the step before."""
    rng = sample_rng(0, 1, position)
    rng.integers(2**32)  # the loader's first draw
    _, path, mask = files[position % len(files)]
    image = cv2.imdecode(np.frombuffer(Path(path).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    labels = np.array(Image.open(io.BytesIO(Path(str(mask)).read_bytes()))).squeeze().astype(np.uint8)
    if recipe.offset:
        labels[labels == 0] = 255
        labels = labels - 1
        labels[labels == 254] = 255
    image, labels = reference_resize(image, labels, recipe, rng)
    image, labels = reference_crop(image, labels, recipe, rng)
    if rng.random() < 0.5:
        image, labels = np.flip(image, 1), np.flip(labels, 1)
    chw = reference_distortion(image, rng).transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(chw)), torch.from_numpy(labels.astype(np.int64))


def reference_resize(
    image: np.ndarray, labels: np.ndarray, recipe: Recipe, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Resize to the scale times a factor from 0.5 to 2, keeping the aspect ratio."""
    ratio = rng.random() * 1.5 + 0.5
    scale = int(recipe.scale[0] * ratio), int(recipe.scale[1] * ratio)
    height, width = Resize(scale, keep_ratio=True).target(image.shape[:2])
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image, cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)


def reference_crop(
    image: np.ndarray, labels: np.ndarray, recipe: Recipe, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Crop a window in which no class covers 75 % of the pixels or more, trying at most ten more times."""

    def draw() -> tuple[slice, slice]:
        height, width = min(recipe.crop[0], labels.shape[0]), min(recipe.crop[1], labels.shape[1])
        top, left = int(rng.integers(labels.shape[0] - height + 1)), int(rng.integers(labels.shape[1] - width + 1))
        return slice(top, top + height), slice(left, left + width)

    window = draw()
    for _ in range(10):
        values, counts = np.unique(labels[window], return_counts=True)
        counts = counts[values != 255]
        if len(counts) > 1 and counts.max() / counts.sum() < 0.75:
            break
        window = draw()
    return image[window], labels[window]


def reference_distortion(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast, saturation and hue, each in floating point on the whole image."""

    def scaled(values: np.ndarray, factor: float = 1, shift: float = 0) -> np.ndarray:
        return np.clip(values.astype(np.float32) * factor + shift, 0, 255).astype(np.uint8)

    if rng.integers(2):
        image = scaled(image, shift=rng.uniform(-32, 32))
    contrast_first = rng.integers(2) == 1
    if contrast_first and rng.integers(2):
        image = scaled(image, rng.uniform(0.5, 1.5))
    if rng.integers(2):
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        hsv[..., 1] = scaled(hsv[..., 1], rng.uniform(0.5, 1.5))
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if rng.integers(2):
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + int(rng.integers(-18, 18))) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if not contrast_first and rng.integers(2):
        image = scaled(image, rng.uniform(0.5, 1.5))
    return image


# ---------------------------------------------------------------- the reference itself


def real_batches(files: Files, recipe: Recipe, folder: Path) -> Iterator[Any]:
    """Yield the batches of MMSegmentation's own transforms and preprocessor endlessly; they draw other numbers."""
    sys.path.insert(0, str(folder))
    # The compiled operators, which the lite version lacks: models use them, transforms do not.
    sys.modules["mmcv.ops"] = Operators("mmcv.ops")
    importlib.import_module("mmcv.transforms")  # registers them
    importlib.import_module("mmseg.datasets.transforms")
    from mmengine.dataset import Compose, pseudo_collate
    from mmseg.models.data_preprocessor import SegDataPreProcessor
    from mmseg.registry import TRANSFORMS

    offset = bool(recipe.offset)
    steps = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "reduce_zero_label": offset},
        {"type": "RandomResize", "scale": recipe.scale, "ratio_range": (0.5, 2.0), "keep_ratio": True},
        {"type": "RandomCrop", "crop_size": recipe.crop, "cat_max_ratio": 0.75},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PhotoMetricDistortion"},
        {"type": "PackSegInputs"},
    ]
    transforms = Compose([TRANSFORMS.build(step) for step in steps])
    preprocessor = SegDataPreProcessor(MEAN, STD, size=recipe.crop, pad_val=0, seg_pad_val=255, bgr_to_rgb=True)
    common = {"label_map": None, "reduce_zero_label": offset}
    np.random.seed(0)
    while True:
        for first in range(0, len(files), BATCH):
            named = [{"img_path": path, "seg_map_path": mask} for _, path, mask in files[first : first + BATCH]]
            samples = [transforms({**paths, **common, "seg_fields": []}) for paths in named]
            yield preprocessor(pseudo_collate(samples), True)


class Operators(types.ModuleType):
    """A module in which every name is an empty class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


# ---------------------------------------------------------------- ours


def our_batches(
    dataset: ListedFiles | PackedDataset, recipe: Recipe, on_device: bool, position: int
) -> Iterator[Batch]:
    """Yield the framework's batches endlessly."""
    transforms = [
        RandomResize(recipe.scale, ratio_range=(0.5, 2.0), keep_ratio=True),
        RandomCrop(recipe.crop, cat_max_ratio=0.75),
        RandomFlip(0.5),
        PhotoMetricDistortion(on_device=on_device),
    ]
    return Loader(dataset, transforms, micro_batch=BATCH, shuffle=False).train_batches(position)


def decoded(files: Files, position: int) -> Iterator[None]:
    """Read and decode the two files of each sample of a batch, and nothing else, endlessly."""
    while True:
        for place in range(position, position + BATCH):
            _, path, mask = files[place % len(files)]
            cv2.imread(path), cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
        position += BATCH
        yield


def compare(files: Files, dataset: ListedFiles | PackedDataset, recipe: Recipe) -> str:
    """Return the differences of our images and labels from the reference's over two batches, as a line of text."""
    pairs = zip(range(2), reference_batches(files, recipe, 0), our_batches(dataset, recipe, False, 0))
    levels, labels = [], []
    for _, (theirs, truth), ours in pairs:
        for index, (height, width) in enumerate(ours.sizes):
            image = theirs[index, :, :height, :width].permute(1, 2, 0).numpy() * STD + MEAN
            levels.append(np.abs(ours.images[index, :, :height, :width].permute(1, 2, 0).numpy() - image))
            labels.append((truth[index, :height, :width] == ours.targets["seg"][index, :height, :width]).float().mean())
    flat = np.concatenate([level.ravel() for level in levels])
    within, share = np.quantile(flat, 0.99), min(float(label) for label in labels)
    return f"difference in grey levels: mean {flat.mean():.2f}, 99 % within {within:.0f}; equal labels: {share:.1%}"


# ---------------------------------------------------------------- the table


def measure(rows: dict[str, Callable[[], Iterator[object]]], rounds: int, batches: int) -> dict[str, list[float]]:
    """Return the milliseconds per sample of each row in each round; in a round all rows run in turn."""
    running = {name: start() for name, start in rows.items()}
    times: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(rounds + 1):
        for name, iterator in running.items():
            started = time.thread_time()
            for _ in range(batches):
                next(iterator)
            if number:  # the first warms up
                times[name].append((time.thread_time() - started) * 1000 / batches / BATCH)
    return times


def run(recipe: Recipe, options: argparse.Namespace, folder: Path, photos: list[Path]) -> None:
    """Write the files, measure and print the table of one recipe."""
    files = write_files(recipe, folder, options.count, photos)
    dataset = ListedFiles(files, recipe.labels)
    packed = pack(dataset, folder / "packed")
    rows: dict[str, Callable[[], Iterator[object]]] = {
        "reference": lambda: reference_batches(files, recipe, 0),
        "decode alone": lambda: decoded(files, 0),
        "from files": lambda: our_batches(dataset, recipe, False, 0),
        "from files, colour on the device": lambda: our_batches(dataset, recipe, True, 0),
        "packed": lambda: our_batches(packed, recipe, False, 0),
        "packed, colour on the device": lambda: our_batches(packed, recipe, True, 0),
    }
    if options.reference:
        rows["MMSegmentation itself"] = lambda: real_batches(files, recipe, options.reference)
    found = measure(rows, options.rounds, options.batches)
    divided = found["MMSegmentation itself" if options.reference else "reference"]
    size = f"{recipe.size[0]} x {recipe.size[1]}{recipe.suffix} of {megabytes(files):.2f} MB"
    print(f"\n{recipe.name}: {size}, crops of {recipe.crop[0]} x {recipe.crop[1]}")
    print(compare(files, packed, recipe))
    print(f"{'':34}{'ms':>8}{'samples/s':>11}{'ratio':>8}")
    for name, times in found.items():
        ms = statistics.median(times)
        print(f"{name:34}{ms:8.2f}{1000 / ms:11.1f}{ratio(divided, times):8.2f}", flush=True)


def ratio(first: list[float], second: list[float]) -> float:
    """Return the median over the rounds of the first time divided by the other."""
    return statistics.median(one / other for one, other in zip(first, second))


def main() -> None:
    """Measure both recipes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of images to use instead of synthetic ones")
    parser.add_argument("--opencv", action="store_true", help="decode PNGs by OpenCV, as without kornia_rs")
    parser.add_argument("--reference", type=Path, help="folder with MMSegmentation, MMEngine and MMCV, unpacked")
    parser.add_argument("--count", type=int, default=8, help="images per recipe")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", type=int, default=2, help=f"batches of {BATCH} per row and round")
    options = parser.parse_args()
    photos = sorted(p for p in options.photos.iterdir() if p.suffix in (".jpg", ".png")) if options.photos else []
    if options.opencv:
        sys.modules["kornia_rs.io"] = None  # type: ignore[assignment]  # as if it were not installed
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print(
        f"OpenCV {cv2.__version__}, numpy {np.__version__}, torch {torch.__version__}; one thread, batches of {BATCH}"
    )
    for recipe in RECIPES:
        with tempfile.TemporaryDirectory() as folder:
            run(recipe, options, Path(folder), photos)


if __name__ == "__main__":
    main()
