"""`DDPEngine`, by torchrun on two processes: the numbers of one process, and a clean end whatever happens to a rank."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed.fsdp

from segkernel import checkpoint

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from forked import Forked  # noqa: E402

CONFIG = """
model:
  type: double_precision:DoubleEncoderDecoder
  backbone: {type: FastSCNN, norm_cfg: {type: SyncBN}}
  decode_head:
    type: DepthwiseSeparableFCNHead
    in_channels: 128
    channels: 128
    num_classes: 8
    dropout_ratio: 0
    norm_cfg: {type: SyncBN}
    loss_decode: {type: CrossEntropyLoss}
data:
  train: {type: StreetScenes, split: train, length: 24, size: [64, 96]}
  val: {type: StreetScenes, split: val, length: 5, size: [64, 96]}
  train_transforms: [{type: RandomFlip, prob: 0.5}]
  workers: 0
  micro_batch: 2
optim: {optimizer: {type: SGD, lr: 1e-2, momentum: 0.9}, batch_size: 4, clip_grad: {max_norm: 1.0}}
schedule: {iterations: 6, val_interval: 3}
engine: {type: DDPEngine, device: cpu, threads: 1}
evaluate: {metrics: [{type: IoUMetric}], loss: true}
hooks: [{type: CheckpointHook, interval: 1, keep: 2}]
seed: 3
"""
CHEAP = ["model.backbone.norm_cfg.type=BN", "model.decode_head.norm_cfg.type=BN"]
"""Where statistics of all ranks are not the question: each layer would wait for the other rank."""
LONG = [*CHEAP, "schedule.iterations=100000", "schedule.val_interval=100000"]
WITHIN = 20
"""Seconds in which all ranks end after one has failed."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG)
    return path


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1", "-m", "segkernel"]
PATHS = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))}
LAUNCH = HERE / "launch.py"
"""The same in half of the time; see there."""


def test_two_processes_end_where_one_ends_though_one_is_killed(config: Path, tmp_path: Path) -> None:
    one = Forked(["run", config, f"--work-dir={tmp_path / 'one'}", "data.micro_batch=4"], tmp_path, PATHS)
    killing = "hooks=[{type: CheckpointHook, interval: 1}, {type: 'killed_rank:KilledRank', iteration: 4}]"
    command = [sys.executable, *TORCHRUN, "run", str(config), f"--work-dir={tmp_path / 'two'}", killing]
    two = subprocess.run(command, env={**os.environ, **PATHS}, capture_output=True, text=True, timeout=300)
    assert two.returncode == 0, two.stderr[-3000:]
    assert two.stderr.count("resumed ") == 1, "rank 0 alone logs it"
    assert one.wait() == 0, one.err()[-3000:]
    assert_same_weights(tmp_path, "iter_0000006.pt")
    records = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert [(record["kind"], record["iteration"]) for record in records] == [("val", 3), ("train", 6), ("val", 6)]


def assert_same_weights(folder: Path, name: str, statistics: bool = True) -> None:
    """Compare what the runs ``one`` and ``two`` have saved, with or without batch norm's statistics."""
    one, two = (checkpoint.load(folder / run / "checkpoints" / name)["state_dict"] for run in ("one", "two"))
    assert two.keys() == one.keys()
    learnt = {key: value for key, value in one.items() if statistics or not re.search("running_|num_batches", key)}
    for key, value in learnt.items():
        torch.testing.assert_close(two[key], value, rtol=0, atol=1e-9, msg=key)


@pytest.mark.slow
def test_a_rank_without_memory_ends_all_and_the_next_attempt_has_smaller_micro_batches(
    config: Path, tmp_path: Path
) -> None:
    overrides = [*CHEAP, "optim.batch_size=8", "schedule.iterations=2", "schedule.val_interval=2"]
    alone = ["run", config, f"--work-dir={tmp_path / 'one'}", *overrides, "data.micro_batch=2"]
    one = Forked(alone, tmp_path, PATHS)
    limited = tmp_path / "limited.yaml"
    limited.write_text(CONFIG.replace("double_precision:Double", "limited_memory:Limited"))
    arguments = ["run", str(limited), f"--work-dir={tmp_path / 'two'}", *overrides, "data.micro_batch=4"]
    command = [sys.executable, *TORCHRUN, *arguments]
    two = subprocess.run(command, env={**os.environ, **PATHS}, capture_output=True, text=True, timeout=300)
    assert two.returncode == 0, two.stderr[-3000:]
    assert "they use micro-batches of 2 samples" in two.stderr
    assert len(errors(two.stderr)) == 1, "of the first attempt"
    assert one.wait() == 0, one.err()[-3000:]
    assert_same_weights(tmp_path, "iter_0000002.pt", statistics=False)


