"""Run all GPU tests and measurements with one command, part by part.

    python benchmarks/gpu.py --camvid path/to/camvid

Each part is a separate process with a limit of nine minutes, and its result is written to a JSON file as soon as it
ends. Parts that are done are not run again, so that an interrupted command can be repeated to continue; those that
failed, ran out of time or were skipped are. The results of a GPU are also written to ``docs/measurements-gpu.md``.
``--small --device cpu`` runs the same parts on the CPU.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from train_step import RECIPES, make_batch

from segkernel.config import load_config
from segkernel.experiment import make_runner
from segkernel.loading import make_model
from segplug_training.cuda import CUDAEngine

ROOT = Path(__file__).parents[1]
LIMIT = 9 * 60
"""Time limit of a part in seconds."""
SKIPPED = 77
"""Exit code of a part that lacks an argument."""
FAMILIES = {
    "pspnet": "pspnet_r50-d8_4xb2-20k_streetscenes",
    "deeplabv3plus": "deeplabv3plus_r50-d8_4xb2-20k_streetscenes",
    "segformer": "segformer_mit-b0_4xb2-20k_streetscenes",
    "mask2former": "mask2former_r50_4xb2-20k_streetscenes",
    "fastscnn": "fast_scnn_4xb2-20k_streetscenes",
}


@dataclass(frozen=True)
class Options:
    """Options of all parts.

    Args:
        device: Device to run on.
        small: Use the smallest sizes that work.
        camvid: Folder of CamVid, or None if it is not available.
    """

    device: str
    small: bool
    camvid: str | None


def synchronised(device: str) -> float:
    """Wait for a device and return the time in seconds."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def milliseconds(function: Callable[[], object], device: str, count: int) -> float:
    """Return the median time of a call in milliseconds."""
    times = []
    for _ in range(count + 2):
        started = synchronised(device)
        function()
        times.append(1000 * (synchronised(device) - started))
    return statistics.median(times[2:])  # the first two warm up


def call(*command: str) -> None:
    """Run a command, and exit with its exit code if that is not 0."""
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code:
        sys.exit(code)


# ---------------------------------------------------------------- parts


def gpu_tests(options: Options) -> None:
    """Run the test files that contain tests for a GPU."""
    every = [*ROOT.glob("plugins/*/tests/**/test_*.py"), *ROOT.glob("kernel/tests/**/test_*.py")]
    files = [str(path) for path in sorted(every) if "cuda.is_available()" in path.read_text("utf-8")]
    only = ("-k", "_cuda_") if options.small else ()
    call(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *only, *files)


def run_config(name: str, options: Options, *overrides: str) -> None:
    """Train and test a packaged config on the command line."""
    least = ["schedule.iterations=2", "schedule.val_interval=2", "data.crop_size=[64,64]", "optim.batch_size=2"]
    least += ["export=[]", "hooks=[]", "data.workers=0"] if options.small else []
    with tempfile.TemporaryDirectory() as folder:
        changes = [f"engine.device={options.device}", *overrides, *(least if options.small else ())]
        call(sys.executable, "-m", "segkernel", "run", name, *changes, "--work-dir", folder)


def quickstart(options: Options) -> None:
    """Run the quick start."""
    fewer = ("+data.val.length=2", "+data.test.length=2") if options.small else ()
    run_config("quickstart", options, *fewer)


def camvid(options: Options) -> None:
    """Train on CamVid from scratch."""
    if options.camvid is None:
        print("--camvid DIR is not given")
        sys.exit(SKIPPED)
    run_config("camvid", options, f"data.train.data_root={Path(options.camvid).absolute()}")


