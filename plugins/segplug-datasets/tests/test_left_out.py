"""Objects and files that readers skip are counted, logged once, and listed by ``data check`` with the reason."""

from __future__ import annotations

import json
import logging
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkernel.errors import DataError
from segkernel.labels import IGNORE
from segplug_datasets import image, left_out
from segplug_datasets.annotations.coco import CocoInstanceDataset
from segplug_datasets.annotations.cvat import CvatDataset
from segplug_datasets.annotations.label_studio import LabelStudioDataset
from segplug_datasets.annotations.yolo import YoloSegDataset
from segplug_datasets.doctor import Finding, check, inspect, parts_of_config
from segplug_datasets.volumes import VolumeDataset


@pytest.fixture(autouse=True)
def said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    monkeypatch.setattr(left_out, "_logged", set())
    with caplog.at_level(logging.WARNING, "segkernel.data_files"):
        yield caplog


def findings(kind: str, **spec: Any) -> list[Finding]:
    report = check(inspect(parts_of_config({"data": {"train": spec}}), 0))
    return [finding for finding in report.findings if finding.kind == kind]


def values(dataset: Any, index: int = 0) -> list[int]:
    return np.unique(dataset[index]["seg"].array).tolist()


# ---------------------------------------------------------------- COCO


def coco(root: Path, *extra: dict[str, Any]) -> dict[str, str]:
    """Write an object for each mapping: four columns of an image of 8 x 10."""
    image.write(root / "a.png", np.zeros((8, 10, 3), np.uint8))
    runs = {"size": [8, 10], "counts": [16, 32, 32]}
    objects = [{"id": n, "image_id": 1, "category_id": 1, "segmentation": runs} | one for n, one in enumerate(extra)]
    document = {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "crack"}]}
    (root / "a.json").write_text(json.dumps({**document, "annotations": objects}))
    return {"type": "CocoInstanceDataset", "ann_file": "a.json", "data_root": str(root)}


def coco_instances(spec: dict[str, str], **options: Any) -> CocoInstanceDataset:
    return CocoInstanceDataset(**{key: value for key, value in spec.items() if key != "type"}, **options)