ISOLATED = ["unshare", "--map-root-user", "--net"]


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or subprocess.run([*ISOLATED, "ip", "link"], capture_output=True).returncode != 0,
    reason="needs network namespaces",
)
def test_a_host_that_is_killed_and_started_again_joins_the_other(config: Path, tmp_path: Path) -> None:
    config.write_text(CONFIG.replace("iterations: 6", "iterations: 16"))
    one = Forked(["run", config, f"--work-dir={tmp_path / 'one'}", "data.micro_batch=4"], tmp_path, PATHS)
    command = [*ISOLATED, sys.executable, str(HERE / "two_hosts.py"), str(config), str(tmp_path / "two")]
    two = subprocess.run(command, env={**os.environ, **PATHS}, capture_output=True, text=True, timeout=400)
    assert two.returncode == 0, two.stderr[-5000:]
    assert "resumed" in two.stderr
    assert one.wait() == 0, one.err()[-3000:]
    assert_same_weights(tmp_path, "iter_0000016.pt")


def test_validation_of_several_processes_gives_the_metrics_of_one(config: Path, tmp_path: Path) -> None:
    found = []
    launched = [([], "DDPEngine"), ([LAUNCH, 3], "DDPEngine"), ([LAUNCH, 2], "FSDPEngine")]
    if not hasattr(torch.distributed.fsdp, "FSDPModule"):  # before torch 2.6
        del launched[2]
    for number, (launcher, engine) in enumerate(launched):
        out = tmp_path / f"{number}.json"
        lengths = ("data.val.length=5", "data.val.length=1")
        process = Forked([*launcher, HERE / "validate.py", config, out, engine, *lengths], tmp_path)
        assert process.wait() == 0, process.err()[-3000:]
        found.append(json.loads(out.read_text()))
    assert all(metrics == found[0] for metrics in found)
    assert [{"loss", "mIoU"} <= metrics.keys() for metrics in found[0]] == [True, True]


@pytest.mark.slow
def test_ranks_with_a_part_of_each_batch_learn_what_one_learns(tmp_path: Path) -> None:
    import equivalence

    sharded = equivalence.SHARDED
    expected = {name: equivalence.train(name, alone=True) for name in equivalence.CASES if name not in sharded}
    expected |= {name: expected[case] for name, case in sharded.items()}
    torch.save(expected["fsdp"]["half"], tmp_path / "half.pt")
    process = Forked([LAUNCH, 2, HERE / "equivalence.py", tmp_path], tmp_path)
    assert process.wait(600) == 0, process.err()[-3000:]
    found = torch.load(tmp_path / "found.pt")
    for name, state in expected.items():
        tolerance = equivalence.CASES[name].get("tolerance", 1e-9)
        for when in ("half", "end"):
            equivalence.assert_equal(found[name][when], state[when], f"{name}, {when}", tolerance)
    # The half-trained run of one process is resumed by two, and that of two by one.
    equivalence.assert_equal(found["resumed"]["end"], expected["fsdp"]["end"], "resumed by two")
    once_more = equivalence.train("fsdp", alone=True, resume=found["fsdp"]["half"])
    equivalence.assert_equal(once_more["end"], expected["fsdp"]["end"], "resumed by one")


def test_two_ranks_teach_a_detector_what_one_does(tmp_path: Path) -> None:
    pytest.importorskip("segplug_instances", reason="needs segplug-instances")
    import detectors

    expected, file = detectors.train(alone=True), tmp_path / "weights.pt"
    process = Forked([LAUNCH, 2, HERE / "detectors.py", file], tmp_path)
    assert process.wait() == 0, process.err()[-3000:]
    for name, value in torch.load(file).items():
        assert float((value - expected[name]).abs().max()) < 1e-4, name  # 5e-3 if each rank divides by its own numbers


