"""``seg-kernel compare`` with results that MMSegmentation's tests have written."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from segplug_datasets import image
from segplug_datasets.commands.compare import command

CLASSES = 2


def truth(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, CLASSES, (6, 8), np.uint8)


def guess(number: int) -> np.ndarray:
    return np.where(np.random.default_rng(99 + number).random((6, 8)) < 0.7, truth(number), 0).astype(np.int64)


def counts(number: int) -> tuple[torch.Tensor, ...]:
    """Return what 0.x keeps of an image when it evaluates while it predicts."""
    both = [torch.zeros(CLASSES) for _ in range(4)]
    for one in range(CLASSES):
        hit, found, true = ((guess(number) == one) & (truth(number) == one)), guess(number) == one, truth(number) == one
        for part, values in zip(both, (hit, found | true, found, true)):
            part[one] = float(values.sum())
    return tuple(both)


KINDS: dict[str, Any] = {
    "0.x": lambda number: guess(number),
    "0.x with counts": counts,
    "1.x": lambda number: {
        "img_path": f"/data/img_{9 - number}.jpg",
        "ori_shape": (6, 8),
        "pred_sem_seg": {"data": torch.from_numpy(guess(9 - number))[None]},
    },
}


@pytest.fixture
def masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Labels and predictions of ten images in the working directory."""
    monkeypatch.chdir(tmp_path)
    for number in range(10):
        image.write_mask(Path("masks", f"img_{number}.png"), truth(number))
        image.write_mask(Path("ours", f"img_{number}.png"), guess(number).astype(np.uint8))
    return Path("masks")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(command, [*map(str, arguments), "--labels", "masks", "--classes", "road,car"])


def differences(*runs: str) -> set[float]:
    """Return the differences of all metrics of two runs."""
    done = call(*runs, "--json", "--bootstrap", 10)
    assert done.exit_code == 0, done.exception
    metrics = json.loads(done.output[done.output.index("{") :])["metrics"]
    return {entry["difference"] for entry in (metrics.values() if isinstance(metrics, dict) else metrics)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickle_of_results_equals_the_folder_with_the_same_predictions(masks: Path, kind: str) -> None:
    Path("results.pkl").write_bytes(pickle.dumps([KINDS[kind](number) for number in range(10)], protocol=2))
    assert differences("ours", "results.pkl") == {0}


def test_predictions_named_after_the_image_file_are_found(masks: Path) -> None:
    for number in range(10):
        image.write_mask(Path("theirs", f"img_{number}_leftImg8bit.png"), guess(number).astype(np.uint8))
    Path("theirs", "img_3_leftImg8bit.png").rename("img_3")
    assert "1 of 10 images have no prediction here: img_3" in str(call("ours", "theirs").exception)
    Path("img_3").rename("theirs/img_3_leftImg8bit.png")
    entries = [{**KINDS["1.x"](number), "img_path": f"/data/img_{9 - number}_leftImg8bit.png"} for number in range(10)]
    Path("results.pkl").write_bytes(pickle.dumps(entries, protocol=2))
    assert differences("ours", "theirs") == differences("ours", "results.pkl") == {0}


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


def huge(number: int) -> Any:
    """Return an array whose state claims more than it holds."""
    array = np.zeros(1)
    rebuild, arguments, (_, _, dtype, *_) = array.__reduce__()  # type: ignore[misc]
    return type(
        "Forged", (), {"__reduce__": lambda self: (rebuild, arguments, (1, (10**9, 10**9), dtype, False, b"8"))}
    )()


BAD: dict[str, tuple[Any, str]] = {
    "code": ([Evil()], "refused: it asks for"),
    "a dict": ({"a": np.zeros(3)}, "is no list of results"),
    "another size": ([np.zeros((3, 3), int)] * 10, "of shape (3, 3) for labels of (6, 8)"),
    "fewer": ([guess(0)], "has no prediction of the image img_1"),
    "more": ([guess(number % 10) for number in range(12)], "holds 12 results for 10 images"),
    "numbers": ([1] * 10, "that is no label map"),
    "counts of other classes": ([(torch.zeros(3),) * 4] * 10, "not the counts of 2 classes"),
    "a huge array": ([huge(0)] * 10, "has no prediction"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_results_are_one_clear_error(masks: Path, kind: str) -> None:
    content, said = BAD[kind]
    Path("results.pkl").write_bytes(pickle.dumps(content, protocol=2))
    done = call("ours", "results.pkl")
    assert said in str(done.exception)
    assert not Path("executed").exists()


def test_a_truncated_pickle_is_one_clear_error(masks: Path) -> None:
    Path("results.pkl").write_bytes(pickle.dumps([guess(number) for number in range(10)])[:-50])
    assert "is damaged" in str(call("ours", "results.pkl").exception)


def test_logs_are_compared_where_there_are_no_results_of_images(tmp_path: Path) -> None:
    lines = {
        "ours/metrics.jsonl": [{"kind": "test", "iteration": 9, "mIoU": 50.0, "IoU.road": 60.0, "fwIoU": 1.0}],
        "old/1.log.json": [{"env_info": ""}, {"mode": "val", "iter": 5, "mIoU": 0.45, "IoU.road": 0.5, "lr": 0.1}],
        "new/1/vis_data/scalars.json": [{"loss": 1.0, "step": 5}, {"mIoU": 40.0, "IoU.road": 70.0, "step": 5}],
    }
    for name, records in lines.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("\n".join(map(json.dumps, records)))
    done = CliRunner().invoke(command, [str(tmp_path / name) for name in ("ours", "old", "new")])
    assert done.exit_code == 0, done.exception
    rows = [line.split() for line in done.output.splitlines()]
    assert ["mIoU", "50.00", "45.00", "40.00", "-5.00", "-10.00"] in rows
    assert ["IoU.road", "60.00", "50.00", "70.00", "-10.00", "+10.00"] in rows
    (tmp_path / "empty").mkdir()
    failed = CliRunner().invoke(command, [str(tmp_path / name) for name in ("ours", "empty")])
    assert str(failed.exception).startswith(f"{tmp_path / 'empty'}: has no evaluation/per_image.npz")
