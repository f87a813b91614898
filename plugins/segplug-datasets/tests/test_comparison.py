"""Confidence intervals, per-image results, and ``seg-kernel compare``."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from segkernel.errors import DataError, UsageError
from segplug_datasets import image
from segplug_datasets.commands.compare import command
from segplug_datasets.metrics.bootstrap import interval, p_value, resample
from segplug_datasets.metrics.counts import confusion, per_class
from segplug_datasets.metrics.per_image import PerImage
from segplug_datasets.report.comparison import compare
from segplug_datasets.report.pareto import Point, front
from segplug_datasets.report.results import find_results

CLASSES = ("road", "car")


def truth(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 2, (20, 30), dtype=np.uint8)


def guess(number: int, right: float, seed: int = 0) -> np.ndarray:
    """Return labels of which about the share ``right`` is as in the truth."""
    rng, labels = np.random.default_rng((seed, number)), truth(number)
    return np.where(rng.random(labels.shape) < right, labels, 1 - labels).astype(np.uint8)


def results(right: float, count: int = 30, seed: int = 0, classes: tuple[str, ...] = CLASSES) -> PerImage:
    images = PerImage(classes)
    for number in range(count):
        images.add(f"img_{number:02d}", confusion(guess(number, right, seed), truth(number), len(classes)))
    return images


# ---------------------------------------------------------------- the bootstrap


def test_resampling_equals_drawing_one_image_after_the_other() -> None:
    areas = results(0.8, 5).areas
    drawn = resample(areas, 100, seed=3)
    rng = np.random.default_rng(3)
    weights = np.concatenate([rng.multinomial(5, [0.2] * 5, size=n) for n in (64, 36)])
    for row in (0, 63, 64, 99):
        by_hand = sum(areas[place] * weights[row, place] for place in range(5))
        assert (drawn[row] == by_hand).all()


def test_intervals_have_their_nominal_coverage() -> None:
    rng, held = np.random.default_rng(0), 0
    for trial in range(200):
        areas = rng.normal(10, 2, (40, 1, 1))
        low, high = interval(resample(areas, 300, seed=trial) / 40, 0.9)
        held += low[0, 0] <= 10 <= high[0, 0]
    assert 0.82 <= held / 200 <= 0.96


def test_p_values_by_hand() -> None:
    differences = np.array([[1.0, -1.0, 0.0, np.nan], [2.0, 1.0, 0.0, np.nan], [3.0, 2.0, 0.0, np.nan]])
    assert p_value(differences).tolist()[:3] == [0.5, 1.0, 1.0]
    assert np.isnan(p_value(differences)[3])


# ---------------------------------------------------------------- comparing


def test_better_models_are_significant_and_random_differences_are_not() -> None:
    better = compare(results(0.7), results(0.8, seed=1))
    entries = {entry.name: entry for entry in better.metrics}
    assert entries["mIoU"].p < 0.01
    assert 0 < entries["mIoU"].low < entries["mIoU"].second - entries["mIoU"].first < entries["mIoU"].high
    alike = {entry.name: entry for entry in compare(results(0.8), results(0.8, seed=1)).metrics}
    assert alike["mIoU"].p > 0.05
    assert alike["mIoU"].low < 0 < alike["mIoU"].high


def test_metrics_are_computed_over_all_pixels() -> None:
    first, second = results(0.7), results(0.8, seed=1)
    found = compare(first, second, repeats=10)
    for part, name in ((first, "first"), (second, "second")):
        iou = per_class(part.areas.sum(0))["IoU"]
        assert [getattr(entry, name) for entry in found.classes] == pytest.approx(iou)
        assert getattr(found.metrics[0], name) == pytest.approx(iou.mean())


def test_false_positive_rate_is_the_nominal_one() -> None:
    alarms = sum(
        compare(results(0.8, seed=2 * s), results(0.8, seed=2 * s + 1), 200).metrics[0].p < 0.05 for s in range(40)
    )
    assert alarms <= 7


def test_a_model_and_itself() -> None:
    found = compare(results(0.8), results(0.8))
    assert all(entry.p == 1 and entry.low == entry.high == 0 for entry in [*found.metrics, *found.classes])
    assert "greatest" not in found.table("A", "B")
    assert found.plain()["losses"] == []


def test_an_absent_class_stays_absent() -> None:
    classes = (*CLASSES, "never")
    found = compare(results(0.7, classes=classes), results(0.8, seed=1, classes=classes), 50)
    assert found.classes[2].plain() == dict.fromkeys(("first", "second", "low", "high", "difference", "p"))
    row = next(line for line in found.table("A", "B").splitlines() if line.startswith("never"))
    assert row.split() == ["never"] + ["-"] * 5


def test_images_are_listed_from_loss_to_gain() -> None:
    found = compare(results(0.7), results(0.8, seed=1), 10)
    changes = [second - first for _, first, second in found.changes]
    assert changes == sorted(changes)
    assert found.plain(most=1)["gains"][0]["name"] == found.changes[-1][0]


def test_other_images_classes_or_labels_are_refused() -> None:
    with pytest.raises(DataError, match=r"1 only in the first: img_29$"):
        compare(results(0.7), results(0.7, 29))
    with pytest.raises(DataError, match="road, car and road, car, never"):
        compare(results(0.7), results(0.7, classes=(*CLASSES, "never")))
    other = results(0.7, 29)
    other.add("img_29", confusion(truth(29), np.zeros((20, 30), np.uint8), 2))
    with pytest.raises(DataError, match=r"other labels.*img_29"):
        compare(results(0.7), other)
    twice = results(0.7, 2)
    twice.merge(results(0.7, 2))
    with pytest.raises(DataError, match="several images are called 'img_00'"):
        compare(twice, twice)
    with pytest.raises(DataError, match="no images"):
        compare(PerImage(CLASSES), PerImage(CLASSES))
    with pytest.raises(UsageError, match="confidence"):
        compare(results(0.7), results(0.7), confidence=1)


# ---------------------------------------------------------------- files of results


def test_results_survive_a_file(tmp_path: Path) -> None:
    images = results(0.8, 4)
    images.save(tmp_path / "a.npz")
    again = PerImage.load(tmp_path / "a.npz")
    assert again.classes == images.classes
    assert again.names == images.names
    assert (again.areas == images.areas).all()


def test_other_files_are_refused_as_results(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    for name in ("text.npz", "other.npz", "missing.npz"):
        with pytest.raises(DataError, match="no per-image results"):
            PerImage.load(tmp_path / name)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_the_table_of_images(tmp_path: Path, suffix: str) -> None:
    images = PerImage(("road", "car", "never"))
    images.add("one", confusion(np.array([[0, 0, 1]]), np.array([[0, 1, 1]]), 3))
    images.add("all ignored", confusion(np.array([[0]]), np.array([[255]]), 3))
    path = tmp_path / f"table.{suffix}"
    images.write_table(path)
    if suffix == "csv":
        rows = list(csv.DictReader(path.open()))
        assert rows[1] == {
            "name": "one", "aAcc": "66.6667", "mIoU": "50.0", "IoU.road": "50.0", "IoU.car": "50.0", "IoU.never": ""
        }  # fmt: skip
    else:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert rows[1]["IoU.never"] is None
        assert rows[1]["mIoU"] == 50
    assert rows[0]["name"] == "all ignored"
    assert not rows[0]["aAcc"]


def test_a_run_is_found_by_folder_name_or_file(tmp_path: Path) -> None:
    for moment in ("20250101_000000", "20260101_000000"):
        (tmp_path / "run" / moment / "evaluation").mkdir(parents=True)
        results(0.7, 2).save(tmp_path / "run" / moment / "evaluation" / "per_image.npz")
    newest = tmp_path / "run" / "20260101_000000" / "evaluation" / "per_image.npz"
    assert find_results(tmp_path / "run") == newest
    assert find_results(newest.parents[1]) == find_results(newest.parent) == find_results(newest) == newest
    assert find_results(tmp_path / "nothing") is None


# ---------------------------------------------------------------- the command


def call(*arguments: Any) -> Any:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for number in range(6):
        image.write_mask(tmp_path / "labels" / "town" / f"{number}_gt.png", truth(number) + 1)
        image.write_mask(tmp_path / "a" / "town" / f"{number}.png", guess(number, 0.7) + 1)
        image.write_mask(tmp_path / "b" / f"{number}.png", guess(number, 0.9, 1) + 1)
    return tmp_path


def test_folders_of_predictions_with_labels(folders: Path) -> None:
    options = ("--labels", folders / "labels", "--label-suffix", "_gt.png", "--classes", "road,car", "--offset", 1)
    found = call(folders / "a", folders / "b", *options, "--json")
    assert found.exit_code == 0, found.output
    read = json.loads(found.output)
    expected = PerImage(CLASSES)
    for number in range(6):
        expected.add(str(number), confusion(guess(number, 0.7), truth(number), 2))
    iou = per_class(expected.areas.sum(0))["IoU"]
    assert [read["classes"][name]["first"] for name in CLASSES] == pytest.approx(100 * iou)
    assert read["metrics"]["mIoU"]["difference"] > 10
    assert read["images"] == 6
    printed = call(folders / "a", folders / "b", *options).output
    assert "greatest gains" in printed
    assert "town/" in printed


def test_classes_are_found_in_the_labels(folders: Path) -> None:
    found = call(folders / "a", folders / "b", "--labels", folders / "labels", "--label-suffix", "_gt.png", "--json")
    assert list(json.loads(found.output)["classes"]) == ["class 0", "class 1", "class 2"]


def test_a_config_gives_labels_and_classes(folders: Path) -> None:
    image.write(folders / "images" / "0.png", np.zeros((20, 30, 3), np.uint8))
    image.write_mask(folders / "masks" / "0.png", truth(0) + 1)
    data = {"type": "FolderDataset", "images": str(folders / "images"), "masks": str(folders / "masks")}
    data |= {"classes": list(CLASSES), "offset": 1}
    config = folders / "config.yaml"
    config.write_text(json.dumps({"data": {"test": data}}))
    first = call(folders / "a", folders / "b", "--config", config, "--json")
    assert list(json.loads(first.output)["classes"]) == list(CLASSES)
    for name in ("a", "b"):
        image.write_mask(folders / "ids" / name / "0.png", image.read_mask(next((folders / name).rglob("0.png"))) - 1)
    second = call(folders / "ids" / "a", folders / "ids" / "b", "--config", config, "--values", "ids", "--json")
    assert json.loads(second.output)["classes"] == json.loads(first.output)["classes"]


def test_invalid_command_arguments_are_named(folders: Path) -> None:
    labels = ("--labels", folders / "labels", "--label-suffix", "_gt.png")
    cases = [
        ((folders / "a", folders / "b"), UsageError, "--labels or --config"),
        ((folders / "a", folders / "nothing", *labels), DataError, "no such run"),
        ((folders / "a", folders / "b", "--labels", folders / "labels"), DataError, "6 of 6 images have no prediction"),
        ((folders / "a", folders / "b", *labels, "--config", "x"), UsageError, "not both"),
        (
            (folders / "a", folders / "b", "--labels", folders / "labels", "--label-suffix", ".tif"),
            DataError,
            "ends in",
        ),
    ]
    for arguments, kind, text in cases:
        error = call(*arguments).exception
        assert isinstance(error, kind), error
        assert text in str(error)


def test_a_missing_prediction_and_a_colour_image_are_refused(folders: Path) -> None:
    labels = ("--labels", folders / "labels", "--label-suffix", "_gt.png")
    image.write(folders / "b" / "3.png", np.zeros((20, 30, 3), np.uint8))
    assert "is it an image" in str(call(folders / "a", folders / "b", *labels).exception)
    (folders / "b" / "3.png").unlink()
    error = call(folders / "a", folders / "b", *labels).exception
    assert "1 of 6 images have no prediction here: town/3" in str(error)


# ---------------------------------------------------------------- latency beside accuracy


def test_the_front_has_the_models_that_no_other_beats() -> None:
    points = [Point("slow", 90, 70), Point("fast", 10, 60), Point("worse", 95, 69), Point("twin", 10, 60)]
    assert front(points) == [True, True, False, True]


def test_several_runs_are_compared_with_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = []
    for number, right in enumerate((0.7, 0.8, 0.9)):
        folder = tmp_path / f"run{number}" / "evaluation"
        folder.mkdir(parents=True)
        results(right).save(folder / "per_image.npz")
        paths.append(str(folder.parent))
    monkeypatch.setattr("segplug_datasets.commands.compare.latencies", lambda runs, size: [30.0, 20.0, 50.0])
    more = ["--latency", "64x96", "--picture", str(tmp_path / "pareto.svg"), "--bootstrap", "20"]
    found = CliRunner().invoke(command, [*paths, *more])
    assert found.exit_code == 0, found.output
    starred = [line.split()[0] for line in found.output.splitlines() if line.endswith("*") and line.startswith("/")]
    assert starred == [paths[1], paths[2]]
    picture = (tmp_path / "pareto.svg").read_text()
    assert all(path in picture for path in paths)
    content = json.loads(CliRunner().invoke(command, [*paths, *more, "--json"]).stdout)
    assert [each["second"] for each in content["comparisons"]] == paths[1:]
    assert [point["latency"] for point in content["latency"]] == [30.0, 20.0, 50.0]


def test_a_picture_needs_latency_and_is_an_svg(tmp_path: Path) -> None:
    for options, said in ((["--picture", "a.svg"], "--latency"), (["--picture", "a.png", "--latency", "8x8"], "SVG")):
        error = CliRunner().invoke(command, ["a", "b", *options]).exception
        assert isinstance(error, UsageError)
        assert said in str(error)
