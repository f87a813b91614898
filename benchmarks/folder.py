"""Prediction of a folder of images: read, computed and written at the same time, against one image after the other.

    python benchmarks/folder.py runs/first path/to/images --cores 1,2

Each row is a process of its own, bound to so many cores, with so many threads of torch; ``busy`` is CPU time per time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def predict(options: argparse.Namespace) -> dict[str, float]:
    """Predict the folder in this process; return images per second and busy cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    import torch

    from segkernel import Predictor
    from segplug_datasets import predict_images

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    predictor = Predictor(options.model, device="cpu", random_weights=True)
    images = sorted(path for path in options.folder.iterdir() if path.is_file())[: options.count]
    groups = [images] if options.overlapped else [[image] for image in images]
    with tempfile.TemporaryDirectory() as folder:
        list(predict_images(predictor, images[:2], folder))
        start, used = time.perf_counter(), time.process_time()
        for group in groups:
            for _ in predict_images(predictor, group, folder):
                pass
        seconds, busy = time.perf_counter() - start, time.process_time() - used
    return {"images/s": len(images) / seconds, "busy": busy / seconds}


def measured(options: argparse.Namespace, cores: int, threads: int, overlapped: bool) -> dict[str, float]:
    """Return the result of `predict` in a process of its own."""
    command = [sys.executable, __file__, options.model, str(options.folder), "--child"]
    command += ["--count", str(options.count), "--cores", str(cores), "--threads", str(threads)]
    done = subprocess.run([*command, *(["--overlapped"] if overlapped else [])], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="As of `seg-kernel predict`.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=60, help="Images at most.")
    parser.add_argument("--cores", default="1,2")
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--overlapped", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        options.cores = int(options.cores)
        print(json.dumps(predict(options)))
        return
    print("cores  threads   one by one  busy    folder  busy   ratio   (images/s)")
    for cores in map(int, options.cores.split(",")):
        for threads in sorted({1, cores}):
            alone, folder = (measured(options, cores, threads, overlapped) for overlapped in (False, True))
            both = [f"{each['images/s']:10.1f}  {each['busy']:4.2f}" for each in (alone, folder)]
            ratio = folder["images/s"] / alone["images/s"]
            print(f"{cores:5}  {threads:7}   {'  '.join(both)}  {ratio:6.2f}", flush=True)


if __name__ == "__main__":
    main()
