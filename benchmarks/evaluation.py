"""CPU time and mIoU of a test: by the plain path, with fast labels, and with the faster model as well.

    python benchmarks/evaluation.py segformer-b0 --count 8

Random weights, images and masks in memory of the size in `inference.MODELS`; one thread. Reading files is not included.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import cv2
import numpy as np
import torch
from inference import MODELS, _with_spread_logits

from segkernel import Evaluation, LocalEngine, Runner
from segkernel.config import load_config
from segkernel.hookspecs import Run, hookimpl
from segkernel.loading import make_model
from segkernel.sample import LabelMap, Sample
from segplug_datasets import IoUMetric
from segplug_deploy.evaluation import FastEvaluationHook


class Blobs:
    """Images and masks of random squares of 32 pixels, the images smoothed."""

    def __init__(self, classes: int, size: tuple[int, int], count: int) -> None:
        self.classes = tuple(map(str, range(classes)))
        self.palette = tuple((index, index, index) for index in range(classes))
        self.size, self.count = size, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        rng, (height, width) = np.random.default_rng(index), self.size
        coarse = rng.integers(0, 255, (height // 32, width // 32, 3)).astype(np.uint8)
        labels = rng.integers(0, len(self.classes), coarse.shape[:2]).astype(np.uint8)
        mask = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)
        return Sample({"seg": LabelMap(mask)}, {}, cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


class PlainPath(FastEvaluationHook):
    """Changes nothing."""

    @hookimpl
    def before_test(self, run: Run) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", choices=list(MODELS))
    parser.add_argument("--count", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | path | CPU time, s | mIoU |\n| --- | --- | --- | --- |")
    for name in options.models:
        config, size = MODELS[name]
        torch.manual_seed(0)
        model = _with_spread_logits(make_model(load_config(config), pretrained=False).eval())
        data = Blobs(model.outputs["seg"].classes, size, options.count)
        hooks = {"plain": PlainPath(), "labels": FastEvaluationHook(optimize=False), "model": FastEvaluationHook()}
        for path, hook in hooks.items():
            evaluation = Evaluation([IoUMetric()], test_cfg={"mode": "whole"})
            parts = {"test": data, "hooks": [hook], "engine": LocalEngine("cpu"), "evaluation": evaluation}
            runner = Runner(model, work_dir=tempfile.mkdtemp(), **parts)
            start = time.process_time()
            metrics = runner.test()
            print(f"| {name} | {path} | {time.process_time() - start:.1f} | {metrics['mIoU']:.6f} |", flush=True)
            runner.close()


if __name__ == "__main__":
    main()
