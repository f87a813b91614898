"""Hints on commands and keys of other tools, and on a run with two lengths."""

from __future__ import annotations

from typing import Any

import pytest

from segkernel.config import Config, load_config
from segplug_training.length_check import check_length, overlong_text
from segplug_training.usual_names import usual_name


def test_keys_and_commands_are_told_apart() -> None:
    assert usual_name("lr") == "it is optim.optimizer.lr"
    assert usual_name("seg-kernel train").startswith("it is seg-kernel run")
    assert [usual_name(name) for name in ("train", "seg-kernel lr", "x seg-kernel train", "")] == ["", "", "", ""]


def config(*overrides: str, **schedule: Any) -> Config:
    return load_config({"schedule": schedule}, overrides)


def test_a_run_has_one_length() -> None:
    assert check_length(load_config({})) == []
    assert check_length(config(iterations=10)) == []
    assert check_length(config("~schedule.iterations", "schedule.epochs=2", iterations=10)) == []
    (problem,) = check_length(config("schedule.epochs=2", iterations=10))
    assert (problem.path, problem.hint) == ("schedule.epochs", "~schedule.iterations removes the other")
    (problem,) = check_length(config("schedule.iterations=2", epochs=10))
    assert (problem.path, problem.hint) == ("schedule.iterations", "~schedule.epochs removes the other")


def test_a_schedule_longer_than_the_run_is_a_warning_with_numbers_that_fit(caplog: pytest.LogCaptureFixture) -> None:
    warm_up, main = {"type": "LinearLR", "end": 1500}, {"type": "PolyLR", "begin": 1500}
    for iterations, last, expected in (
        (20, {}, ["lr[0].end=2", "lr[1].begin=2", "val_interval=2"]),
        (20, {"end": 160000}, ["lr[0].end=1", "lr[1].begin=1", "lr[1].end=20", "val_interval=2"]),
        (3000, {}, ["val_interval=300"]),
        (160000, {"end": 160000}, []),
    ):
        caplog.clear()
        given = config(iterations=iterations, val_interval=16000, lr=[warm_up, main | last])
        assert check_length(given) == []
        assert [word for word in caplog.text.split() if "=" in word] == [f"schedule.{each}" for each in expected]
        changed = load_config(dict(given.data), [f"schedule.{each}" for each in expected])
        assert overlong_text(changed["schedule"]) == ""


def test_iterations_and_epochs_are_not_compared() -> None:
    for lr, expected in (
        ({"type": "PolyLR", "end": 50}, ""),
        ({"type": "PolyLR", "end": 50, "by_epoch": True}, "the run has 2 epochs (schedule.epochs), but schedule.lr[0]"),
    ):
        assert overlong_text({"epochs": 2, "val_interval": 1, "lr": [lr]}).startswith(expected)
    assert overlong_text({"iterations": "20", "lr": "PolyLR"}) == overlong_text({}) == ""


def test_a_run_also_knows_its_length_in_the_other_unit() -> None:
    parts = [{"type": "ConstantLR", "end": 3, "by_epoch": True}, {"type": "PolyLR", "begin": 5}]
    known = {"iterations": 6, "epochs": 2.25}
    for given in ({"iterations": 6}, {"epochs": 2.25}):
        assert overlong_text({**given, "lr": parts}, known) == ""
        parts_too_long = [{**parts[0], "begin": 3, "end": 4}, {**parts[1], "begin": 6}]
        text = overlong_text({**given, "lr": parts_too_long}, known)
        assert "schedule.lr[0].begin is 3" in text
        assert "schedule.lr[1].begin is 6" in text
        assert "2.25 epochs" in text
        assert "6 iterations" in text
