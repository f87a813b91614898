"""`ProfilerHook` writes a trace and a table of the requested iterations, and does not change the run."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
import torch

from segplug_training.empty_cache import EmptyCacheHook
from segplug_training.meter import peak_memory
from segplug_training.profiler import ProfilerHook


@pytest.mark.parametrize(("iterations", "steps"), [(2, 2), (50, 4)], ids=["some", "to the end"])
def test_trace_and_table_cover_the_requested_iterations(make_runner, iterations, steps):
    runner = make_runner(ProfilerHook(begin=2, iterations=iterations, rows=100), validate=False)
    runner.train()
    folder = runner.work_dir / "profile"
    events = json.loads((folder / "iter_0000002.json").read_text())["traceEvents"]
    assert sum(event["name"].startswith("Optimizer.step#SGD") for event in events) == steps
    table = (folder / "iter_0000002.txt").read_text()
    shares = [float(share) for share in re.findall(r"([\d.]+)%", table)]
    assert shares[:-1] == sorted(shares[:-1], reverse=True)
    assert re.search(r" 4\.0  aten::convolution_backward", table), "two convolutions in each of two micro-batches"
    assert re.search(r"waiting for data", table)


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
