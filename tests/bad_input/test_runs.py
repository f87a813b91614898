"""Failures during a run: signals, full disks, unwritable folders, dead workers, exploding losses."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from segkernel.errors import DataError, UsageError

torch = pytest.importorskip("torch")


def wait_for(path: Path, seconds: float = 300) -> None:
    """Wait until a process has created a file; the timeout is only for tests that hang."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} has not appeared"
        time.sleep(0.02)


def test_a_full_disk_does_not_damage_checkpoints(trained, run_limited):
    before = {path: path.read_bytes() for path in Path("run/checkpoints").iterdir()}
    arguments = ["run", "tiny.yaml", "--resume", "schedule.iterations=4"]
    run_limited(40_000, *arguments).must_fail(1, "iter_0000004.pt: cannot be written")
    assert before == {path: path.read_bytes() for path in Path("run/checkpoints").iterdir()}


def test_a_disk_that_is_full_from_the_start_is_reported_once(project, run_limited, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "compiled")  # torch writes a temporary file to find its default
    run_limited(0, "run", "tiny.yaml").must_fail(1, "run: cannot write the run directory")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_in_training_saves_and_exits(project, start, finish, name):
    process = start("run", "tiny.yaml", "schedule.iterations=1000000", "schedule.val_interval=null")
    wait_for(project / "run" / "metrics.jsonl")
    number = getattr(signal, name)
    os.kill(process.pid, number)
    finish(process).must_fail(128 + number, f"interrupted by signal {int(number)}; saved run/checkpoints/iter_")
    assert list(Path("run/checkpoints").glob("iter_*.pt"))


def test_a_signal_in_a_test_exits_without_a_traceback(trained, start, finish):
    Path("slow.py").write_text(
        "import time\nfrom segplug_datasets.files import FolderDataset\n"
        "class Slow(FolderDataset):\n"
        "    def __len__(self): return 100000\n"
        "    def __getitem__(self, index):\n"
        "        open('begun', 'w').close()\n        time.sleep(0.05)\n        return super().__getitem__(index % 4)\n"
    )
    slow = "data.test={type: 'slow:Slow', images: images, masks: masks, classes: [ground, sky, wall]}"
    process = start("test", "tiny.yaml", trained, "--work-dir", "test", slow)
    wait_for(Path("begun"))
    os.kill(process.pid, signal.SIGINT)
    finish(process).must_fail(130, "interrupted")


UNWRITABLE = {
    "the run directory is a file": (["run"], [], "run: cannot write the run directory"),
    "its checkpoints are a file": (["run/checkpoints"], [], "run: cannot write the run directory"),
    "its pictures are a file": (["run/pictures"], ["hooks[0].count=1"], "run/pictures"),
    "the work dir is below a file": ([], ["--work-dir", "tiny.yaml/x"], "tiny.yaml/x: cannot write"),
}


@pytest.mark.parametrize("case", UNWRITABLE)
def test_a_folder_that_cannot_be_written_is_named(project, seg_kernel, case):
    files, arguments, message = UNWRITABLE[case]
    for file in map(Path, files):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    seg_kernel("run", "tiny.yaml", *arguments).must_fail(1, message)


def test_a_log_that_cannot_be_written_is_named(project, seg_kernel):
    Path("run/metrics.jsonl").mkdir(parents=True)
    seg_kernel("run", "tiny.yaml").must_fail(1, "run/metrics.jsonl: Is a directory")


@pytest.mark.parametrize("option", ["--out", "--show-dir"])
def test_a_test_names_the_folder_that_it_cannot_write(trained, seg_kernel, option):
    done = seg_kernel("test", "tiny.yaml", trained, option, "images/0.png/x", "--work-dir", "test")
    done.must_fail(1, "images/0.png/x/0.png: cannot be written")


def test_a_loss_that_explodes_names_the_batch_and_the_last_good_checkpoint(project, seg_kernel):
    done = seg_kernel("run", "tiny.yaml", "optim.optimizer.lr=1e12", "schedule.iterations=20")
    done.must_fail(1, "the loss is ", "images/", "run/checkpoints/iter_0000002.pt", "lower the learning rate")
    states = [torch.load(path, weights_only=True)["state_dict"] for path in Path("run/checkpoints").glob("iter_*.pt")]
    assert all(value.isfinite().all() for state in states for value in state.values())


def test_one_value_per_channel_is_too_few_for_batch_normalisation(project, seg_kernel):
    head = "{type: PSPHead, in_channels: 32, in_index: 3, channels: 4, num_classes: 3, norm_cfg: {type: BN}}"
    done = seg_kernel("run", "tiny.yaml", f"model.decode_head={head}", "optim.batch_size=1")
    done.must_fail(1, "images 1 x 3 x 32 x 48", "batch normalisation", "data.micro_batch", "images/")


def test_one_image_is_enough_for_a_model_without_pooling(project, seg_kernel):
    for index in range(1, 4):
        Path(f"images/{index}.png").unlink()
        Path(f"masks/{index}.png").unlink()
    assert seg_kernel("run", "tiny.yaml", "optim.batch_size=1").code == 0


def test_a_run_without_metrics_logs_it(project, seg_kernel, caplog):
    assert seg_kernel("run", "tiny.yaml", "~evaluate.metrics").code == 0
    assert "no metrics configured (evaluate.metrics)" in caplog.text


# ---------------------------------------------------------------- runs of Python objects


class Own:
    """A data set whose samples are read by ``read``."""

    classes = ("a", "b", "c")
    palette = ((0, 0, 0), (1, 1, 1), (2, 2, 2))

    def __init__(self, read, length=4):
        self.read, self.length = read, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.read(index)


def make_runner(tiny, **parts):
    from segkernel import Runner, build
    from segkernel.engine import LocalEngine

    model = build("segmentors", tiny.config()["model"])
    parts = {"optimizer": torch.optim.SGD(model.parameters(), 0.1), "iterations": 2, "work_dir": "run", **parts}
    return Runner(model, engine=LocalEngine("cpu"), **parts)


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_a_worker_that_dies_is_reported_once(project, tiny, how):
    from segkernel.data import Loader

    main = os.getpid()

    def die(index):
        assert os.getpid() != main
        os._exit(3) if how == "exit" else os.kill(os.getpid(), signal.SIGKILL)

    runner = make_runner(tiny, train=Loader(Own(die), workers=1))
    with pytest.raises(DataError, match="a data-loader worker was killed"):
        runner.run()


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_an_empty_data_set_is_refused_when_the_runner_is_built(project, tiny, part):
    with pytest.raises(DataError, match="set is empty"):
        make_runner(tiny, **{part: Own(None, 0)})


def test_nothing_to_do_is_refused(project, tiny):
    with pytest.raises(UsageError, match="nothing to do"):
        make_runner(tiny).run()
