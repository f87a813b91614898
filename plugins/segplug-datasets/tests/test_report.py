"""Prediction files, slices, images, the page, and the hook that writes them after an evaluation."""

from __future__ import annotations

import base64
import csv
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from segkernel import Evaluation, Loader, Runner
from segkernel.errors import DataError, UsageError
from segkernel.sample import LabelMap, Prediction, Sample, Targets
from segkernel.testing.toys import ToySegmentor
from segplug_datasets import ade20k, aerial, cityscapes, image, pascal
from segplug_datasets.files import FolderDataset
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.metrics.counts import confusion
from segplug_datasets.metrics.iou import IoUMetric
from segplug_datasets.metrics.per_image import PerImage
from segplug_datasets.report.drawing import confusion_svg, errors, fit, panels
from segplug_datasets.report.formats import FORMATS, OF_DATASETS, default_format, value_table, write_prediction
from segplug_datasets.report.hook import EvaluationReport
from segplug_datasets.report.page import Page
from segplug_datasets.report.record import Record, describe
from segplug_datasets.report.slices import cut, read_table

IDS = np.array([[0, 1, 2], [3, 4, 5]], np.uint8)


# ---------------------------------------------------------------- formats


def test_ade20k_starts_at_one(tmp_path: Path) -> None:
    path = write_prediction(tmp_path, "ADE_test_00000001", np.array([[0, 149]], np.uint8), ade20k.LABELS, "ade20k")
    assert path == tmp_path / "ADE_test_00000001.png"
    assert image.read_mask(path).tolist() == [[1, 150]]


def test_cityscapes_are_label_ids_in_one_folder(tmp_path: Path) -> None:
    ids = np.array([[0, 13, 18, 255]], np.uint8)
    path = write_prediction(tmp_path, "bonn/bonn_000000_000019", ids, cityscapes.LABELS, "cityscapes")
    assert path == tmp_path / "bonn_000000_000019.png"
    assert image.read_mask(path).tolist() == [[7, 26, 33, 0]]
    swapped = LabelSpec(("car", "road"))  # by name, not by place
    write_prediction(tmp_path, "x", np.array([[0, 1]], np.uint8), swapped, "cityscapes")
    assert image.read_mask(tmp_path / "x.png").tolist() == [[26, 7]]
    with pytest.raises(UsageError, match=r"Cityscapes has no class 'raod'.*road"):
        write_prediction(tmp_path, "x", IDS, LabelSpec(("raod",)), "cityscapes")


def test_loveda_starts_at_zero_though_its_files_do_not(tmp_path: Path) -> None:
    spec = aerial.LoveDADataset.spec
    path = write_prediction(tmp_path, "4191", np.array([[0, 6]], np.uint8), spec, "loveda")
    assert image.read_mask(path).tolist() == [[0, 6]]


def test_isprs_are_colours(tmp_path: Path) -> None:
    spec = aerial.PotsdamDataset.spec
    path = write_prediction(tmp_path, "top_potsdam_2_13", IDS, spec, "isprs")
    assert path.name == "top_potsdam_2_13_class.tif"
    assert image.read(path)[0].tolist() == [[255, 255, 255], [0, 0, 255], [0, 255, 255]]


def test_voc_is_an_indexed_png_in_the_folders_of_the_archive(tmp_path: Path) -> None:
    ids = np.array([[0, 15, 20, 255]], np.uint8)
    path = write_prediction(tmp_path, "2008_000001", ids, pascal.PascalVOCDataset.spec, "voc")
    assert path == tmp_path / "results/VOC2012/Segmentation/comp6_test_cls/2008_000001.png"
    assert path.read_bytes()[25] == 3  # colour type: palette
    assert image.read_mask(path).tolist() == [[0, 15, 20, 255]]
    assert image.read(path)[0].tolist() == [[0, 0, 0], [192, 128, 128], [0, 64, 128], [224, 224, 192]]


def test_labels_are_the_numbers_of_the_files(tmp_path: Path) -> None:
    labels = LabelSpec(("a", "b"), values={7: 0, 300: 1})
    path = write_prediction(tmp_path, "in/side", np.array([[0, 1]], np.uint8), labels)
    assert path == tmp_path / "in" / "side.png"
    assert image.read_mask(path).tolist() == [[7, 300]]


def test_every_data_set_has_a_known_format() -> None:
    assert set(OF_DATASETS.values()) <= set(FORMATS)
    assert default_format(object()) == "labels"
    dataset = aerial.LoveDADataset.__new__(aerial.LoveDADataset)
    assert default_format(dataset) == "loveda"


def test_values_are_listed() -> None:
    assert value_table(ade20k.LABELS, "ade20k")[:2] == [("wall", "1"), ("building", "2")]
    assert value_table(aerial.PotsdamDataset.spec, "isprs")[1] == ("building", "#0000ff")


def test_unknown_formats_and_nameless_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cityscapes"):
        write_prediction(tmp_path, "x", IDS, ade20k.LABELS, "cityscape")
    with pytest.raises(DataError, match="name"):
        write_prediction(tmp_path, "", IDS, ade20k.LABELS)


