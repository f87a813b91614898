"""Images per second of `IoUMetric` on one thread, compared with a loop over ``np.bincount``.

    OMP_NUM_THREADS=1 python benchmarks/metric_throughput.py

Both count the same pairs of label maps, in turn in this process, and must compute the same mIoU. Predictions are
tensors, as from a model. Times are CPU times of the thread, so that other processes disturb them little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import cv2
import numpy as np
import torch

from segplug_datasets.metrics.iou import IoUMetric

CASES = {"Cityscapes": (1024, 2048, 19), "ADE20K": (512, 683, 150), "binary": (512, 512, 2)}

Pair = tuple[torch.Tensor, torch.Tensor]


def make_pairs(height: int, width: int, classes: int, count: int) -> list[Pair]:
    """Make predictions and labels of large regions, with 10 % wrong and 2 % ignored pixels."""
    rng, pairs = np.random.default_rng(0), []
    for _ in range(count):
        coarse = rng.integers(0, classes, (height // 32 + 1, width // 32 + 1), dtype=np.uint8)
        truth = coarse.repeat(32, 0).repeat(32, 1)[:height, :width].copy()
        predicted = np.where(rng.random(truth.shape) < 0.1, rng.integers(0, classes, truth.shape), truth)
        truth[rng.random(truth.shape) < 0.02] = 255
        pairs.append((torch.from_numpy(predicted.astype(np.uint8)), torch.from_numpy(truth)))
    return pairs


def plain(pairs: Sequence[Pair], classes: int) -> float:
    """Return the mIoU in percent, counted with ``np.bincount``."""
    confusion = np.zeros((classes, classes), np.int64)
    for predicted, truth in pairs:
        labels, guesses = truth.numpy(), predicted.numpy()
        counted = labels != 255
        codes = classes * labels[counted].astype(np.int64) + guesses[counted]
        confusion += np.bincount(codes, minlength=classes**2).reshape(classes, classes)
    hits = np.diag(confusion)
    return float(100 * np.mean(hits / (confusion.sum(0) + confusion.sum(1) - hits)))


def ours(pairs: Sequence[Pair], classes: int) -> float:
    """Return the mIoU in percent, counted by `IoUMetric`."""
    metric = IoUMetric(classes=[str(index) for index in range(classes)])
    for predicted, truth in pairs:
        metric.update(predicted, truth)
    return metric.compute()["mIoU"]


def main() -> None:
    """Print a row per size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=8, help="images of each size")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print(f"{'':12}{'size':>12}{'classes':>9}{'plain ms':>10}{'ours ms':>9}{'images/s':>10}{'ratio':>7}{'mIoU':>8}")
    for name, (height, width, classes) in CASES.items():
        pairs = make_pairs(height, width, classes, options.count)
        times: dict[str, list[float]] = {"plain": [], "ours": []}
        for _ in range(options.rounds):
            values = []
            for kind, count in (("plain", plain), ("ours", ours)):
                started = time.thread_time()
                values.append(count(pairs, classes))
                times[kind].append((time.thread_time() - started) * 1000 / len(pairs))
            assert abs(values[0] - values[1]) < 1e-6, values
        usual, found = statistics.median(times["plain"]), statistics.median(times["ours"])
        size, rate, ratio = f"{height} x {width}", 1000 / found, usual / found
        print(f"{name:12}{size:>12}{classes:9}{usual:10.2f}{found:9.2f}{rate:10.0f}{ratio:7.2f}{values[1]:8.2f}")


if __name__ == "__main__":
    main()
