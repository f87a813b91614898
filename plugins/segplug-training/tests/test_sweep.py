"""A sweep runs every combination once, resumes after an interruption, and tabulates mean and deviation over seeds."""

from __future__ import annotations

import csv
import json
import logging
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from segkernel import load_config
from segkernel.errors import ConfigError, Interrupted, UsageError
from segkernel.experiment import make_runner
from segplug_training import sweep
from segplug_training.combinations import combinations
from segplug_training.search_space import drawn, grid, read_varied
from segplug_training.sweep_run import measure, perform

FOLDER = str(Path(__file__).parent)
CONFIG = {
    "model": {"type": "segkernel.testing.toys:ToySegmentor"},
    "data": {"train": {"type": "command_toys:Squares"}, "val": {"type": "command_toys:Squares"}, "workers": 0},
    "optim": {"optimizer": {"type": "AdamW", "lr": 0.01}, "batch_size": 4},
    "schedule": {"iterations": 3},
    "engine": {"type": "CUDAEngine", "device": "cpu"},
    "evaluate": {"loss": True},
}
LR = "optim.optimizer.lr"


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    path = tmp_path / "toy.yaml"
    path.write_text(load_config(CONFIG).to_yaml())
    return str(path)


@pytest.fixture
def made(monkeypatch):
    """Make runs in this process, and note which; of one whose number is in ``codes`` the process has that exit code."""
    calls, codes = [], {}

    def process(spec, output):
        calls.append(spec.parent.name)
        output.touch()
        if len(calls) not in codes:
            perform(spec)
        return codes.pop(len(calls), 0)

    monkeypatch.setattr(sweep, "_process", process)
    return calls, codes


def invoke(*arguments):
    return CliRunner().invoke(sweep.command, [*map(str, arguments)])


def test_every_combination_is_run_once_and_tabulated_with_mean_and_deviation(config, made, tmp_path):
    calls, _ = made
    arguments = (config, f"{LR}=[1e-3,1e-1]", "schedule.iterations=2", "--seeds", 2, "--out", tmp_path / "out")
    done = invoke(*arguments)
    assert done.exception is None, done.output
    assert calls == [f"{LR}={lr},seed={seed}" for lr in ("0.001", "0.1") for seed in (0, 1)]
    (small, large) = json.loads((tmp_path / "out" / "table.json").read_text())
    losses = []
    for seed in (0, 1):
        log = (tmp_path / "out" / f"{LR}=0.1,seed={seed}" / "metrics.jsonl").read_text().splitlines()
        losses.append(json.loads(log[-1])["loss"])
    assert losses[0] != losses[1]
    assert large["varied"] == {LR: 0.1}
    assert large["mean"]["loss"] == pytest.approx(statistics.fmean(losses))
    assert large["deviation"]["loss"] == pytest.approx(statistics.stdev(losses))
    assert f"{statistics.fmean(losses):.4g} ± {statistics.stdev(losses):.2g}" in done.output
    (header, first, second) = csv.reader((tmp_path / "out" / "table.csv").read_text().splitlines())
    assert float(second[header.index("loss mean")]) == large["mean"]["loss"]
    assert [first[0], first[1]] == ["0.001", "2"]
    assert small["seeds"].keys() == {"0", "1"}

    again = invoke(*arguments)
    assert len(calls) == 4
    assert again.output == done.output


def test_an_interrupted_sweep_resumes_and_a_failed_run_does_not_stop_others(config, made, tmp_path, caplog):
    calls, codes = made
    codes.update({1: 1, 2: 143})
    (tmp_path / "out").mkdir()
    arguments = (config, "--seeds", 3, "--out", tmp_path / "out")
    assert isinstance(invoke(*arguments).exception, Interrupted)
    assert calls == ["seed=0", "seed=1"]
    codes[4] = 1
    done = invoke(*arguments)
    assert calls[2:] == ["seed=0", "seed=1", "seed=2"]
    assert isinstance(done.exception, sweep.SweepError)
    assert "1 of 3 runs failed:\n    seed=1: exit code 1" in str(done.exception)
    assert json.loads((tmp_path / "out" / "table.json").read_text())[0]["runs"] == 2

    (tmp_path / "out" / "seed=0" / "result.json").unlink()  # killed after its last checkpoint
    with caplog.at_level(logging.INFO):
        assert invoke(*arguments).exception is None
    assert calls[5:] == ["seed=0", "seed=1"]
    assert "resumed" in caplog.text
    assert json.loads((tmp_path / "out" / "table.json").read_text())[0]["runs"] == 3


