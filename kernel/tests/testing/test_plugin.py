"""The pytest door of the kit, from outside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

TEST = "def test_of_the_folder():\n    pass\n"


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_here.py").write_text(TEST)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_each_check_is_a_test_with_a_readable_id_and_the_folders_own_run_only_when_named(tmp_path: Path) -> None:
    alone = run_pytest(tmp_path, "--segkernel-conformance", "seg-kernel", "-k", "CheckpointHook or folder")
    assert "seg-kernel::hooks/CheckpointHook::moments PASSED" in alone.stdout
    assert alone.returncode == 0
    assert "test_of_the_folder" not in alone.stdout
    both = run_pytest(
        tmp_path, "--segkernel-conformance", "seg-kernel", "-k", "CheckpointHook or folder", "test_here.py"
    )
    assert "test_of_the_folder" in both.stdout


def test_without_the_option_nothing_changes(tmp_path: Path) -> None:
    ran = run_pytest(tmp_path)
    assert "1 passed" in ran.stdout


def test_an_unknown_distribution_is_a_usage_error(tmp_path: Path) -> None:
    ran = run_pytest(tmp_path, "--segkernel-conformance", "segplug-nothing")
    assert ran.returncode == pytest.ExitCode.USAGE_ERROR
    assert "segplug-nothing" in ran.stderr + ran.stdout
