"""Models side by side: the same data part, schedule and overrides for each, what still differs, and what comes of it.

    python benchmarks/fair.py fast_scnn pidnet-s stdc1 --schedule 4xb2-20k --data streetscenes \\
        --set schedule.iterations=300 --set 'optim.optimizer={type: AdamW, lr: 0.001, _delete_: true}' --out table.md

A model is a name of the zoo before schedule and data. Each is trained and tested in a process of its own, from random
weights unless ``--pretrained``. Images per second are of whole predictions, one image at a time, on the device that is
there; memory is the process's at its largest, or the graphics card's.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkernel.config import Config, load_config
from segkernel.config.marks import plain

COLUMNS = ("model", "mIoU", "M params", "GFLOPs", "images/s", "train s", "memory MB")
COMPARED = ("optim", "schedule", "data", "engine")


def config_of(model: str, options: argparse.Namespace) -> Config:
    """Return the whole config of a model."""
    name = f"{model}_{options.schedule}_{options.data}"
    overrides = list(options.set)
    if not options.pretrained:
        found = load_config(name)["model"]
        overrides += ["~model.pretrained"] if "pretrained" in found else []
        overrides += ["~model.backbone.pretrained"] if "pretrained" in found.get("backbone", {}) else []
    return load_config(name, overrides)


def differences(configs: Mapping[str, Config]) -> list[tuple[str, dict[str, Any]]]:
    """Return the hyper-parameters that are not the same for all models, with the value of each."""
    flat = {model: dict(_flat({key: plain(config.get(key)) for key in COMPARED})) for model, config in configs.items()}
    keys = sorted({key for values in flat.values() for key in values})
    rows = [(key, {model: values.get(key, "-") for model, values in flat.items()}) for key in keys]
    return [(key, values) for key, values in rows if len({json.dumps(value) for value in values.values()}) > 1]


def _flat(value: Any, path: str = "") -> Any:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _flat(entry, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def measure(model: str, options: argparse.Namespace) -> dict[str, str]:
    """Train and test a model and return its row; to be called in a fresh process."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from segkernel.experiment import make_runner

    config = config_of(model, options)
    runner = make_runner(config)
    start = time.perf_counter()
    runner.run()
    seconds = time.perf_counter() - start
    figures = dict(runner.metrics)
    net = runner.model.eval()
    height, width = config["data"]["crop_size"]
    image = torch.randn(1, 3, height, width, device=runner.engine.device)
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            net(image)
        rate = _rate(lambda: runner.engine.predict(image), runner.engine.device.type == "cuda")
    on_card = runner.engine.device.type == "cuda"
    memory = torch.cuda.max_memory_allocated() / 2**20 if on_card else _resident()
    return {
        "model": model,
        "mIoU": f"{figures['mIoU']:.1f}",
        "M params": f"{sum(p.numel() for p in net.parameters()) / 1e6:.1f}",
        "GFLOPs": f"{counter.get_total_flops() / 1e9:.2f}",
        "images/s": f"{rate:.0f}",
        "train s": f"{seconds:.0f}",
        "memory MB": f"{memory:.0f}",
    }


def _rate(predict: Any, on_card: bool, seconds: float = 2.0) -> float:
    import torch

    for _ in range(3):
        predict()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        predict()
        if on_card:
            torch.cuda.synchronize()
        count += 1
    return count / (time.perf_counter() - start)


def _resident() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table(rows: list[dict[str, str]]) -> str:
    """Return the rows as Markdown, the best mIoU first."""
    ordered = sorted(rows, key=lambda row: -float(row["mIoU"]))
    lines = ["| " + " | ".join(COLUMNS) + " |", "| --- " + "| ---: " * (len(COLUMNS) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row[column] for column in COLUMNS) + " |" for row in ordered)])


def unequal(rows: list[tuple[str, dict[str, Any]]]) -> str:
    """Return what differs between the models as Markdown, a line per key."""
    lines = []
    for key, values in rows:
        groups: dict[str, list[str]] = {}
        for model, value in values.items():
            groups.setdefault(json.dumps(value), []).append(model)
        common = max(groups, key=lambda text: len(groups[text]))
        others = "; ".join(f"`{text}` for {', '.join(models)}" for text, models in groups.items() if text != common)
        lines.append(f"- `{key}`: `{common}`, but {others}")
    return "\n".join(lines) or "Nothing."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--schedule", default="4xb2-20k")
    parser.add_argument("--data", default="streetscenes")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an override for all")
    parser.add_argument("--pretrained", action="store_true", help="start from the weights the configs name")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the tables there")
    parser.add_argument("--here", action="store_true", help="run the one model in this process, print JSON")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.models[0], options)))
        return
    text = f"### What is not equal\n\n{unequal(differences({m: config_of(m, options) for m in options.models}))}\n"
    print(text, flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            arguments = [argument for argument in sys.argv[1:] if argument not in options.models]
            work_dir = f"+work_dir={folder}/{model}"
            command = [sys.executable, __file__, model, *arguments, "--here", "--set", work_dir]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{model} failed")
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(rows[-1]), flush=True)
    text = f"{table(rows)}\n\n{text}"
    print(f"\n{text}")
    if options.out:
        options.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