def test_a_directory_of_another_sweep_is_refused(config, made, tmp_path):
    assert invoke(config, "--out", tmp_path / "out").exception is None
    other = invoke(config, "optim.batch_size=2", "--out", tmp_path / "out")
    assert isinstance(other.exception, UsageError)
    assert "contains the run of another config" in str(other.exception)


def test_lists_vary_and_a_list_of_a_list_is_one_value():
    fixed, varied = read_varied(["a=1", "b=[1, x]", "c=[[2, 3]]", "d+=[4]", "~e"])
    assert fixed == ["a=1", "c=[2, 3]", "d+=[4]", "~e"]
    assert varied == {"b": [1, "x"]}
    with pytest.raises(UsageError, match="needs values"):
        read_varied(["a=[]"])


def test_random_values_are_in_their_ranges_and_more_of_them_begin_with_the_same():
    _, varied = read_varied(["lr=log(1e-5,1e-1)", "drop=uniform(0,0.5)", "depth=int(2,4)", "mode=[a,b]"])
    chosen = drawn(varied, 200, seed=1)
    assert chosen[:50] == drawn(varied, 50, seed=1)
    assert chosen[:50] != drawn(varied, 50, seed=2)
    assert [each["lr"] for each in drawn({"lr": varied["lr"]}, 50, seed=1)] == [each["lr"] for each in chosen[:50]]
    assert all(1e-5 <= each["lr"] <= 1e-1 and 0 <= each["drop"] <= 0.5 for each in chosen)
    assert 0.4 < sum(each["lr"] < 1e-3 for each in chosen) / 200 < 0.6  # half of the decades
    assert {each["depth"] for each in chosen} == {2, 3, 4}
    assert len(drawn({"mode": ["a", "b"]}, 50, seed=1)) == 2  # nothing is run twice
    with pytest.raises(UsageError, match="lr: a range is drawn from: add --random N"):
        grid(varied)


@pytest.mark.parametrize(
    "text", ["lr=log(0,1)", "lr=uniform(2,1)", "lr=int(a,3)", "lr=int(1,2.5)", "lr=uniform(0,inf)"]
)
def test_a_range_that_cannot_be_drawn_from_is_refused(text):
    with pytest.raises(UsageError, match=r"LOW < HIGH|is not a number|whole numbers"):
        read_varied([text])


def test_a_random_sweep_resumes_and_grows(config, made, tmp_path):
    calls, _ = made
    arguments = (config, f"{LR}=log(1e-4,1e-2)", "schedule.iterations=1", "--out", tmp_path / "out", "--random")
    assert invoke(*arguments, 2).exception is None
    assert invoke(*arguments, 3).exception is None
    assert len(calls) == len(set(calls)) == 3
    assert len(json.loads((tmp_path / "out" / "table.json").read_text())) == 3
    assert isinstance(invoke(config, "--random", 2).exception, UsageError)


def test_an_invalid_combination_is_reported_before_any_run(config, made):
    assert isinstance(invoke(config, "optim.batch_size=[4,-1]").exception, ConfigError)
    assert made[0] == []


def test_names_of_runs_are_valid_unique_folder_names(config):
    slashed = [entry.name for entry in combinations(config, ["load_from=[a/b,a_b]"])]
    assert len(set(slashed)) == 2
    assert not any("/" in name for name in slashed)


def test_the_cost_of_a_model_is_measured(config, tmp_path):
    found = measure(make_runner(load_config(config), tmp_path / "run"))
    assert found["params_M"] == pytest.approx(260e-6)
    assert found["GFLOPs"] == pytest.approx(2 * 16 * (3 * 9 * 8 + 8 * 4) / 1e9)
    assert found["images_per_s"] > 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_runs_of_a_terminated_sweep_save_and_resume(config, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", FOLDER)
    out = tmp_path / "out"
    words = [sys.executable, "-m", "segkernel", "sweep", config, "--seeds", "2", "schedule.iterations=300"]
    words += ["hooks=[[{type: CheckpointHook, interval: 1}]]", "--out", str(out)]
    first = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(out.glob("*seed=0*/checkpoints/iter_0000002*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 143
    assert not list(out.glob("*/result.json"))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "resumed" in next(out.glob("*seed=0*.txt")).read_text()
    assert len(list(out.glob("*/result.json"))) == 2