def recipe(family: str, amp: str, options: Options) -> None:
    """Train a packaged recipe for 100 iterations; its loss must be finite and decrease."""
    count, size = (20, 64) if options.small else (100, 512)
    # The published schedules start from pretrained weights and warm up for longer than this.
    learn = ["optim.optimizer={type: AdamW, lr: 0.0003, _delete_: true}", "schedule.lr=[]"]
    data = [f"data.crop_size=[{size},{size}]", f"+data.train.size=[{size},{size}]", "~data.val", "~data.test"]
    data += ["optim.batch_size=2", "+data.workers=0"] if options.small else ["optim.batch_size=8", "+data.workers=4"]
    with tempfile.TemporaryDirectory() as folder:
        place = [f"+work_dir={folder}", f"+engine.device={options.device}", f"+engine.amp={amp}"]
        steps = [f"schedule.iterations={count}", "+model.pretrained=null"]
        config = load_config(FAMILIES[family], [*learn, *data, *place, *steps])
        make_runner(config).run()
        lines = Path(folder, "metrics.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    losses = [record["loss"] for record in records if record.get("kind") == "train"]
    print("loss, means of ten iterations:", *losses)
    if None in losses or not losses[-1] < losses[0]:  # a non-finite loss is written as null
        sys.exit("the loss is not finite or does not decrease")


def steps(name: str, options: Options) -> None:
    """Time the optimiser steps of a model."""
    least = ("--size", "64x128", "--batch", "2", "--steps", "1", "--kinds", "plain float32", "engine, bfloat16")
    small = least if options.small else ()
    script = str(ROOT / "benchmarks" / "train_step.py")
    call(sys.executable, script, "--models", name, "--device", options.device, *small)


def loss_memory(options: Options) -> None:
    """Measure the memory of the loss of upsampled logits."""
    small = ("--size", "256", "--batch", "2") if options.small else ()
    call(sys.executable, str(ROOT / "benchmarks" / "loss_memory.py"), "--device", options.device, *small)


def prefetch(options: Options) -> None:
    """Measure how much of the copying of batches overlaps with the computation."""
    size, count = ((32, 32), 4) if options.small else ((1024, 1024), 40)
    engine, channels = CUDAEngine(options.device), 4 if options.small else 64
    batch = make_batch(size, 16, 19)
    if engine.device.type == "cuda":
        batch = batch.pin_memory()
    convolution = torch.nn.Conv2d(3, channels, 7, stride=4).to(engine.device)

    def compute(moved: Any) -> None:
        for _ in range(4):
            convolution(moved.images.float())

    def overlapped() -> None:
        for moved in engine.transfer([batch] * count):
            compute(moved)

    def sequential() -> None:
        for _ in range(count):
            moved = batch.to(engine.device)
            synchronised(options.device)
            compute(moved)
            synchronised(options.device)

    resident = batch.to(engine.device)
    with torch.no_grad():
        copying = milliseconds(lambda: batch.to(engine.device), options.device, count)
        computing = milliseconds(lambda: compute(resident), options.device, count)
        slow, fast = (milliseconds(function, options.device, 3) / count for function in (sequential, overlapped))
    print(f"per batch: copying {copying:.3f} ms, computing {computing:.3f} ms")
    print(f"sequential {slow:.3f} ms, on separate streams {fast:.3f} ms")
    if engine.device.type == "cuda":  # on the CPU nothing is copied
        print(f"overlap: {(slow - fast) / min(copying, computing):.0%} of the shorter one")


def latency(options: Options) -> None:
    """Time the prediction of one image."""
    print(f"{'model':14}{'image':>12}{'float32 ms':>12}{'bfloat16 ms':>13}")
    device = torch.device(options.device)
    for name, (config, size, _) in list(RECIPES.items())[-1 if options.small else 0 :]:
        size = (64, 64) if options.small else size
        model = make_model(load_config(config), pretrained=False).eval().to(device)
        image, times = torch.randn(1, 3, *size, device=device), []
        for context in (nullcontext(), torch.autocast(device.type, torch.bfloat16)):
            with torch.inference_mode(), context:
                times.append(milliseconds(partial(model.predict, image), options.device, 3 if options.small else 50))
        print(f"{name:14}{f'{size[0]} x {size[1]}':>12}{times[0]:12.2f}{times[1]:13.2f}", flush=True)


def metrics(options: Options) -> None:
    """Compute the mIoU on the device, and after copying the label maps to the CPU; both must be equal."""
    from metric_throughput import make_pairs

    from segplug_datasets.metrics.iou import IoUMetric

    size, classes, count = ((64, 64), 19, 2) if options.small else ((1024, 2048), 19, 8)
    pairs = [tuple(labels.to(options.device) for labels in pair) for pair in make_pairs(*size, classes, count)]

    def miou(move: Callable[[torch.Tensor], torch.Tensor]) -> float:
        metric = IoUMetric(classes=[str(index) for index in range(classes)])
        for predicted, truth in pairs:
            metric.update(move(predicted), move(truth))
        return metric.compute()["mIoU"]

    found: dict[str, float] = {}
    for name, move in (("on the device", torch.Tensor.detach), ("copied first", torch.Tensor.cpu)):
        found[name] = miou(move)
        print(f"{name:14} {milliseconds(partial(miou, move), options.device, 5) / count:8.3f} ms per image")
    print(f"mIoU {found['on the device']:.4f}")
    if not math.isclose(*found.values(), rel_tol=1e-9):
        sys.exit(f"the mIoU differs: {found}")


PARTS: dict[str, Callable[[Options], None]] = {
    "metrics on the device": metrics,
    "prefetch": prefetch,
    "inference latency": latency,
    "memory of the loss": loss_memory,
    "GPU tests": gpu_tests,
    "quick start": quickstart,
    **{f"{name} in {amp}": partial(recipe, name, amp) for name in FAMILIES for amp in ("bfloat16", "float16")},
    **{f"steps of {name}": partial(steps, name) for name in RECIPES},
    "CamVid": camvid,
}


# ---------------------------------------------------------------- running them


def timed(command: Sequence[str], limit: float) -> dict[str, Any]:
    """Run the process of a part for at most ``limit`` seconds, then kill its group; return state, time and output."""
    started = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(limit)
            state = {0: "done", SKIPPED: "skipped"}.get(code, f"failed with exit code {code}")
        except subprocess.TimeoutExpired:
            state = f"timed out after {limit:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        lines = output.read().replace("\r", "\n").splitlines()
    return {"state": state, "seconds": round(time.monotonic() - started, 1), "output": lines[-40:]}


def machine(options: Options) -> dict[str, Any]:
    """Return the device, torch version and sizes that the results depend on."""
    is_gpu = torch.device(options.device).type == "cuda"
    name = torch.cuda.get_device_name(options.device) if is_gpu else platform.processor() or platform.machine()
    return {"device": name, "is_gpu": is_gpu, "torch": torch.__version__, "small": options.small}


def run_parts(names: Sequence[str], options: Options, file: Path, limit: float = LIMIT) -> Iterator[dict[str, Any]]:
    """Run the parts that are not done in ``file`` yet, and write it after each; yield all results so far."""
    results = json.loads(file.read_text("utf-8")) if file.exists() else {"machine": machine(options), "parts": {}}
    if results["machine"] != machine(options):
        sys.exit(f"{file} contains results of {results['machine']}; choose another file with --out")
    flags = ["--device", options.device, *(["--small"] if options.small else [])]
    flags += ["--camvid", options.camvid] if options.camvid else []
    for name in names:
        if results["parts"].get(name, {}).get("state") == "done":
            continue
        print(f"{name} ...", flush=True)
        found = timed([sys.executable, __file__, *flags, "--here", name], limit)
        print(f"    {found['state']}, {found['seconds']} s", *found["output"][-5:], sep="\n    ", flush=True)
        results["parts"][name] = found
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(results, indent=1), "utf-8")
        yield results


