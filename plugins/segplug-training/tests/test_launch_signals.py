"""The launcher refuses what no rank could run, once, and signals to it reach the ranks."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from segkernel.errors import ConfigError, UsageError
from segplug_training.launch import command

RANK = "import signal, sys; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75)); print(flush=True); signal.pause()"
LAUNCHER = f"""
import signal, subprocess, sys
from segplug_training.launch import _forward
signal.signal(signal.SIGUSR1, _forward)
rank = subprocess.Popen([sys.executable, "-c", {RANK!r}])
sys.exit(rank.wait())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="children are listed in /proc")
def test_a_signal_of_preemption_is_forwarded_to_the_ranks() -> None:
    with subprocess.Popen([sys.executable, "-c", LAUNCHER], stdout=subprocess.PIPE) as launcher:
        launcher.stdout.readline()  # the rank is ready
        launcher.send_signal(signal.SIGUSR1)
        assert launcher.wait(timeout=60) == 75


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["x.yaml", "a=1"], "seg-kernel launch 2 run x.yaml a=1"), (["rn", "x.yaml"], "did you mean 'run'")],
)
def test_what_is_no_command_is_refused_before_ranks_start(arguments: list[str], said: str) -> None:
    error = CliRunner().invoke(command, ["2", *arguments]).exception
    assert isinstance(error, UsageError)
    assert said in str(error)


@pytest.mark.parametrize("override", ["model.num_clases=3", "+model.num_clases=3", "+optim.batch_size=0"])
def test_an_error_of_the_config_is_reported_before_ranks_start(tmp_path: Path, override: str) -> None:
    (tmp_path / "toy.yaml").write_text("model: {type: 'segkernel.testing.toys:ToySegmentor'}")
    error = CliRunner().invoke(command, ["2", "run", str(tmp_path / "toy.yaml"), override]).exception
    assert isinstance(error, ConfigError)
    assert override.strip("+").partition("=")[0] in str(error)
