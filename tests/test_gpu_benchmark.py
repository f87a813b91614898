"""`benchmarks/gpu.py` run on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from segplug_datasets.camvid import CamVid
from segplug_datasets.example import write_example

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the benchmark as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    return gpu


def test_the_cheapest_parts_run_on_the_cpu(gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    options = gpu.Options("cpu", small=True, camvid=None)
    for part in ("metrics on the device", "prefetch"):
        gpu.PARTS[part](options)
    output = capsys.readouterr().out
    assert "mIoU" in output
    assert "copying" in output
    with pytest.raises(SystemExit) as caught:
        gpu.PARTS["CamVid"](options)
    assert caught.value.code == gpu.SKIPPED


def test_only_a_part_that_is_done_is_not_run_again(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran, states = [], {"GPU tests": "timed out after 540 s", "CamVid": "skipped"}

    def timed(command: Sequence[str], limit: float) -> dict[str, Any]:
        ran.append(command[-1])
        return {"state": states.pop(command[-1], "done"), "seconds": 1.0, "output": ["12 ms"]}

    monkeypatch.setattr(gpu, "timed", timed)
    options, file = gpu.Options("cpu", small=True, camvid=None), tmp_path / "new" / "gpu.json"
    next(gpu.run_parts(["prefetch", "GPU tests"], options, file))  # interrupted after the first part
    *_, results = gpu.run_parts(["prefetch", "GPU tests", "CamVid"], options, file)
    assert ran == ["prefetch", "GPU tests", "CamVid"] == list(results["parts"])
    *_, results = gpu.run_parts(["prefetch", "GPU tests", "CamVid"], options, file)
    assert ran[3:] == ["GPU tests", "CamVid"]
    assert results == json.loads(file.read_text("utf-8"))
    assert "## GPU tests\n\ndone, 1.0 s\n\n```text\n12 ms\n```" in gpu.page(results)
    with pytest.raises(SystemExit, match="another file"):
        next(gpu.run_parts(["quick start"], gpu.Options("cpu", small=False, camvid=None), file))


def test_timeout_and_failure_of_a_part_are_reported(gpu: Any) -> None:
    waiting = gpu.timed(["sh", "-c", "echo begun; sleep 60 & wait"], 0.3)
    assert waiting["state"] == "timed out after 0 s"
    assert waiting["output"] == ["begun"]
    assert gpu.timed(["sh", "-c", "exit 3"], 10)["state"] == "failed with exit code 3"
    assert gpu.timed(["sh", "-c", f"exit {gpu.SKIPPED}"], 10)["state"] == "skipped"


@pytest.mark.slow
def test_every_part_runs_on_the_cpu(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write_example(tmp_path / split, tmp_path / f"{split}annot", (0, 10), ".png", ".png")
    assert len(CamVid(tmp_path, "val"))
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--small", "--device", "cpu", "--camvid", str(tmp_path)]
    pages = ["--out", str(tmp_path / "gpu.json"), "--page", str(tmp_path / "page.md")]
    done = subprocess.run([*command, *pages], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    *_, tiles = json.loads((tmp_path / "gpu.json").read_text("utf-8"))["parts"]["memory of the loss"]["output"]
    assert tiles.startswith("in tiles")
    assert float(tiles.split()[3]) < 0.5, "the ratio of the memory to that of all logits upsampled together"
    assert not (tmp_path / "page.md").exists(), "results of a CPU are not published"
