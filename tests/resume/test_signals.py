"""What a batch system, a terminal or the system's memory killer does to a run with loader workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segkernel import checkpoint

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))
from kill_and_resume import CONFIG, command  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds workers in /proc")


@pytest.fixture
def run(tmp_path: Path):
    """Return a long run that has saved its second checkpoint."""
    config = tmp_path / "run.yaml"
    config.write_text(CONFIG.replace("ITERATIONS", "100000").replace("val_interval: 4", "val_interval: 100000"))
    process = subprocess.Popen(
        command(config, tmp_path / "run", False), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    end = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoints" / "iter_0000002.pt").exists():
        assert process.poll() is None, process.stderr.read()[-3000:]  # type: ignore[union-attr]
        assert time.monotonic() < end, "the run does not get on"
        time.sleep(0.02)
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def workers(process: subprocess.Popen) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def newest(folder: Path) -> int:
    path = max((folder / "run" / "checkpoints").glob("iter_*.pt"))
    return checkpoint.load(path)["iteration"]


def test_sigterm_to_the_whole_process_group_saves_a_checkpoint(run: subprocess.Popen, tmp_path: Path) -> None:
    before = newest(tmp_path)
    os.killpg(run.pid, signal.SIGTERM)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 143, errors[-3000:]
    assert f"Error: interrupted by signal 15; saved {tmp_path}/run/checkpoints/iter_" in errors
    assert newest(tmp_path) >= before


def test_a_killed_worker_is_named_and_blames_no_checkpoint(run: subprocess.Popen, tmp_path: Path) -> None:
    os.kill(workers(run)[0], signal.SIGKILL)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 1, errors[-3000:]
    last = errors[errors.index("Error:") :]
    assert last.startswith("Error: a process that reads samples has died")
    assert "cannot be written" not in last
    assert newest(tmp_path) >= 2
