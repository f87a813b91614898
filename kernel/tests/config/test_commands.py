"""``seg-kernel config``."""

from __future__ import annotations

import gc

import pytest
from click.testing import CliRunner

from segkernel.catalog import Catalog
from segkernel.errors import ConfigError, UsageError


@pytest.fixture
def call(monkeypatch):
    """Call ``config ...``; return what it prints, raise what it raises."""
    from segkernel.cli.config import command as config

    monkeypatch.setattr(Catalog, "discover", Catalog)

    def call(name: str, *arguments: str) -> str:
        assert name == "config"
        return CliRunner().invoke(config, arguments, catch_exceptions=False, standalone_mode=False).output

    return call


@pytest.fixture
def raised(call):
    """Return the error of a command that must fail."""

    def raised(*arguments: str) -> Exception:
        with pytest.raises((ConfigError, UsageError)) as error:
            call(*arguments)
        return error.value

    return raised


def test_check_reports_every_problem_with_its_place(raised, write):
    pytest.importorskip("torch")
    write("my.yaml", "seed: many\nschedule: {iteratoins: 10}\noptim:\n  batch_size: [1]\n")
    error = raised("config", "check", "my.yaml")
    assert error.exit_code == 2
    assert [(problem.place, problem.path) for problem in error.problems] == [
        ("my.yaml:1:1", "seed"),
        ("my.yaml:2:12", "schedule.iteratoins"),
        ("my.yaml:4:3", "optim.batch_size"),
    ]
    assert "'iterations'" in error.problems[1].hint
    assert gc.isenabled()  # again


def test_check_prints_the_next_command(call, write):
    pytest.importorskip("torch")
    write("my.yaml", "seed: 3\n")
    assert call("config", "check", "my.yaml").splitlines()[-1] == "next: seg-kernel run my.yaml"
    assert gc.isenabled()  # again
