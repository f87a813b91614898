"""Hints on commands and keys of other tools, and on a run with two lengths."""

from __future__ import annotations

from segkernel.config import Config, load_config
from segplug_training.length_check import check_length
from segplug_training.usual_names import usual_name


def test_keys_and_commands_are_told_apart() -> None:
    assert usual_name("lr") == "it is optim.optimizer.lr"
    assert usual_name("seg-kernel train").startswith("it is seg-kernel run")
    assert [usual_name(name) for name in ("train", "seg-kernel lr", "x seg-kernel train", "")] == ["", "", "", ""]


def config(*overrides: str, **schedule: int) -> Config:
    return load_config({"schedule": schedule}, overrides)


def test_a_run_has_one_length() -> None:
    assert check_length(load_config({})) == []
    assert check_length(config(iterations=10)) == []
    assert check_length(config("~schedule.iterations", "schedule.epochs=2", iterations=10)) == []
    (problem,) = check_length(config("schedule.epochs=2", iterations=10))
    assert (problem.path, problem.hint) == ("schedule.epochs", "~schedule.iterations removes the other")
    (problem,) = check_length(config("schedule.iterations=2", epochs=10))
    assert (problem.path, problem.hint) == ("schedule.iterations", "~schedule.epochs removes the other")
