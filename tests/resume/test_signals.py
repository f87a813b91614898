"""What a batch system, a terminal or the system's memory killer does to a run with loader workers."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from segkernel import checkpoint

ROOT = Path(__file__).parents[2]
sys.path[:0] = map(str, Path(__file__).parents[:2])
from forked import Forked  # noqa: E402
from kill_and_resume import CONFIG, start  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds workers in /proc")


@pytest.fixture
def run(tmp_path: Path):
    """Return a long run that has saved its second checkpoint."""
    config = tmp_path / "run.yaml"
    config.write_text(CONFIG.replace("ITERATIONS", "100000").replace("val_interval: 4", "val_interval: 100000"))
    process = start(config, tmp_path / "run")
    end = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoints" / "iter_0000002.pt").exists():
        assert process.poll() is None, process.err()[-3000:]
        assert time.monotonic() < end, "the run makes no progress"
        time.sleep(0.02)
    yield process
    process.kill()


def workers(process: Forked) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def newest(folder: Path) -> int:
    path = max((folder / "run" / "checkpoints").glob("iter_*.pt"))
    return checkpoint.load(path)["iteration"]


def test_sigterm_to_the_whole_process_group_saves_a_checkpoint(run: Forked, tmp_path: Path) -> None:
    before = newest(tmp_path)
    os.killpg(run.pid, signal.SIGTERM)
    assert run.wait(60) == 143, run.err()[-3000:]
    assert f"Error: interrupted by signal 15; saved {tmp_path}/run/checkpoints/iter_" in run.err()
    assert newest(tmp_path) >= before


def test_a_killed_worker_is_named_and_blames_no_checkpoint(run: Forked, tmp_path: Path) -> None:
    os.kill(workers(run)[0], signal.SIGKILL)
    assert run.wait(60) == 1, run.err()[-3000:]
    last = run.err()[run.err().index("Error:") :]
    assert last.startswith("Error: a data-loader worker was killed")
    assert "cannot be written" not in last
    assert newest(tmp_path) >= 2


def test_workers_live_where_python_starts_them_by_a_server(tmp_path: Path) -> None:
    # Python 3.14's default: their parent is the server, not the run that they work for.
    config = tmp_path / "run.yaml"
    config.write_text(CONFIG.replace("ITERATIONS", "1"))
    before = functools.partial(multiprocessing.set_start_method, "forkserver", force=True)
    process = start(config, tmp_path / "run", before=before)
    assert process.wait(120) == 0, process.err()[-3000:]
