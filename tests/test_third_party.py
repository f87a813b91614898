"""An outside package that adds one component of every kind: built far from here, installed, found, checked, used."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import importlib_metadata
import pytest

FOLDER = Path(__file__).parent / "segplug-sampler"
NAME = "segplug-sampler"

Run = Callable[..., str]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed in it, from a wheel built outside the workspace."""
    pytest.importorskip("hatchling", reason="the wheel is built with the hatchling that is installed")
    folder = tmp_path_factory.mktemp("outside")
    shutil.copytree(FOLDER, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(folder), str(folder / "source"))
    (wheel,) = folder.glob("*.whl")
    pip("install", "--target", str(folder / "site"), str(wheel))
    return folder / "site"


@pytest.fixture
def seg_kernel(site: Path, tmp_path: Path) -> Run:
    """Run a command in an empty folder, with the package installed beside the others."""
    pytest.importorskip("torch")

    def run(*arguments: str, expect: int = 0, **environment: str) -> str:
        path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, "-m", "segkernel", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "--no-deps", "--no-index", "--quiet"]
    subprocess.run(command, check=True, capture_output=True, text=True)


def test_everything_it_offers_is_listed(seg_kernel: Run, site: Path) -> None:
    plugins = {entry["distribution"]: entry for entry in json.loads(seg_kernel("plugins", "--json"))["plugins"]}
    (distribution,) = importlib_metadata.distributions(path=[str(site)])
    wanted = {(entry.group.removeprefix("segkernel."), entry.name) for entry in distribution.entry_points}
    assert {(offer["group"], offer["name"]) for offer in plugins[NAME]["offers"]} == wanted


def test_it_passes_the_conformance_kit(seg_kernel: Run) -> None:
    seg_kernel("plugins", "check", NAME, "--deep")


def test_its_config_is_valid(seg_kernel: Run) -> None:
    assert "is valid" in seg_kernel("config", "check", "stripes")


def test_a_run_uses_all_of_it(seg_kernel: Run, tmp_path: Path) -> None:
    output = seg_kernel("run", "stripes", "--work-dir", "run")
    assert "sampled engine" in output
    assert "6 iterations are enough" in output
    assert "aAcc" in output
    assert list((tmp_path / "run").rglob("*.pt2"))


def test_its_command_is_listed_without_being_imported(seg_kernel: Run) -> None:
    assert "stripes" in seg_kernel("--help")


def test_its_command_runs(seg_kernel: Run) -> None:
    assert seg_kernel("stripes", "--count", "2").splitlines()[-1] == ".##......##......##......##....."


def test_disabling_it_says_so_on_use(seg_kernel: Run, tmp_path: Path) -> None:
    shutil.copy(FOLDER / "src" / "segplug_sampler" / "zoo" / "stripes.yaml", tmp_path)
    assert "SEGKERNEL_DISABLE" in seg_kernel("config", "check", "stripes.yaml", expect=3, SEGKERNEL_DISABLE=NAME)
