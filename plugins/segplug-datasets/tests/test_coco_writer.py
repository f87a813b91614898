"""The objects of every format of annotations, written as COCO's JSON and read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from segkernel.errors import DataError, UsageError
from segkernel.sample import Sample
from segplug_datasets.annotations.coco import CocoInstanceDataset
from segplug_datasets.annotations.coco_keypoints import CocoKeypointDataset
from segplug_datasets.annotations.coco_panoptic import CocoPanopticDataset
from segplug_datasets.annotations.coco_writer import write_coco
from segplug_datasets.annotations.cvat import CvatDataset
from segplug_datasets.annotations.label_studio import LabelStudioDataset
from segplug_datasets.annotations.labelme import LabelmeDataset
from segplug_datasets.annotations.numbered import NumberedMaskDataset, PennFudanDataset
from segplug_datasets.annotations.yolo import YoloSegDataset
from segplug_datasets.commands.coco import command

SETS: list[Any] = [
    *(CocoInstanceDataset, CocoKeypointDataset, CvatDataset, LabelStudioDataset, LabelmeDataset),
    *(NumberedMaskDataset, PennFudanDataset, YoloSegDataset, CocoPanopticDataset),
]


@pytest.mark.parametrize("instances", ["polygons", "masks"])
@pytest.mark.parametrize("cls", SETS)
def test_objects_of_every_format_survive(cls: Any, instances: str, tmp_path: Path) -> None:
    arguments = cls.conformance(tmp_path)[0] | {"instances": instances}
    if cls is not CocoPanopticDataset:
        arguments["background"] = None
    if cls is CocoKeypointDataset:
        arguments |= {"crowds": True, "weights": None}
    dataset = cls(**arguments)
    written = write_coco(dataset, tmp_path / "out.json")
    options: Any = {"instances": "masks", "background": None, "crowd": "ignored"}
    read: Any = CocoInstanceDataset(tmp_path / "out.json", written["folder"], **options)
    assert read.classes == dataset.classes
    if cls is LabelmeDataset and instances == "polygons":
        assert dataset[0]["instances"].polygons()[0][0].tolist() == [[1, 1], [9, 1], [9, 8]]
    assert written["objects"] == sum(len(dataset[index]["boxes"].array) for index in range(len(dataset))) > 0
    for index in range(len(dataset)):
        before, after = dataset[index], read[index]
        assert before.meta["path"] == after.meta["path"]
        for name in ("boxes", "area", "crowd", "classes", *(["keypoints"] if "keypoints" in after else [])):
            np.testing.assert_allclose(before[name].array, after[name].array, atol=1e-3)
        assert np.array_equal(before["instances"].masks(before.size) > 0, after["instances"].array > 0)


def test_ids_are_those_of_the_file(tmp_path: Path) -> None:
    (arguments,) = CocoInstanceDataset.conformance(tmp_path)
    dataset = CocoInstanceDataset(**arguments, instances="polygons")
    write_coco(dataset, tmp_path / "out.json", tmp_path)
    document = json.loads((tmp_path / "out.json").read_text())
    assert [(entry["id"], entry["file_name"]) for entry in document["images"]] == [
        (7, "images/0.png"), (8, "images/1.png")
    ]  # fmt: skip
    assert [category["id"] for category in document["categories"]] == [3]
    assert [isinstance(one["segmentation"], dict) for one in document["annotations"]] == [False, True, False, False]


class Bare:
    classes = ("a",)
    palette = ((0, 0, 0),)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        return Sample({}, {"path": "x.png"}, np.zeros((2, 2, 3), np.uint8))


def test_sets_without_objects_and_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="instances: polygons"):
        write_coco(Bare(), tmp_path / "out.json")
    dataset = CocoInstanceDataset(**CocoInstanceDataset.conformance(tmp_path)[0], instances="boxes")
    with pytest.raises(DataError, match="2 images are not in this folder"):
        write_coco(dataset, tmp_path / "out.json", tmp_path / "elsewhere")
    with pytest.raises(DataError, match="cannot be written"):
        write_coco(dataset, tmp_path / "missing/out.json")
    assert not (tmp_path / "out.json").exists()


def test_the_command_reads_objects_by_itself(tmp_path: Path) -> None:
    arguments = LabelmeDataset.conformance(tmp_path)[0]
    config = tmp_path / "my.yaml"
    config.write_text(yaml.safe_dump({"data": {"train": {"type": "LabelmeDataset", **arguments}}}))
    result = CliRunner().invoke(command, [str(config), str(tmp_path / "out.json")], catch_exceptions=False)
    assert "wrote 2 objects of 2 images" in result.output
    read = CocoInstanceDataset(tmp_path / "out.json", tmp_path)
    assert read.classes == ("background", "cat", "dog")
    with pytest.raises(UsageError, match=r"no set data\.val; .*train"):
        CliRunner().invoke(command, [str(config), "x.json", "--split", "val"], catch_exceptions=False)
