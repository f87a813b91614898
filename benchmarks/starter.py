"""`starter` on your own data, compared with a plain U-Net script with its usual recipe and the same CPU time.

    python benchmarks/starter.py path/to/data             # all sets that are there
    python benchmarks/starter.py path/to/data drive isbi2012 --iterations 300
    python benchmarks/starter.py path/to/data camvid crackforest --iterations 300 --against unet_starter

Each set is copied as a new user's folder, PNG masks of class ids in ``train``, ``val`` and ``test``. Then
`seg-kernel init` and `seg-kernel run` work on it, and after them ``plain_unet.py`` in the CPU time that the run took,
its validations included; or, with ``--against``, another recipe of the zoo, with the iterations that fit in that time.
Nothing is pretrained. The table shows the test mIoU.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

Pairs = dict[str, list[tuple[Path, Path]]]
PLAIN = Path(__file__).with_name("plain_unet.py")


def camvid(root: Path) -> Pairs:
    """Street scenes, 11 classes; label 11 is ignored."""
    return {split: pairs(root / split, root / f"{split}annot") for split in ("train", "val", "test")}


def crackforest(root: Path) -> Pairs:
    """Cracks in roads; the two rare labels beyond the crack are ignored."""
    return split(pairs(root / "images", root / "crack"))


def penn_fudan(root: Path) -> Pairs:
    """Pedestrians, of all instances together."""
    return split(pairs(root / "images", root / "instance_masks"))


def drive(root: Path) -> Pairs:
    """Vessels of the retina; pixels outside the field of view count, as they do for who does not know of it."""
    known = split(pairs(root / "train/images", root / "train/vessel"), test=0)
    return {**known, "test": pairs(root / "test/images", root / "test/vessel")}


def isbi2012(root: Path) -> Pairs:
    """Membranes of cells under an electron microscope."""
    return split(pairs(root / "train/images", root / "train/membrane"))


SETS: dict[str, tuple[Callable[[Path], Pairs], int]] = {
    "camvid": (camvid, 11),
    "crackforest": (crackforest, 2),
    "penn_fudan": (penn_fudan, 2),
    "drive": (drive, 2),
    "isbi2012": (isbi2012, 2),
}
"""Of each set: where its files are, and its number of classes."""


def pairs(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Return the images of a folder that have a mask of the same name."""
    named = {path.stem: path for path in masks.iterdir()}
    return [(path, named[path.stem]) for path in sorted(images.iterdir()) if path.stem in named]


def split(found: list[tuple[Path, Path]], val: float = 0.15, test: float = 0.2) -> Pairs:
    """Divide pairs at random, with a seed that is always the same."""
    found = random.Random(0).sample(found, len(found))
    first, second = round(len(found) * test), round(len(found) * (test + val))
    return {"test": found[:first], "val": found[first:second], "train": found[second:]}


def copy(found: Pairs, name: str, classes: int, folder: Path) -> None:
    """Write a set as a user would have it: images as they are, masks of class ids, 255 for what does not count."""
    for part, files in found.items():
        for kind in ("images", "masks"):
            (folder / part / kind).mkdir(parents=True, exist_ok=True)
        for image, mask in files:
            shutil.copy(image, folder / part / "images" / image.name)
            ids = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
            ids = np.minimum(ids, 1) if name == "penn_fudan" else np.where(ids < classes, ids, 255).astype(np.uint8)
            cv2.imwrite(str(folder / part / "masks" / f"{image.stem}.png"), ids)


def timed(command: list[str], cwd: Path) -> float:
    """Run a command and return the CPU time of it and all its children, in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with (cwd / "log.txt").open("a") as log:
        if subprocess.run(command, cwd=cwd, stdout=log, stderr=log).returncode:
            sys.exit(f"failed: {' '.join(command)}\n    {log.name}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def train(folder: Path, iterations: int | None, recipe: str = "starter") -> tuple[float, float]:
    """Train a recipe with the command that a user would type; return the CPU time and the test mIoU."""
    command = [sys.executable, "-m", "segkernel"]
    timed([*command, "init", ".", "--out", "my.yaml", "--force"], folder)
    config = (folder / "my.yaml").read_text("utf-8")
    (folder / "my.yaml").write_text(config.replace("_base_: starter", f"_base_: {recipe}"), "utf-8")
    runs = folder / "runs" / recipe
    shutil.rmtree(runs, ignore_errors=True)
    overrides = [f"schedule.iterations={iterations}"] if iterations else []
    seconds = timed([*command, "run", "my.yaml", "--work-dir", str(runs), *overrides], folder)
    return seconds, json.loads((runs / "metrics.jsonl").read_text("utf-8").splitlines()[-1])["mIoU"]


def train_for(folder: Path, seconds: float, recipe: str) -> tuple[float, float]:
    """Train a recipe for about this CPU time; two short runs tell what an iteration costs, and what all else."""
    few, more = (train(folder, iterations, recipe)[0] for iterations in (10, 40))
    each = (more - few) / 30
    return train(folder, max(40, round(10 + (seconds - few) / each)), recipe)


def train_plain(folder: Path, classes: int, seconds: float) -> tuple[float, float]:
    """Train the plain script for this CPU time."""
    options = ["--classes", str(classes), "--seconds", str(seconds), "--out", "plain.json"]
    taken = timed([sys.executable, str(PLAIN), ".", *options], folder)
    return taken, json.loads((folder / "plain.json").read_text("utf-8"))["mIoU"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the sets")
    parser.add_argument("sets", nargs="*", default=list(SETS))
    parser.add_argument("--iterations", type=int, help="of `starter`; what init chooses without it")
    parser.add_argument("--against", metavar="RECIPE", help="a recipe of the zoo instead of the plain U-Net")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/starter"))
    args = parser.parse_args()
    rows = []
    other = args.against or "plain U-Net"
    print(
        f"| set | CPU time, s | {other}, CPU time, s | {other}, mIoU | starter, mIoU |\n| --- | --- | --- | --- | --- |"
    )
    for name in args.sets:
        files, classes = SETS[name]
        folder = (args.work_dir / name).resolve()
        copy(files(args.data / name), name, classes, folder)
        seconds, ours = train(folder, args.iterations)
        run = train_for(folder, seconds, args.against) if args.against else train_plain(folder, classes, seconds)
        rows.append((seconds, *run, ours))
        print(row(name, rows[-1]), flush=True)
    print(row("mean", [statistics.mean(column) for column in zip(*rows, strict=True)]))


def row(name: str, figures: Sequence[float]) -> str:
    """Return a line of the table."""
    return "| {} | {:.0f} | {:.0f} | {:.1f} | {:.1f} |".format(name, *figures)


if __name__ == "__main__":
    main()