# ---------------------------------------------------------------- slices


def counted(names: list[str]) -> PerImage:
    images = PerImage(("a", "b"))
    for number, name in enumerate(names):
        predicted = np.zeros((2, 4), np.uint8)
        predicted[0, : number % 4] = 1
        images.add(name, confusion(predicted, np.zeros((2, 4), np.uint8), 2))
    return images


def test_slices_by_folder_and_size() -> None:
    names = ["day/1", "day/2", "night/3"]
    facts = {name: describe({"name": name}, (100, 100)) for name in names}
    slices = cut(counted(names), facts, ["folder", "size"])
    assert [(part.kind, part.value, part.images) for part in slices] == [("folder", "day", 2), ("folder", "night", 1)]
    assert slices[0].accuracy == pytest.approx(15 / 16)  # one size only: no slices by it
    assert slices[1].accuracy == pytest.approx(6 / 8)
    assert describe({"name": "x", "path": "some/where/x.jpg"}, (2000, 3000)) == {
        "folder": "where", "size": "2 to 8 megapixels"
    }  # fmt: skip


def test_slices_by_the_columns_of_a_table(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("file,weather\nday/1.jpg,rain\n2,sun\n")
    facts = read_table(table, ["day/1", "day/2", "night/3"])
    assert facts == {"day/1": {"weather": "rain"}, "day/2": {"weather": "sun"}}
    slices = cut(counted(["day/1", "day/2", "night/3"]), facts, ["weather"])
    assert {part.value for part in slices} == {"rain", "sun", "(not listed)"}


@pytest.mark.parametrize(
    ("text", "message"),
    [("name\n1\n", "others"), ("name,weather\nother,rain\n", "none of the images"), (None, "cannot be read")],
)
def test_useless_tables_are_refused(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "t.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_table(path, ["1", "2"])


# ---------------------------------------------------------------- pictures


def test_wrong_pixels_are_red_and_ignored_ones_dark() -> None:
    picture = np.full((1, 3, 3), 100, np.uint8)
    drawn = errors(picture, np.array([[0, 1, 1]], np.uint8), np.array([[0, 0, 255]], np.uint8))[0].astype(int)
    assert drawn[0].tolist() == [120] * 3
    assert drawn[1][0] > 200 > drawn[1][1]
    assert drawn[2].max() < 60


def test_wide_images_are_made_smaller() -> None:
    assert fit(np.zeros((100, 400), np.uint8), 200).shape == (50, 200)
    shown = panels(
        np.zeros((10, 20, 3), np.uint8), np.zeros((10, 20), np.uint8), np.zeros((10, 20), np.uint8), [(1, 2, 3)]
    )
    assert {part.shape for part in shown.values()} == {(10, 20, 3)}
    assert list(shown) == ["image", "truth", "prediction", "errors"]


@pytest.mark.parametrize("count", [2, 8, 150])
def test_the_matrix_is_valid_svg_with_every_name(count: int) -> None:
    names = [f"<class> & {index}" for index in range(count)]
    counts = np.random.default_rng(0).integers(0, 100, (count + 2, count + 1))
    counts[1] = 0  # a class that does not occur
    root = ElementTree.fromstring(confusion_svg(counts, names))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert [text for text in texts if "class" in str(text)] == [name for name in names for _ in range(2)]
    assert len(confusion_svg(counts, names)) < 200_000


def test_the_page_needs_nothing_else_and_escapes() -> None:
    counts = np.zeros((4, 3), np.int64)
    counts[:2, :2] = [[9, 1], [0, 0]]
    page = Page("<run>", "a & b", ["x<y", "never"], [(1, 2, 3), (4, 5, 6)], counts, {"ECE": float("nan")}).html()
    assert "&lt;run&gt;" in page
    assert "x&lt;y" in page
    assert "90.00" in page
    assert "prefers-color-scheme" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


# ---------------------------------------------------------------- what is recorded


def shown(name: str, wrong: int) -> tuple[Prediction, Targets]:
    truth = torch.zeros(4, 8, dtype=torch.uint8)
    truth[2:] = 1
    guess = truth.clone()
    guess[0, :wrong] = 1
    return Prediction({"seg": guess}, {"name": name, "index": wrong}), Targets({"seg": truth})


def test_the_worst_of_all_ranks_are_kept() -> None:
    whole, parts = Record(("a", "b"), 2), [Record(("a", "b"), 2), Record(("a", "b"), 2)]
    for wrong in range(6):
        whole.add(*shown(f"img{wrong}", wrong))
        parts[wrong % 2].add(*shown(f"img{wrong}", wrong))
    parts[0].merge(parts[1])
    for record in (whole, parts[0]):
        assert [kept.name for kept in record.worst] == ["img5", "img4"]
        assert record.worst[0].labels().tolist() == shown("", 5)[0].labels.tolist()
        assert record.confusion.sum() == 6 * 32
    assert parts[0].images.names == whole.images.names


# ---------------------------------------------------------------- the hook


class Stripes:
    """Six images of two folders; the last has no pixel that counts."""

    classes = ("a", "b", "c", "d")
    palette = ((1, 2, 3), (40, 50, 60), (70, 80, 90), (100, 110, 120))
    labels = LabelSpec(classes, palette, offset=1)

    def __init__(self, annotated: bool = True) -> None:
        self.annotated = annotated

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Sample:
        if index >= 6:
            raise IndexError(index)
        rng = np.random.default_rng(index)
        picture = rng.integers(0, 256, (32, 48 + 8 * (index % 2), 3), dtype=np.uint8)
        labels = np.repeat(rng.integers(0, 4, (32, 1), dtype=np.uint8), picture.shape[1], 1)
        fields = {"seg": LabelMap(labels if index < 5 else np.full_like(labels, 255))} if self.annotated else {}
        return Sample(image=picture, fields=fields, meta={"name": f"{'day' if index < 4 else 'night'}/{index}"})


def run(folder: Path, dataset: Any = None, metrics: Any = None, **arguments: Any) -> Runner:
    torch.manual_seed(0)
    metrics = [IoUMetric()] if metrics is None else metrics
    evaluation = Evaluation(metrics=metrics, format_only=not metrics)
    hook = EvaluationReport(**arguments)
    runner = Runner(ToySegmentor(), test=dataset or Stripes(), evaluation=evaluation, hooks=[hook], work_dir=folder)
    runner.run()
    return runner


def test_a_test_leaves_its_report(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("name,weather\n0,rain\n1,rain\n2,sun\n")
    runner = run(tmp_path / "run", worst=3, bootstrap=50, slice_file=tmp_path / "t.csv", format="auto")
    folder = tmp_path / "run" / "evaluation"
    page = (folder / "report.html").read_text("utf-8")
    assert f"{runner.metrics['mIoU']:.2f}" in page
    assert page.count("<figure") == 3
    assert page.count("data:image/jpeg;base64,") == 12
    for text in ("night", "weather", "(not listed)", "test set of 6 images (Stripes)"):
        assert text in page
    images = PerImage.load(folder / "per_image.npz")
    assert len(images) == 6
    rows = list(csv.reader((folder / "confusion.csv").open()))
    assert rows[0] == ["true", "a", "b", "c", "d", "(none)"]
    assert sum(int(cell) for row in rows[1:] for cell in row[1:]) == images.areas[:, 1].sum()
    assert len(list(csv.reader((folder / "per_image.csv").open()))) == 7
    written = image.read_mask(folder / "predictions" / "day" / "0.png")
    assert written.min() >= 1  # in the numbers of the label files
    assert (folder / "values.csv").read_text().splitlines()[1] == "a,1"


def test_without_annotations_there_are_predictions_only(tmp_path: Path) -> None:
    run(tmp_path, Stripes(annotated=False), metrics=[], format="ids")
    folder = tmp_path / "evaluation"
    assert len(list((folder / "predictions").rglob("*.png"))) == 6
    assert not (folder / "report.html").exists()


def test_metrics_that_only_write_need_no_annotations(tmp_path: Path) -> None:
    metric = IoUMetric(output_dir=tmp_path / "out", format_only=True)
    run(tmp_path / "run", Stripes(annotated=False), metrics=[metric])
    assert image.read_mask(tmp_path / "out" / "day" / "0.png").min() >= 1  # it was told what the files hold


def test_a_validation_can_leave_it_too(tmp_path: Path) -> None:
    hook = EvaluationReport(out_dir=tmp_path / "out", when="val", table="jsonl", worst=0)
    runner = Runner(
        ToySegmentor(),
        train=Loader(FirstFive(), micro_batch=1),
        val=FirstFive(),
        optimizer=lambda model: torch.optim.SGD(model.parameters(), 0.01),
        iterations=2,
        val_interval=1,
        evaluation=Evaluation(metrics=[IoUMetric()]),
        hooks=[hook],
        work_dir=tmp_path / "run",
    )
    runner.run()
    assert len((tmp_path / "out" / "per_image.jsonl").read_text().splitlines()) == 5
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "val set of 5 images" in page
    assert "iteration 2" in page
    assert "<figure" not in page


class FirstFive(Stripes):
    def __len__(self) -> int:
        return 5


def test_a_real_folder_of_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        image.write(tmp_path / "images" / f"{number}.png", rng.integers(0, 256, (32, 40, 3), dtype=np.uint8))
        image.write_mask(tmp_path / "masks" / f"{number}.png", rng.integers(0, 4, (32, 40)))
    dataset = FolderDataset("images", "masks", classes=list("abcd"), data_root=tmp_path)
    run(tmp_path / "run", dataset, worst=1)
    page = (tmp_path / "run" / "evaluation" / "report.html").read_text("utf-8")
    data = re.search(r'alt="prediction" src="data:image/jpeg;base64,([^"]+)"', page)
    assert data
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(data[1]), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (32, 40, 3)


@pytest.mark.parametrize(
    "wrong", [{"when": "never"}, {"table": "xml"}, {"worst": -1}, {"bootstrap": -1}, {"format": "cityscape"}]
)
def test_wrong_arguments_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        EvaluationReport(**wrong)
