"""`RecordHook` writes what a run was started with, once for each part of it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import torch
import yaml

from segplug_training.record import RecordHook


def start(folder, iteration=0, train=True, **config):
    engine = SimpleNamespace(device=torch.device("cpu"), world_size=1)
    run = SimpleNamespace(is_main=True, work_dir=folder, iteration=iteration, config=config, engine=engine, seed=3)
    run.train_set = object() if train else None
    RecordHook().before_run(run)


def test_the_record_says_what_the_run_was_started_with(tmp_path):
    start(tmp_path, seed=3, hooks=[])
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == {"seed": 3, "hooks": []}
    assert "segplug-training" in json.loads((tmp_path / "plugins.json").read_text())
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["seed"] == 3
    assert environment["torch"].partition("+")[0] == torch.__version__.partition("+")[0]


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
