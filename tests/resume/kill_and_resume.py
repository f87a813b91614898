"""Kill a run with SIGKILL at many points, resume it each time, and compare with an uninterrupted run.

    python tests/resume/kill_and_resume.py --kills 20 --iterations 100 [--asynchronous] [--ranks 2]

Of several ranks any one is killed, and the others end by themselves. The run has two workers, dropout, OHEM, gradient
accumulation (on one rank) and validations in between, and saves after every iteration. Every other kill waits for a
half-written checkpoint. Passes when the final weights, optimiser state and metrics log are bit-identical, and no
checkpoint was ever broken.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from segkernel import checkpoint

sys.path.insert(0, str(Path(__file__).parents[1]))
from forked import Forked

CONFIG = """
model:
  type: EncoderDecoder
  backbone: {type: FastSCNN, norm_cfg: {type: BN}}
  decode_head:
    type: DepthwiseSeparableFCNHead
    in_channels: 128
    channels: 128
    num_classes: 8
    dropout_ratio: 0.3
    norm_cfg: {type: BN}
    sampler: {type: OHEMPixelSampler, thresh: 0.7, min_kept: 200}
    loss_decode: {type: CrossEntropyLoss}
data:
  train: {type: StreetScenes, split: train, length: 24, size: [64, 96]}
  val: {type: StreetScenes, split: val, length: 2, size: [64, 96]}
  train_transforms: [{type: RandomFlip, prob: 0.5}, {type: PhotoMetricDistortion}]
  workers: 2
  micro_batch: 2
optim: {optimizer: {type: AdamW, lr: 1e-3}, batch_size: 4, clip_grad: {max_norm: 1.0}}
schedule: {iterations: ITERATIONS, val_interval: 4, lr: [{type: PolyLR, power: 0.9}]}
engine: {type: LocalEngine, device: cpu, threads: 1}
evaluate: {metrics: [{type: IoUMetric}]}
hooks: [{type: CheckpointHook, interval: 1, keep: 2}, {type: MeterHook, interval: 1}]
seed: 3
"""


LAUNCH = Path(__file__).parents[1] / "parallel" / "launch.py"


def start(config: Path, work_dir: Path, ranks: int = 1, resume: bool = False, **options: Any) -> Forked:
    """Start or resume the run; ``options`` are those of `Forked`."""
    launched: list[object] = [LAUNCH, ranks] if ranks > 1 else []
    several = ["engine.type=DDPEngine"] if ranks > 1 else []
    resuming = ["--resume"] if resume else []
    return Forked([*launched, "run", config, *several, "--work-dir", work_dir, *resuming], config.parent, **options)


def processes_of(process: Forked, ranks: int) -> list[int]:
    """Return the process of each rank; none while they are not all there."""
    if ranks == 1:
        return [process.pid]
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    found = sorted(map(int, children.read_text().split())) if children.exists() else []
    return found if len(found) == ranks else []


def run_through(config: Path, work_dir: Path, ranks: int, resume: bool) -> None:
    """Run, or resume a run, to its end."""
    process = start(config, work_dir, ranks, resume)
    if process.wait() != 0:
        raise SystemExit(f"the run failed by itself:\n{process.err()[-2000:]}")


def run_killed(config: Path, work_dir: Path, ranks: int, seconds: float, during_save: bool, rank: int) -> bool:
    """Start or resume the run; kill it after ``seconds``, or in the next save after them. True when it was killed."""
    folder = work_dir / "checkpoints"
    resume = any(folder.glob("iter_*.pt"))
    process = start(config, work_dir, ranks, resume)
    before = {path.name for path in folder.glob("*.pt")}
    while process.poll() is None and {path.name for path in folder.glob("*.pt")} <= before:
        time.sleep(0.005)  # until it trains
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    while during_save and process.poll() is None and not any(folder.glob(".*.tmp")):
        pass  # busy: a save takes a few milliseconds
    victims = processes_of(process, ranks) if process.poll() is None else []
    if victims:
        os.kill(victims[rank], signal.SIGKILL)
    code = process.wait()
    if code not in ((0, -signal.SIGKILL) if ranks == 1 or not victims else (1,)):
        raise SystemExit(f"the run failed by itself:\n{process.err()[-2000:]}")
    return bool(victims)


def check_whole(folder: Path) -> None:
    """Load every checkpoint of a folder; a broken one raises."""
    for path in folder.glob("*.pt"):
        checkpoint.load(path)


def same(first: object, second: object) -> bool:
    """Compare nested containers and tensors bit for bit."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        equal = isinstance(second, dict) and first.keys() == second.keys()
        return equal and all(same(first[key], second[key]) for key in first)  # type: ignore[index]
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))  # type: ignore[arg-type]
    return first == second


def records(work_dir: Path) -> list[dict]:
    """Return the metrics log without what depends on the clock."""
    clock = ("seconds_per_iteration", "images_per_second", "data_wait", "memory")
    lines = (work_dir / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in clock} for line in lines]


def main(kills: int, iterations: int, seed: int, asynchronous: bool = False, ranks: int = 1) -> None:
    """Run undisturbed, run disturbed, compare; ``asynchronous`` writes checkpoints, of averages, beside training."""
    hooks = "{type: EMAHook}, {type: AsyncCheckpointHook" if asynchronous else "{type: CheckpointHook"
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        config = root / "run.yaml"
        text = CONFIG.replace("ITERATIONS", str(iterations)).replace("{type: CheckpointHook", hooks)
        config.write_text(text)
        started = time.monotonic()
        run_through(config, root / "whole", ranks, False)
        print(f"undisturbed: {iterations} iterations in {time.monotonic() - started:.0f} s")
        done = in_save = 0
        while done < kills:
            during_save = done % 2 == 1
            rank = 0 if during_save else chance.randrange(ranks)  # rank 0 saves
            if not run_killed(config, root / "killed", ranks, chance.uniform(0, 0.5), during_save, rank):
                raise SystemExit(f"the run ended after {done} kills; give it more --iterations")
            done += 1
            in_save += any((root / "killed" / "checkpoints").glob(".*.tmp"))
            check_whole(root / "killed" / "checkpoints")
        run_through(config, root / "killed", ranks, True)
        last = f"checkpoints/iter_{iterations:07d}.pt"
        whole, killed = (checkpoint.load(root / name / last) for name in ("whole", "killed"))
        for part in ("state_dict", "source_state_dict", "optimizer", "random", "position", "hooks"):
            if not same(whole.get(part), killed.get(part)):
                raise SystemExit(f"{part} differs after {done} kills")
        if records(root / "whole") != records(root / "killed"):
            raise SystemExit("the metrics logs differ")
        print(f"{done} kills, {in_save} with a half-written checkpoint: bit-identical, no checkpoint broken")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--asynchronous", action="store_true")
    parser.add_argument("--ranks", type=int, default=1)
    main(**vars(parser.parse_args()))