def test_crowds_are_ignored_with_a_warning(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    spec = coco(tmp_path, {"iscrowd": 1}, {"iscrowd": 0, "segmentation": [[0, 0, 2, 0, 2, 2]]})
    assert values(coco_instances(spec)) == [0, 1, IGNORE]
    assert values(coco_instances(spec)) == [0, 1, IGNORE]
    assert [line for line in said.messages if "1 of 2 objects are crowds (iscrowd)" in line] == said.messages[:1]
    (finding,) = findings("crowds", **spec)
    assert finding.severity == "warning"
    assert "crowd: class" in finding.why


@pytest.mark.parametrize("mark", [{"attributes": {"occluded": False}}, {}], ids=["of a tool", "all of them"])
def test_objects_that_tools_mark_as_crowds_keep_their_class(tmp_path: Path, mark: dict[str, Any]) -> None:
    """CVAT writes every brush mask so."""
    spec = coco(tmp_path, {"iscrowd": 1, **mark})
    assert values(coco_instances(spec)) == [0, 1]
    assert values(coco_instances(spec, crowd="ignored")) == [0, IGNORE]
    (finding,) = findings("crowds", **spec)
    assert "1 of 1 objects are marked as crowds" in finding.what


def test_no_warning_when_nothing_is_left_out(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    spec = coco(tmp_path, {"iscrowd": 0})
    assert values(coco_instances(spec)) == [0, 1]
    assert not said.messages
    assert not findings("crowds", **spec)


def test_iscrowd_as_the_text_0_is_not_a_crowd(tmp_path: Path) -> None:
    spec = coco(tmp_path, {"iscrowd": "0"})
    assert not [part for part in coco_instances(spec).left_out if part.kind == "crowds"]


def test_objects_without_pixels_are_reported(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    line, point = {"segmentation": [[0, 0, 5, 0]]}, {"segmentation": [[0.1, 0.1, 0.3, 0.1, 0.3, 0.3]]}
    spec = coco(tmp_path, {}, line, point)
    dataset = coco_instances(spec)
    assert dataset[0].meta["objects_without_pixels"] == 2
    assert values(dataset) == [0, 1]
    assert len(said.messages) == 1
    (finding,) = findings("objects-without-pixels", **spec)
    assert finding.what == "2 objects have no pixels"


def yolo(root: Path, *texts: str) -> YoloSegDataset:
    for name in ("a", "b"):
        image.write(root / f"images/train/{name}.png", np.zeros((8, 10, 3), np.uint8))
    (root / "labels/train").mkdir(parents=True)
    for name in texts:
        (root / f"labels/train/{name}.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
    (root / "data.yaml").write_text("train: images/train\nnames: [cat]\n")
    return YoloSegDataset(data_root=root)


def test_label_files_of_yolo_without_image_are_counted(tmp_path: Path) -> None:
    found = yolo(tmp_path, "a", "b", "c", "classes").left_out
    assert {part.kind: part.count for part in found} == {"labels-without-image": 1}


@pytest.mark.parametrize(("texts", "count"), [(["a"], 1), ([], 2)])
def test_images_without_annotation_are_counted(tmp_path: Path, texts: list[str], count: int) -> None:
    dataset = yolo(tmp_path, *texts)
    assert {part.kind: part.count for part in dataset.left_out} == {"unannotated-images": count}
    (finding,) = findings("unannotated-images", type="YoloSegDataset", data_root=str(tmp_path))
    assert finding.severity == ("note" if texts else "warning")


def test_label_files_in_another_unicode_form_match_their_image(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFC", "é")
    image.write(tmp_path / "images/train" / f"{name}.png", np.zeros((8, 10, 3), np.uint8))
    dataset = yolo(tmp_path, "a", "b", unicodedata.normalize("NFD", name))
    assert values(dataset, 2) == [0, 1]
    assert not dataset.left_out


# ---------------------------------------------------------------- CVAT and Label Studio


def test_shapes_of_cvat_without_pixels_are_counted(tmp_path: Path) -> None:
    image.write(tmp_path / "a.png", np.zeros((8, 10, 3), np.uint8))
    shapes = '<points label="eye" points="1,1"/><skeleton label="eye"/><polygon label="eye" points="0,0;3,0;3,3"/>'
    (tmp_path / "a.xml").write_text(f'<annotations><image name="a.png">{shapes}</image></annotations>')
    assert [part.count for part in CvatDataset("a.xml", data_root=tmp_path).left_out] == [2]
    (finding,) = findings("shapes-without-pixels", type="CvatDataset", ann_file="a.xml", data_root=str(tmp_path))
    assert "2 shapes are points, skeletons or cuboids" in finding.what


POLYGON = {"points": [[10, 10], [60, 10], [60, 80], [10, 80]]}
TRIANGLE = [[80, 70], [95, 70], [95, 95]]
BOX = {"x": 70, "y": 10, "width": 20, "height": 50, "rotation": 0}


def label_studio(root: Path, *results: dict[str, Any], **task: Any) -> LabelStudioDataset:
    image.write(root / "a.png", np.zeros((20, 40, 3), np.uint8))
    one = {"data": {"image": "a.png"}, "annotations": [{"result": list(results)}], **task}
    (root / "a.json").write_text(json.dumps([one]))
    return LabelStudioDataset("a.json", data_root=root)


def test_separate_label_results_name_shapes(tmp_path: Path) -> None:
    dataset = label_studio(
        tmp_path,
        {"id": "1", "type": "polygon", "value": POLYGON},
        {"id": "1", "type": "labels", "value": {**POLYGON, "labels": ["car"]}},
        {"id": "2", "type": "labels", "value": {**BOX, "labels": ["bus"]}},
        {"id": "2", "type": "rectangle", "value": BOX},
        {"id": "3", "type": "polygonlabels", "value": {"points": TRIANGLE, "polygonlabels": ["tree"]}},
    )
    assert dataset.classes == ("background", "bus", "car", "tree")
    counts = np.bincount(dataset[0]["seg"].array.ravel())
    assert counts[1] == 8 * 10
    assert counts[2] == 20 * 14
    assert counts[3] > 0
    assert not dataset.left_out


def test_objects_without_label_are_counted(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    dataset = label_studio(
        tmp_path,
        {"id": "1", "type": "polygon", "value": POLYGON},
        {"id": "2", "type": "rectanglelabels", "value": {**BOX, "rectanglelabels": ["bus", "van"]}},
        {"id": "3", "type": "keypointlabels", "value": {"x": 1, "y": 1, "keypointlabels": ["eye"]}},
    )
    assert {part.kind: part.count for part in dataset.left_out} == {
        "objects-without-label": 1,
        "further-labels": 1,
        "objects-of-other-kinds": 1,
    }
    assert len(said.messages) == 3
    spec = {"type": "LabelStudioDataset", "ann_file": "a.json", "data_root": str(tmp_path)}
    assert len(findings("objects-without-label", **spec)) == 1


def test_tasks_with_predictions_only_are_counted(tmp_path: Path) -> None:
    box = {"id": "2", "type": "rectanglelabels", "value": {**BOX, "rectanglelabels": ["bus"]}}
    with pytest.raises(DataError, match="no classes and no annotations"):
        label_studio(tmp_path, annotations=[{"result": [box], "was_cancelled": True}])
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    tasks = [
        {"data": {"image": "a.png"}, "annotations": [{"result": [box]}]},
        {"data": {"image": "b.png"}, "annotations": [], "predictions": [{"result": [box]}]},
    ]
    (tmp_path / "a.json").write_text(json.dumps(tasks))
    found = {part.kind: part.count for part in LabelStudioDataset("a.json", data_root=tmp_path).left_out}
    assert found == {"tasks-without-annotation": 1, "unannotated-images": 1}
    assert not LabelStudioDataset("a.json", data_root=tmp_path, unannotated="skipped").left_out[1:]


# ---------------------------------------------------------------- NIfTI


AFFINE = np.array([[-2.0, 0, 0, 10], [0, 3, 0, -20], [0, 0, 4, 5], [0, 0, 0, 1]])
LABELS = (np.random.default_rng(0).random((5, 6, 4)) > 0.5).astype(np.uint8)


def nifti(root: Path, labels: np.ndarray, affine: np.ndarray) -> VolumeDataset:
    nibabel = pytest.importorskip("nibabel")
    for name, array, where in (("images", np.zeros(LABELS.shape, np.float32), AFFINE), ("masks", labels, affine)):
        (root / name).mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, where), root / name / "a.nii.gz")
    return VolumeDataset("images", "masks", data_root=root, whole=True)


def test_labels_of_several_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels must have one number per voxel, these have 2"):
        nifti(tmp_path, np.stack([LABELS, LABELS], 3), AFFINE)[0]


def as_read(labels: np.ndarray) -> list[Any]:
    return np.ascontiguousarray(labels.transpose(1, 0, 2)).tolist()


def test_labels_of_the_same_affine_are_used_as_they_are(tmp_path: Path) -> None:
    assert nifti(tmp_path, LABELS, AFFINE + 1e-5)[0]["seg"].array.tolist() == as_read(LABELS)


def test_labels_with_another_axis_order_are_reoriented(tmp_path: Path) -> None:
    flipped = AFFINE.copy()
    flipped[:3, 0] *= -1
    flipped[:3, 3] += AFFINE[:3, 0] * (LABELS.shape[0] - 1)
    assert nifti(tmp_path, LABELS[::-1], flipped)[0]["seg"].array.tolist() == as_read(LABELS)
    swapped = AFFINE[:, [1, 0, 2, 3]]
    assert nifti(tmp_path, LABELS.transpose(1, 0, 2), swapped)[0]["seg"].array.tolist() == as_read(LABELS)


def test_labels_with_another_affine_are_refused(tmp_path: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += 1
    with pytest.raises(DataError, match=r"masks.a\.nii\.gz: its affine differs from that of its image .*a\.nii\.gz"):
        nifti(tmp_path, LABELS, moved)[0]


def test_labels_without_affine_cause_a_warning(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    assert nifti(tmp_path, LABELS, np.eye(4))[0]["seg"].array.tolist() == as_read(LABELS)
    assert "has no affine, but its image has: using it voxel by voxel" in said.text
