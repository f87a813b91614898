"""Peak memory of one large image in memory, predicted in sliding windows: a SIDE x SIDE image of six classes.

    python benchmarks/large_image.py --side 10000 --blend gaussian

The model has random weights. Memory is what the prediction adds to the process, in which the image already is.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from segkernel import Predictor

CLASSES = 6


def texture(side: int) -> np.ndarray:
    """Return an image (side, side, 3), made strip by strip."""
    rng, pixels = np.random.default_rng(0), np.empty((side, side, 3), np.uint8)
    for strip in np.array_split(pixels, max(side // 500, 1)):
        coarse = rng.integers(0, 256, (9, max(side // 64, 1), 3)).astype(np.uint8)
        cv2.resize(coarse, (side, len(strip)), dst=strip)
    return pixels


def status(key: str) -> float:
    """Return a number of MB from the status of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--blend", choices=["uniform", "gaussian"], default="uniform")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--model", default="fast_scnn_8xb4-160k_cityscapes-512x1024")
    options = parser.parse_args()
    torch.manual_seed(0)
    stride = options.window * 3 // 4
    windows = {"crop_size": (options.window,) * 2, "stride": (stride,) * 2, "blend": options.blend}
    predictor = Predictor(
        options.model,
        device="cpu",
        classes=[str(index) for index in range(CLASSES)],
        overrides=[f"model.decode_head.num_classes={CLASSES}", "model.auxiliary_head=null"],
        random_weights=True,
        transforms=[],
        test_cfg={"mode": "slide", **windows},
    )
    pixels = texture(options.side)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak of resident memory
    start = time.process_time()
    labels = predictor.predict(pixels).labels
    seconds = time.process_time() - start
    assert labels.shape == pixels.shape[:2]
    print(
        f"{options.side} x {options.side}, {options.blend}: {status('VmHWM') - before:.0f} MB, {seconds:.0f} s CPU time"
    )


if __name__ == "__main__":
    main()
