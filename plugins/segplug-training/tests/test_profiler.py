"""`ProfilerHook` writes a trace and a table of the requested iterations, and does not change the run."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
import torch

from segkernel import hookimpl
from segkernel.engine import LocalEngine
from segplug_training.empty_cache import EmptyCacheHook
from segplug_training.meter import peak_memory
from segplug_training.phase_times import METHODS
from segplug_training.profiler import ProfilerHook


@pytest.mark.parametrize(("iterations", "steps"), [(2, 2), (50, 4)], ids=["some", "to the end"])
def test_trace_and_table_cover_the_requested_iterations(make_runner, iterations, steps):
    runner = make_runner(ProfilerHook(begin=2, iterations=iterations, rows=100), validate=False)
    runner.train()
    folder = runner.work_dir / "profile"
    events = json.loads((folder / "iter_0000002.json").read_text())["traceEvents"]
    assert sum(event["name"].startswith("Optimizer.step#SGD") for event in events) == steps
    table = (folder / "iter_0000002.txt").read_text()
    by_operator = table.partition("by operator")[2]
    shares = [float(share) for share in re.findall(r"([\d.]+)%", by_operator)]
    assert shares[:-1] == sorted(shares[:-1], reverse=True)
    assert re.search(r" 4\.0  aten::convolution_backward", table), "two convolutions in each of two micro-batches"
    assert not set(METHODS) & set(vars(runner.engine)), "the engine has its own methods again"


class SlowEngine(LocalEngine):
    """By a clock that it advances itself, its phases take 4, 2 x 3, 2 x 5, 7 and 1 ms."""

    now = 0.0

    def transfer(self, batches):
        for batch in super().transfer(batches):
            self.now += 0.002  # two micro-batches
            yield batch

    def compute_loss(self, images, targets):
        self.now += 0.003
        return super().compute_loss(images, targets)

    def backward(self, loss):
        self.now += 0.005
        super().backward(loss)

    def step(self):
        self.now += 0.007
        super().step()


class SlowHook:
    @hookimpl
    def after_iteration(self, run):
        run.engine.now += 0.001


def test_the_time_of_an_iteration_is_divided_into_its_phases(make_runner, monkeypatch):
    engine = SlowEngine("cpu")
    monkeypatch.setattr("segplug_training.phase_times.time", SimpleNamespace(perf_counter=lambda: engine.now))
    runner = make_runner(ProfilerHook(begin=1, iterations=50), SlowHook(), validate=False, engine=engine)
    runner.train()
    table = (runner.work_dir / "profile" / "iter_0000001.txt").read_text().partition("\n\n")[0].splitlines()
    assert [line.split(maxsplit=2) for line in table] == [
        ["ms", "share", "per iteration, by phase"],
        ["4.000", "14.3%", "waiting for data"],
        ["6.000", "21.4%", "forward"],
        ["10.000", "35.7%", "backward"],
        ["7.000", "25.0%", "optimizer"],
        ["1.000", "3.6%", "other"],
        ["28.000", "100.0%", "iteration"],
    ]


def test_the_gpu_cache_is_emptied_on_request(monkeypatch):
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    run = SimpleNamespace(engine=SimpleNamespace(device=torch.device("cuda")))
    moments = ("before_train", "before_validation", "after_train_epoch", "validation_ended", "after_iteration")
    for options, wanted in [({}, 2), ({"before_epoch": True}, 4), ({"after_epoch": False, "after_iter": True}, 1)]:
        emptied.clear()
        for moment in moments:
            getattr(EmptyCacheHook(**options), moment)(run)
        assert len(emptied) == wanted
    run.engine.device = torch.device("cpu")
    EmptyCacheHook().after_train_epoch(run)
    assert len(emptied) == 1


def test_memory_is_the_most_of_an_interval_on_a_gpu_and_the_process_s_elsewhere(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**20)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    assert peak_memory(torch.device("cuda")) == 3 * 2**20
    before = peak_memory(torch.device("cpu"))
    block = torch.ones(2**25)
    assert peak_memory(torch.device("cpu")) >= before
    assert peak_memory(torch.device("cpu")) > block.nbytes
