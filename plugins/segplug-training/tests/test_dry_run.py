"""Memory and disk use of a run are predicted before it starts; a run that does not fit is refused."""

from __future__ import annotations

import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from torch.profiler import ProfilerActivity, profile

from segkernel import load_config
from segkernel.cli import main
from segkernel.experiment import make_runner
from segkernel.testing.toys import ToySegmentor
from segplug_training.dry_run import DoesNotFitError, command, make_plan, saves, validations
from segplug_training.text_table import read_size, size_text


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)


LARGE = {"type": "command_toys:Squares", "side": 704}
SMALL = {"type": "command_toys:Squares"}
FOLDER = str(Path(__file__).parent)


BATCH_OF_8 = {"optimizer": {"type": "AdamW", "lr": 0.01}, "batch_size": 8}


def config(**changes):
    given = {
        "model": {"type": "segkernel.testing.toys:ToySegmentor"},
        "data": {"train": LARGE, "val": LARGE, "workers": 0},
        "optim": {"optimizer": {"type": "AdamW", "lr": 0.01, "weight_decay": 0.1}, "batch_size": 2},
        "schedule": {"iterations": 20, "val_interval": 8},
        "engine": {"type": "CUDAEngine", "device": "cpu"},
    }
    return load_config({**given, **changes})