def page(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    about = results["machine"]
    text = f"# GPU measurements\n\n{about['device']}, torch {about['torch']}, by `python benchmarks/gpu.py`.\n"
    for name, found in results["parts"].items():
        body = "\n".join(found["output"])
        text += f"\n## {name}\n\n{found['state']}, {found['seconds']} s\n\n```text\n{body}\n```\n"
    return text


def main() -> None:
    """Run the parts that are not done yet, and write their results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, metavar="PART", default=list(PARTS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="the smallest sizes, to test that every part works")
    parser.add_argument("--camvid", metavar="DIR", help="folder of the data set, which is not downloaded")
    parser.add_argument("--out", type=Path, default=ROOT / "work_dirs" / "gpu.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "measurements-gpu.md")
    parser.add_argument("--limit", type=float, default=LIMIT, help="time limit of a part in seconds")
    parser.add_argument("--here", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    options = Options(given.device, given.small, given.camvid)
    if given.here:
        PARTS[given.here](options)
        return
    if torch.device(given.device).type == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU found; --small --device cpu runs all parts on the CPU")
    for results in run_parts(given.parts, options, given.out, given.limit):
        if results["machine"]["is_gpu"] and not given.small:
            given.page.write_text(page(results), "utf-8")
    parts = json.loads(given.out.read_text("utf-8"))["parts"]
    failed = [name for name in given.parts if parts[name]["state"] not in ("done", "skipped")]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
