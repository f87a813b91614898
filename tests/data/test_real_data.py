"""Real data sets load with the classes that a user would choose, and pass the mask doctor with the expected findings.

The tests need the data in ``../shared/data`` and are skipped without it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from segkernel import build
from segkernel.config import load_config
from segkernel.interfaces.data import Dataset
from segkernel.labels import IGNORE

doctor = pytest.importorskip("segplug_datasets.doctor")

ROOT = Path(__file__).parents[3] / "shared" / "data"

pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="../shared/data does not exist")

VESSELS = ["background", "vessel"]


def folder(root: str, images: str, masks: str, classes: list[str], **more: Any) -> dict[str, Any]:
    place = {"type": "FolderDataset", "data_root": str(ROOT / root), "images": images, "masks": masks}
    return {**place, "classes": classes, **more}


def camvid() -> dict[str, Any]:
    return {s: {"type": "CamVid", "data_root": str(ROOT / "camvid"), "split": s} for s in ("train", "val", "test")}


def drive() -> dict[str, Any]:
    return {split: folder("drive", f"{split}/images", f"{split}/vessel", VESSELS) for split in ("train", "test")}


def chase() -> dict[str, Any]:
    return {"train": folder("chase_db1", "images", "vessel_1st", VESSELS)}


def isbi() -> dict[str, Any]:
    return {"train": folder("isbi2012", "train/images", "train/membrane", ["background", "membrane"])}


def cracks() -> dict[str, Any]:
    return {"train": folder("crackforest", "images", "crack", ["background", "crack", "other3", "other4"])}


def pedestrians() -> dict[str, Any]:
    values = {value: int(value > 0) for value in range(9)}
    return {"train": folder("penn_fudan", "images", "instance_masks", ["background", "pedestrian"], values=values)}


def cityscapes() -> dict[str, Any]:
    prefix = {"img_path": "gt_256x128", "seg_map_path": "gt_256x128"}
    return {"val": {"type": "CityscapesDataset", "data_root": str(ROOT / "cityscapes_sample"), "data_prefix": prefix}}


def coco_semantic() -> dict[str, Any]:
    names = yaml.safe_load((ROOT / "coco_sample/semantic_config.yaml").read_text())["classes"]
    values = {value: place for place, value in enumerate(names)}
    return {"val": folder("coco_sample", "images/val2017", "semantic/val2017", list(names.values()), values=values)}


def coco_panoptic() -> dict[str, Any]:
    files = {"ann_file": "panoptic/panoptic_val2017.json", "images": "images/val2017", "segments": "panoptic/val2017"}
    return {"val": {"type": "CocoPanopticDataset", "data_root": str(ROOT / "coco_sample"), **files}}


def coco_polygons() -> dict[str, Any]:
    place = {"data_root": str(ROOT / "coco_sample"), "ann_file": "instance_config.yaml", "split": "val"}
    return {"val": {"type": "YoloSegDataset", **place, "labels": "instance_yoloseg/val2017"}}


def coco_people() -> dict[str, Any]:
    place = {"data_root": str(ROOT / "coco_keypoints_tiny"), "ann_file": "test_coco.json"}
    return {"val": {"type": "CocoKeypointDataset", **place}}


KNOWN: dict[Callable[[], dict[str, Any]], tuple[dict[str, int], set[str]]] = {
    camvid: ({"train": 367, "val": 101, "test": 233}, {"near-duplicates"}),
    drive: ({"train": 20, "test": 20}, set()),
    chase: ({"train": 28}, set()),
    isbi: ({"train": 30}, set()),
    cracks: ({"train": 118}, set()),
    pedestrians: ({"train": 170}, set()),
    cityscapes: ({"val": 1}, {"absent-classes"}),
    coco_semantic: ({"val": 100}, {"absent-classes", "grey-and-colour"}),
    coco_panoptic: ({"val": 100}, {"absent-classes", "grey-and-colour"}),
    coco_polygons: ({"val": 100}, {"absent-classes", "grey-and-colour"}),
    coco_people: ({"val": 4}, {"grey-and-colour"}),
}
"""Number of samples of each set, and the kinds of the doctor's findings, none of which is an error."""


def data(sets: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the config of a data set; skip the test if its folder is missing."""
    specs = sets()
    place = Path(next(iter(specs.values()))["data_root"])
    if not place.is_dir():
        pytest.skip(f"../shared/data/{place.name} does not exist")
    return {"data": specs}


def diagnose(config: Any) -> Any:
    return doctor.check(doctor.inspect(doctor.parts_of_config(config)))


@pytest.mark.parametrize("sets", KNOWN, ids=lambda sets: sets.__name__)
def test_it_loads_and_passes_the_doctor(sets: Callable[[], dict[str, Any]]) -> None:
    config = data(sets)
    counts, kinds = KNOWN[sets]
    for name, spec in config["data"].items():
        dataset = build("datasets", spec)
        assert isinstance(dataset, Dataset)
        sample = dataset[len(dataset) - 1]
        assert sample["seg"].array.shape == sample.size
        assert set(np.unique(sample["seg"].array)) <= {*range(len(dataset.classes)), IGNORE}, name
    report = diagnose(config)
    assert not report.failed, report.text()
    assert {row.set: row.sound for row in report.rows} == counts
    assert {finding.kind for finding in report.findings} == kinds, report.text()


def fixed(config: dict[str, Any], report: Any, kind: str, folder: Path) -> Any:
    (finding,) = [finding for finding in report.findings if finding.kind == kind]
    base, over = folder / "base.yaml", folder / "over.yaml"
    base.write_text(yaml.safe_dump(config))
    over.write_text(f"_base_: {base}\n{finding.fix}\n")
    return diagnose(load_config(over))


def test_instance_ids_of_pedestrians_are_recognised(tmp_path: Path) -> None:
    config = data(pedestrians)
    del config["data"]["train"]["values"]
    assert fixed(config, diagnose(config), "instance-masks", tmp_path).findings == []


def test_label_ids_of_cityscapes_are_recognised(tmp_path: Path) -> None:
    config = data(cityscapes)
    config["data"]["val"]["seg_map_suffix"] = "_gtFine_labelIds.png"
    report = diagnose(config)
    right = diagnose(data(cityscapes))
    again = fixed(config, report, "cityscapes-label-ids", tmp_path)
    assert again.rows == right.rows
    assert {finding.kind for finding in again.findings} == {"absent-classes"}


def test_black_and_white_vessel_masks_are_recognised(tmp_path: Path) -> None:
    from segplug_datasets import image

    spec = data(drive)["data"]["train"]
    for path in sorted((ROOT / "drive/train/vessel").iterdir())[:5]:
        image.write_mask(tmp_path / "masks" / path.name, image.read_mask(path) * 255)
    names = tmp_path / "names.txt"
    names.write_text("".join(f"{path.stem}\n" for path in (tmp_path / "masks").iterdir()))
    config = {"data": {"train": {**spec, "masks": str(tmp_path / "masks"), "split": str(names)}}}
    assert fixed(config, diagnose(config), "black-and-white-masks", tmp_path).findings == []


def test_pixel_statistics_of_camvid() -> None:
    from segplug_datasets.doctor.stats import measure

    config = {"data": {"train": data(camvid)["data"]["train"]}}
    (statistics,) = measure(doctor.inspect(doctor.parts_of_config(config)))
    assert statistics.images == 367
    assert statistics.pixels.total() == 367 * 360 * 480
    assert statistics.pixels[0] == 10_682_767
    assert statistics.images_with[7] == 173
    assert [round(value) for value in statistics.mean] == [105, 108, 110]