def really_taken(runner, batch):
    """Return the peak of torch's allocator over a step that finds its optimiser's state there."""
    runner.model.train()
    runner.engine.train_step([batch])
    runner.optimizer.zero_grad()
    parts = [*runner.model.parameters(), *(v for state in runner.optimizer.state.values() for v in state.values())]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        runner.engine.train_step([batch])
    taken = [event.nbytes() for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    return sum(part.nbytes for part in parts) + max(np.cumsum(taken))


def test_the_predicted_peak_is_that_of_the_allocator():
    plan = make_plan(config())
    runner = make_runner(config())
    real = really_taken(runner, next(runner.train_set.train_batches()))
    assert (plan.memory.failure, plan.memory.at_most) == (None, False)
    assert plan.peak == pytest.approx(real, rel=0.1)
    weights = sum(parameter.nbytes for parameter in runner.model.parameters())
    assert plan.memory.weights == weights
    assert plan.memory.optimizer == pytest.approx(2 * weights, rel=0.05)  # and counters
    assert plan.memory.shapes == {"backbone": [(2, 8, 176, 176)], "decode_head": [(2, 4, 176, 176)]}
    feature_map, log_probabilities = 2 * 8 * 176 * 176 * 4, 2 * 4 * 704 * 704 * 4
    assert plan.memory.parts == pytest.approx({"backbone": feature_map, "decode_head": log_probabilities}, rel=0.01)


LIMITED = """
import resource, sys
sys.path.insert(0, {folder!r})
import torch
from test_dry_run import config, make_plan, make_runner
from segplug_training.free_memory import data_size
torch.set_num_threads(1)
plan, runner = make_plan(config()), make_runner(config())
batch = next(runner.train_set.train_batches())
torch.nn.functional.conv2d(torch.zeros(1, 3, 8, 8), torch.zeros(3, 3, 3, 3))
for share in (0.5, 1.5):
    limit = data_size() + int(plan.peak * share)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
    try:
        runner.engine.train_step([batch])
        print("fits")
    except RuntimeError as error:
        print("memory" in str(error))
    resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -d")
def test_a_process_that_may_take_less_than_predicted_fails_and_one_that_may_take_more_does_not():
    script = LIMITED.format(folder=FOLDER)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "fits"], done.stderr


def test_what_depends_on_values_is_predicted_at_its_most():
    plan = make_plan(config(model={"type": "command_toys:Mined"}))
    assert plan.memory.failure is None
    assert plan.memory.activations > 2 * 8 * 176 * 176 * 4  # the feature map
    assert plan.memory.at_most
    assert plan.check(plan.peak - 1).startswith("may fit")
    assert plan.check(plan.least).startswith("may fit")
    assert plan.least >= plan.memory.weights + plan.memory.optimizer
    with pytest.raises(DoesNotFitError, match="optimizer and gradients alone need"):
        plan.check(plan.least - 1)


def test_an_untraceable_model_leaves_a_partial_report(monkeypatch):
    monkeypatch.setattr(ToySegmentor, "loss", lambda self, images, targets: {"loss": memoryview(images)})
    memory = make_plan(config()).memory
    assert memory.failure
    assert memory.peak == memory.weights + memory.optimizer
    assert memory.optimizer == pytest.approx(2 * memory.weights, rel=0.05)  # AdamW's


def test_less_memory_or_disk_than_needed_is_refused_in_one_message(monkeypatch):
    plan = make_plan(config())
    assert plan.check(plan.peak).startswith("fits")
    assert plan.check(None).startswith("fits")
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage(plan.disk - 1))
    with pytest.raises(DoesNotFitError) as caught:
        plan.check(plan.peak - 1)
    assert "reduce data.micro_batch (now 2)" in str(caught.value)
    assert "--work-dir" in str(caught.value)


def write(tmp_path, **changes):
    path = tmp_path / "x.yaml"
    path.write_text(config(**changes).to_yaml())
    return str(path)


def test_the_command_prints_tables_and_starts_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    head = "+optim.paramwise={custom_keys: {decode_head: {lr_mult: 10.0}}, bias_decay_mult: 0.0}"
    done = CliRunner().invoke(command, ["run", write(tmp_path), "optim.batch_size=4", head, "--memory", "8GiB"])
    assert done.exception is None
    rows = [line.split() for line in done.output.splitlines()]
    assert ["decode_head", "2", "36", "36", "144", "bytes"] in rows
    groups = [row[1:] for row in rows if row[:1] == ["group"]]
    assert groups == [["0", "0.01", "0.1", "1", "216"], ["1", "0.01", "0", "1", "8"], ["2", "0.1", "0.1", "2", "36"]]
    assert [row[0] for row in rows[-8:-3]] == ["gradients", "activations", "backbone", "decode_head", "batch,"]
    assert "iterations   20 of 4 samples = 10 epochs of 8" in done.output
    assert "validation   3 times, after iteration 8, 16, 20, of 8 samples" in done.output
    assert "of 8.0 GiB of memory" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["x.yaml"]


def test_an_option_of_run_asks_for_it(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["run", write(tmp_path), "--dry-run", "--memory", "1M"])
    assert caught.value.code == 1
    assert "Error: the run does not fit: a step needs" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["run"]])
def test_the_command_takes_a_config_with_or_without_run(tmp_path, words):
    done = CliRunner().invoke(command, [*words, write(tmp_path), "optim.batch_size=4", "--memory", "8GiB"])
    assert "iterations   20 of 4 samples" in done.output


def test_several_processes_share_the_batch(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, words in (("0", "1 x 1 samples on 2 device(s)"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        assert words in CliRunner().invoke(command, ["run", write(tmp_path), "--memory", "1G"]).output


def test_ranks_of_a_sharded_model_have_a_part_each():
    engine = {"type": "FSDPEngine", "device": "cpu", "shard": ["backbone", "decode_head"]}
    one, four = make_plan(config(engine=engine)), make_plan(config(engine=engine, optim=BATCH_OF_8), 4)
    model, found = four.runner.model, four.memory_per_rank
    assert one.memory_per_rank == one.memory
    rows = [(p.shape[0], p.nbytes // p.shape[0]) for p in model.parameters()]
    assert found.weights == sum(-(-count // 4) * size for count, size in rows)
    assert found.optimizer == pytest.approx(2 * found.weights, rel=0.05)
    assert found.gathered == sum(count * size for count, size in rows), "two blocks are all"
    assert found.activations == one.memory.activations
    assert four.checkpoint == one.checkpoint
    assert four.peak < one.peak + found.gathered


@pytest.mark.parametrize(
    "schedule",
    [
        {"iterations": 20, "val_interval": 8},
        {"iterations": 20, "val_interval": 5, "val_begin": 9},
        {"epochs": 3, "val_interval": 1},
        {"epochs": 2.5, "val_interval": 0.3},
        {"iterations": 7},
    ],
)
def test_validations_and_saves_are_where_the_run_has_them(schedule, monkeypatch, tmp_path):
    batch_size = {"batch_size": 3, "optimizer": {"type": "SGD", "lr": 0.1}}
    data = {"train": SMALL, "val": SMALL, "workers": 0}
    runner = make_runner(config(schedule=schedule, optim=batch_size, data=data), tmp_path)
    seen, saved = [], []
    monkeypatch.setattr(runner, "_validate", lambda part: seen.append(runner.iteration))
    monkeypatch.setattr(runner, "save", lambda path: saved.append(runner.iteration))
    expected = validations(runner)
    for hook in runner.hooks.hooks:
        if type(hook).__name__ == "CheckpointHook":
            hook.interval, hook._written = 4, lambda run: None
    expected_saves = saves(runner)
    runner.train()
    assert seen == expected
    assert saved == expected_saves


@pytest.mark.parametrize(("text", "size"), [("24GiB", 24 << 30), ("800M", 800 << 20), ("1.5 kb", 1536), ("7", 7)])
def test_sizes_are_read(text, size):
    assert read_size(text) == size


def test_sizes_are_written_as_people_do():
    assert [size_text(size) for size in (5, 1536, 3 << 30)] == ["5 bytes", "1.5 KiB", "3.0 GiB"]