class LaunchedRun:
    """A running job of two processes."""

    def __init__(self, config: Path, work_dir: Path, *overrides: str) -> None:
        self.work_dir = work_dir
        arguments = [LAUNCH, 2, "run", config, f"--work-dir={work_dir}", *overrides]
        work_dir.parent.mkdir(exist_ok=True)
        self.process = Forked(arguments, work_dir.parent)

    def wait_for(self, iteration: int) -> None:
        """Wait until the checkpoint of this iteration, or a later one, exists."""
        self._wait(lambda: any(number >= iteration for number in self.saved()))

    def wait_for_error(self) -> None:
        """Wait until a rank has printed an error."""
        self._wait(lambda: bool(errors(self.process.err())))

    def _wait(self, reached: Callable[[], bool]) -> None:
        end = time.monotonic() + 120
        while not reached():
            assert self.process.poll() is None or reached(), self.process.err()[-3000:]
            assert time.monotonic() < end, "the run makes no progress"
            time.sleep(0.05)

    def saved(self) -> list[int]:
        return sorted(int(path.stem[5:]) for path in (self.work_dir / "checkpoints").glob("iter_*.pt"))

    def rank(self, rank: int) -> int:
        """Return the process id of a rank; ranks are started in order."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return sorted(map(int, children))[rank]

    def end(self) -> str:
        """Wait for the run to fail within `WITHIN` seconds; return its stderr."""
        assert self.process.wait(WITHIN) != 0
        return self.process.err()


def errors(text: str) -> list[str]:
    return re.findall(r"^Error: .*", text, re.MULTILINE)


def resumed(config: Path, run: LaunchedRun, *overrides: str) -> LaunchedRun:
    """Check that the last checkpoint of a run is complete, resume from it and wait for two more steps."""
    saved = run.saved()[-1]
    assert checkpoint.load(run.work_dir / "checkpoints" / f"iter_{saved:07d}.pt")["iteration"] == saved
    after = LaunchedRun(config, run.work_dir, "--resume", *overrides)
    after.wait_for(saved + 2)
    return after


@pytest.mark.skipif(sys.platform != "linux", reason="finds the ranks in /proc")
def test_sigterm_on_either_rank_saves_and_ends_both(config: Path, tmp_path: Path) -> None:
    run = LaunchedRun(config, tmp_path / "run", *LONG, "data.workers=1")
    run.wait_for(2)
    for rank in (0, 1):
        os.kill(run.rank(rank), signal.SIGTERM)
        text = run.end()
        saved = run.work_dir / "checkpoints" / f"iter_{run.saved()[-1]:07d}.pt"
        assert errors(text) == [f"Error: interrupted by signal 15; saved {saved}"]
        assert "segkernel/runner.py" not in text, "a traceback"
        run = resumed(config, run, *LONG) if rank == 0 else run


@pytest.mark.skipif(sys.platform != "linux", reason="finds the ranks in /proc")
def test_a_killed_rank_ends_the_other_with_one_message(config: Path, tmp_path: Path) -> None:
    run = LaunchedRun(config, tmp_path / "run", *LONG)
    run.wait_for(2)
    for rank in (0, 1):
        os.kill(run.rank(rank), signal.SIGKILL)
        (message,) = errors(run.end())
        assert message.startswith(f"Error: rank {rank} was killed")
        run = resumed(config, run, *LONG) if rank == 0 else run


def test_a_broken_image_on_either_rank_ends_both_with_its_name(config: Path, tmp_path: Path) -> None:
    for index, more in ((2, []), (3, ["--resume"])):  # a resumed run repeats the failed validation
        broken = f"data.val={{type: broken_images:BrokenScenes, broken: {index}}}"
        run = LaunchedRun(config, tmp_path / "run", *CHEAP, broken, *more)
        run.wait_for_error()
        (message,) = errors(run.end())
        assert message.startswith(f"Error: rank {index % 2}: 1 samples could not be evaluated")
        assert f"image_{index}.png" in run.process.err()
        assert run.saved() == [2, 3]
        assert checkpoint.load(run.work_dir / "checkpoints" / "iter_0000003.pt")["iteration"] == 3


@pytest.mark.slow
def test_a_plain_module_on_two_processes_learns_what_it_learns_on_one(tmp_path: Path) -> None:
    files = [tmp_path / "one.pt", tmp_path / "two.pt"]
    for launcher, file in zip(([], [LAUNCH, 2]), files):
        process = Forked([*launcher, HERE / "plain.py", file], tmp_path)
        assert process.wait() == 0, process.err()[-3000:]
    one, two = map(torch.load, files)
    assert one.keys() == two.keys() == {"classifier.weight", "classifier.bias"}, "the module's own keys"
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)
