"""Write docs/assets/zoo-latency.json: milliseconds of a forward pass of every packaged model, for the table of the zoo.

    OMP_NUM_THREADS=1 python tools/zoo_latency.py            # models that are not yet in the file; half an hour
    OMP_NUM_THREADS=1 python tools/zoo_latency.py 'pidnet*'  # these again

One image of 512 x 512 pixels, float32, one thread, random weights, and the classes of the first published experiment of
each model. CPU time is counted, so that other processes change the result little: the median of three passes, or one
pass if it takes more than two seconds, after one of a small image.
"""

from __future__ import annotations

import fnmatch
import json
import statistics
import sys
import time

import torch
from zoo_costs import FILE as COSTS
from zoo_costs import experiments

from segkernel.config import load_config
from segkernel.inference import Preprocessor
from segkernel.loading import make_model

FILE = COSTS.with_name("zoo-latency.json")
SIZE = 512
LONG = 2.0
"""Seconds of a pass above which one is enough."""


def latency(name: str) -> float:
    """Return the milliseconds of a pass of a packaged experiment's model."""
    config = load_config(name, [f"data.crop_size=[{SIZE},{SIZE}]"])
    model = make_model(config, pretrained=False).eval()
    channels = Preprocessor(**(config["data"].get("preprocess") or {})).mean.numel()
    with torch.inference_mode():
        model(torch.rand(1, channels, SIZE // 4, SIZE // 4))
        image, seconds = torch.rand(1, channels, SIZE, SIZE), []
        while len(seconds) < (3 if max(seconds, default=0) < LONG else 1):
            start = time.process_time()
            model(image)
            seconds.append(time.process_time() - start)
    return 1000 * statistics.median(seconds)


def main(patterns: list[str]) -> None:
    """Measure what the patterns select, else what is missing, and write the file after each model."""
    known: dict[str, float] = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
    costs = json.loads(COSTS.read_text("utf-8"))
    first: dict[str, str] = {}
    for each in experiments():
        first.setdefault(each.name.rsplit("_", 2)[0], each.name)
    for model, name in sorted(first.items(), key=lambda pair: costs[pair[1]][1] or float("inf")):  # small first
        if any(fnmatch.fnmatch(model, pattern) for pattern in patterns) if patterns else model not in known:
            known[model] = round(latency(name))
            print(f"{model} {known[model]} ms", flush=True)
            lines = (f"{json.dumps(model)}: {value}" for model, value in sorted(known.items()))
            FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
