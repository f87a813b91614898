"""`RecordHook` records how a run was started, once per part of a resumed run."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import torch
import yaml
from packaging.requirements import Requirement

from segkernel import checkpoint
from segplug_training.record import RecordHook


def start(folder, iteration=0, train=True, **config):
    engine = SimpleNamespace(device=torch.device("cpu"), world_size=1)
    run = SimpleNamespace(is_main=True, work_dir=folder, iteration=iteration, config=config, engine=engine, seed=3)
    run.train_set = object() if train else None
    RecordHook().before_run(run)


def test_the_record_describes_how_the_run_was_started(tmp_path):
    start(tmp_path, seed=3, hooks=[])
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == {"seed": 3, "hooks": []}
    assert "segplug-training" in json.loads((tmp_path / "plugins.json").read_text())
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["seed"] == 3
    pinned = [Requirement(line) for line in (tmp_path / "requirements.txt").read_text().splitlines()]
    versions = {each.name: str(each.specifier) for each in pinned}
    assert versions["torch"] == f"=={torch.__version__.partition('+')[0]}"
    assert {"seg-kernel", "segplug-training", "pluggy", "sympy"} <= versions.keys()  # of torch, too
    assert "pytest" not in versions
    assert environment["torch"].partition("+")[0] == torch.__version__.partition("+")[0]


def test_a_run_resumed_in_another_directory_has_a_record_of_its_own(tmp_path):
    start(tmp_path, iteration=400, seed=4)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == {"seed": 4}


STORED = {
    "seed": 0,
    "work_dir": "old",
    "model": {"type": "M", "pretrained": "a.pth", "head": {"channels": 8}},
    "optim": {"optimizer": {"type": "SGD", "lr": 0.01}, "batch_size": 4},
    "schedule": {"iterations": 40, "lr": [{"type": "PolyLR", "power": 0.9}]},
    "hooks": [{"type": "MeterHook", "interval": 10}],
}


def resume(caplog, **changes):
    run = SimpleNamespace(is_main=True, config={**STORED, **changes}, train_set=None)
    with caplog.at_level(logging.INFO):
        RecordHook().load_checkpoint(run, {"meta": {"config": STORED}})
    return [line.strip() for line in caplog.text.splitlines()[1:]], [record.levelname for record in caplog.records]


def test_a_resumed_run_reports_every_changed_setting(caplog):
    changes = {
        "seed": 1,
        "work_dir": "new",
        "model": {"type": "M", "pretrained": "b.pth", "head": {"channels": 8}},
        "optim": {"optimizer": {"type": "SGD", "lr": 0.02}, "batch_size": 8, "clip_grad": None},
        "schedule": {"iterations": 80, "lr": [{"type": "PolyLR", "power": 0.9, "eta_min": 1e-4}]},
        "hooks": [{"type": "MeterHook", "interval": 5}],
    }
    lines, levels = resume(caplog, **changes)
    assert lines == [
        "seed: 1, was 0: taken for the order of samples; the generators' states are the checkpoint's",
        "model.pretrained: b.pth, was a.pth: not taken, the weights are the checkpoint's",
        "optim.optimizer.lr: 0.02, was 0.01: not taken, the checkpoint's optimizer keeps its own",
        "optim.batch_size: 8, was 4: taken",
        "schedule.iterations: 80, was 40: taken",
        "hooks[0].interval: 5, was 10: taken; what hooks have counted so far is the checkpoint's",
        "schedule.lr[0].eta_min: 0.0001, was not there: taken",
    ]
    assert levels == ["WARNING"]


def test_without_a_config_the_effective_rate_is_reported(caplog):
    optimizer = SimpleNamespace(param_groups=[{"initial_lr": 0.02, "lr": 0.001}])
    run = SimpleNamespace(is_main=True, train_set=None, config={}, optimizer=optimizer)
    with caplog.at_level(logging.INFO):
        RecordHook().load_checkpoint(run, {"meta": {"config": {}}})
    assert caplog.messages == ["the optimizer keeps the checkpoint's settings, an initial learning rate of 0.02"]


def test_what_is_taken_is_no_warning_and_nothing_changed_is_no_line(caplog):
    assert resume(caplog) == ([], [])
    lines, levels = resume(caplog, schedule={"iterations": 40})
    assert lines == [
        "schedule.lr[0].type: not there, was PolyLR: taken",
        "schedule.lr[0].power: not there, was 0.9: taken",
    ]
    assert levels == ["INFO"]


def test_a_resumed_part_and_a_test_leave_the_first_record(tmp_path):
    start(tmp_path, seed=3)
    start(tmp_path, iteration=400, seed=4)
    start(tmp_path, train=False, seed=5)
    seeds = {path.name: yaml.safe_load(path.read_text())["seed"] for path in tmp_path.glob("config*.yaml")}
    assert seeds == {"config.yaml": 3, "config_from_0000400.yaml": 4}


def test_other_ranks_write_nothing(tmp_path):
    run = SimpleNamespace(is_main=False, work_dir=tmp_path, train_set=object())
    RecordHook().before_run(run)
    assert not list(tmp_path.iterdir())


def test_a_run_resumed_after_its_end_reports_that_nothing_is_trained(caplog):
    run = SimpleNamespace(is_main=True, config=STORED, train_set=object(), iteration=4, max_iterations=2)
    RecordHook().load_checkpoint(run, {"meta": {"config": STORED}})
    assert "nothing is left to train: the checkpoint is of iteration 4 and the schedule ends at 2" in caplog.text


class Repainted:
    """The same number of images as before, and the same classes, but other pixels."""

    def __init__(self, dataset):
        self.dataset, self.classes, self.palette = dataset, dataset.classes, dataset.palette

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset[len(self) - 1 - index]


def test_a_checkpoint_knows_its_data_and_a_resumed_run_reports_others(make_runner, caplog):
    first = make_runner(RecordHook(), folder="first")
    first.train()
    path = first.work_dir / "checkpoints" / "iter_0000004.pt"
    assert checkpoint.load(path)["meta"]["data"] == json.loads((first.work_dir / "data.json").read_text())
    make_runner(RecordHook(), folder="same").resume(path)
    assert "data that differ" not in caplog.text
    make_runner(RecordHook(), folder="other", train=Repainted(first.train_set.dataset)).resume(path)
    (message,) = [message for message in caplog.messages if message.startswith("data that differ")]
    assert "train.sha256: " in message
    assert "val" not in message
