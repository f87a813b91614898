"""Meanings of label values: a background class, binary labels, and any number of classes per pixel."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkernel.errors import DataError, UsageError
from segkernel.sample import MultiLabelMap, collate
from segplug_datasets import image
from segplug_datasets.concat import MappedDataset
from segplug_datasets.doctor.counts import count_masks
from segplug_datasets.doctor.inspect import inspect
from segplug_datasets.doctor.parts import parts_of_config
from segplug_datasets.doctor.values import check_values
from segplug_datasets.files import FolderDataset
from segplug_datasets.geometry import Crop, Flip, Pad, Resize
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.mapping import choose_classes
from segplug_datasets.metrics.iou import IoUMetric
from segplug_datasets.packed import PackedDataset, pack
from segplug_datasets.transforms.class_crop import ClassAwareCrop
from segplug_datasets.transforms.color import RandomCutOut
from segplug_datasets.transforms.mix import MixUp
from segplug_datasets.transforms.place import RandomCrop, RandomFlip
from segplug_datasets.transforms.special import GenerateEdge


def put(root: Path, **masks: Any) -> None:
    """Write one image, and masks of it."""
    image.write(root / "images" / "a.png", np.full((2, 3, 3), 90, np.uint8))
    for folder, values in masks.items():
        values = np.array(values)
        (image.write if values.ndim == 3 else image.write_mask)(root / folder / "a.png", values.astype(np.uint8))


def folder(root: Path, **arguments: Any) -> FolderDataset:
    return FolderDataset("images", data_root=root, **arguments)


def several(root: Path, **arguments: Any) -> FolderDataset:
    put(root, crack=[[0, 1, 1], [0, 255, 0]], rust=[[1, 1, 0], [0, 0, 0]])
    return folder(root, **{"masks": {"crack": "crack", "rust": "rust"}, "task": "multilabel", **arguments})


def test_background_takes_unlisted_values(tmp_path: Path) -> None:
    put(tmp_path, masks=[[0, 1, 7], [200, 255, 2]])
    labels = folder(tmp_path, masks="masks", classes=["other", "car", "bus"], background="other")[0]["seg"].array
    assert labels.tolist() == [[0, 1, 0], [0, 255, 2]]
    with pytest.raises(DataError, match=r"7, 200 are outside the 3 classes.*'background'"):
        folder(tmp_path, masks="masks", classes=["other", "car", "bus"])[0]


def test_background_with_sparse_values_and_with_sixteen_bits() -> None:
    spec = LabelSpec(("rest", "car"), values={26: 1, 3: 255}, background="rest")
    assert spec.encode(np.array([[26, 3, 9, 60000, 255]], np.uint16)).tolist() == [[1, 255, 0, 0, 255]]


def test_background_of_colour_masks(tmp_path: Path) -> None:
    put(tmp_path, masks=[[[9, 9, 9], [255, 0, 0], [1, 2, 3]]] * 2)
    arguments: dict[str, Any] = {"classes": ["rest", "car"], "palette": [(0, 0, 0), (255, 0, 0)]}
    labels = folder(tmp_path, masks="masks", background="rest", ignore_colors=[(9, 9, 9)], **arguments)[0]["seg"]
    assert labels.array.tolist() == [[255, 1, 0]] * 2


def test_background_goes_along_when_classes_are_renamed_or_merged() -> None:
    spec = LabelSpec(("rest", "car", "bus"), background="rest")
    assert choose_classes(spec, {"classes": {"none": "rest", "car": "car", "bus": "bus"}}).background == "none"
    merged = choose_classes(spec, {"classes": {"vehicle": ["car", "bus"], "none": "rest"}})
    assert merged.encode(np.array([[0, 1, 2, 99, 255]])).tolist() == [[1, 0, 0, 1, 255]]
    chosen = choose_classes(LabelSpec(("rest", "car")), {"background": "rest"})
    assert chosen.encode(np.array([[0, 1, 99]])).tolist() == [[0, 1, 0]]
    with pytest.raises(UsageError, match="leaves out 'rest', the background"):
        choose_classes(spec, {"classes": ["car", "bus"]})


def test_contradictory_specifications() -> None:
    with pytest.raises(UsageError, match="'background' must be one of the classes, 'sky' is not"):
        LabelSpec(("road", "car"), background="sky")
    with pytest.raises(UsageError, match="task binary needs 2 classes, not 3"):
        LabelSpec(("a", "b", "c"), task="binary")


def test_binary_after_merging(tmp_path: Path) -> None:
    put(tmp_path, masks=[[0, 1, 2], [0, 0, 2]])
    arguments: dict[str, Any] = {"masks": "masks", "classes": ["a", "b", "c"], "task": "binary"}
    dataset = folder(tmp_path, metainfo={"classes": {"a": "a", "other": ["b", "c"]}}, **arguments)
    assert dataset[0]["seg"].array.tolist() == [[0, 1, 1], [0, 0, 1]]
    assert dataset.labels.task == "binary"
    with pytest.raises(UsageError, match="needs 2 classes, not 3"):
        folder(tmp_path, **arguments)


def test_a_folder_of_masks_for_each_class(tmp_path: Path) -> None:
    dataset = several(tmp_path)
    assert (dataset.classes, dataset.labels.task) == (("crack", "rust"), "multilabel")
    field = dataset[0]["seg"]
    assert isinstance(field, MultiLabelMap)
    assert field.array.dtype == np.uint8
    assert np.moveaxis(field.array, 2, 0).tolist() == [[[0, 1, 1], [0, 255, 0]], [[1, 1, 0], [0, 0, 0]]]
    assert np.array_equal(pickle.loads(pickle.dumps(dataset))[0]["seg"].array, field.array)


def test_the_order_is_that_of_the_classes_and_values_may_be_black_and_white(tmp_path: Path) -> None:
    put(tmp_path, crack=[[0, 255, 0]] * 2, rust=[[255, 255, 0]] * 2)
    masks = {"crack": "crack", "rust": "rust"}
    arguments: dict[str, Any] = {"classes": ["rust", "crack"], "values": {0: 0, 255: 1}, "task": "multilabel"}
    array = folder(tmp_path, masks=masks, **arguments)[0]["seg"].array
    assert array[0].tolist() == [[1, 0], [1, 1], [0, 0]]


def test_a_bit_for_each_class(tmp_path: Path) -> None:
    put(tmp_path, masks=[[0, 1, 2], [3, 255, 0]])
    arguments: dict[str, Any] = {"masks": "masks", "classes": ["crack", "rust"], "task": "multilabel"}
    array = folder(tmp_path, **arguments)[0]["seg"].array
    assert array.reshape(-1, 2).tolist() == [[0, 0], [1, 0], [0, 1], [1, 1], [255, 255], [0, 0]]
    put(tmp_path, masks=[[0, 1, 2], [4, 5, 0]])
    with pytest.raises(DataError, match=r"values 4, 5 have bits beyond those of the 2 classes \(0 to 3\)"):
        folder(tmp_path, **arguments)[0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"offset": 1}, "offset: not supported for task multilabel"),
        ({"background": "crack"}, "background: not supported for task multilabel"),
        ({"metainfo": {"classes": ["rust"]}}, "metainfo: not supported for task multilabel"),
        ({"classes": ["crack", "hole"]}, "'masks' has folders of crack, rust; the classes are crack, hole"),
        ({"masks": "rust", "values": {0: 0, 255: 1}}, "values: not for masks with a bit for each class"),
        ({"masks": "rust", "classes": [f"c{i}" for i in range(17)]}, "17 classes exceed the 16 bits"),
        ({"masks": {"crack": {"path": "crack"}}}, "a folder for each class"),
    ],
)
def test_contradictory_multilabel_arguments(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        several(tmp_path, **wrong)


def test_a_missing_mask_and_a_strange_value_are_named(tmp_path: Path) -> None:
    put(tmp_path, crack=[[0, 9, 0]] * 2, rust=[[0, 1, 0]] * 2)
    dataset = folder(tmp_path, masks={"crack": "crack", "rust": "rust"}, task="multilabel")
    with pytest.raises(DataError, match=r"(?s)crack.*a\.png"):
        dataset[0]
    (tmp_path / "rust" / "a.png").rename(tmp_path / "rust" / "b.png")
    with pytest.raises(DataError, match=r"without a file NAME\.png for 'rust'"):
        folder(tmp_path, masks={"crack": "crack", "rust": "rust"}, task="multilabel")


def test_maps_move_with_the_image_and_are_padded_with_unknown(tmp_path: Path) -> None:
    dataset = several(tmp_path)
    sample = dataset[0].apply(Flip()).apply(Pad(bottom=1)).apply(Crop(0, 1, 3, 2)).apply(Resize((6, 4)))
    expected = np.pad(dataset[0]["seg"].array[:, ::-1], ((0, 1), (0, 0), (0, 0)), constant_values=255)[:, 1:]
    assert np.array_equal(sample["seg"].array, expected.repeat(2, 0).repeat(2, 1))
    batch = collate([dataset[0], dataset[0].apply(Pad(right=2))])
    assert batch.targets["seg"].shape == (2, 2, 2, 5)
    assert (batch.targets["seg"][0, :, :, 3:] == 255).all()
    cropped = RandomCrop((2, 2), cat_max_ratio=0.5)(dataset[0], np.random.default_rng(0))
    assert cropped["seg"].array.shape == (2, 2, 2)


def test_transforms_keep_their_kind_or_refuse(tmp_path: Path) -> None:
    sample = several(tmp_path)[0]
    kept = sample["seg"].array
    swapped = RandomFlip(1.0, swap_seg_labels=[(0, 1)])(sample, np.random.default_rng(0))["seg"]
    assert np.array_equal(swapped.array, kept[:, ::-1, ::-1])
    cut = RandomCutOut(1.0, 1, cutout_shape=(1, 1), seg_fill_in=255)(sample, np.random.default_rng(0))
    assert isinstance(cut["seg"], MultiLabelMap)
    assert (cut["seg"].array == 255).all(2).any()
    rng = np.random.default_rng(0)
    for transform, more in ((GenerateEdge(), ()), (ClassAwareCrop(2), ()), (MixUp(prob=1.0), (several(tmp_path)[0],))):
        with pytest.raises(DataError, match=f"{type(transform).__name__} needs one class for each pixel"):
            transform(several(tmp_path)[0], rng, *more)


def test_the_doctor_knows_the_background_and_leaves_several_labels_alone(tmp_path: Path) -> None:
    several(tmp_path)
    put(tmp_path, masks=[[0, 1, 7], [200, 255, 1]])
    common = {"type": "FolderDataset", "data_root": str(tmp_path), "images": "images"}
    plain: dict[str, Any] = {**common, "masks": "masks", "classes": ["rest", "car"]}
    codes = []
    for spec in ({**plain, "background": "rest"}, plain):
        parts = parts_of_config({"data": {"train": spec}})
        codes.append({finding.kind for counts in count_masks(inspect(parts, 0)) for finding in check_values(counts)})
    assert codes[0] == set()
    assert codes[1]
    data = {"task": "multilabel", "train": {**common, "masks": {"crack": "crack"}}}
    assert parts_of_config({"data": data})[0].problem.startswith("labels of task multilabel are not checked")


def test_a_pack_keeps_them(tmp_path: Path) -> None:
    dataset = several(tmp_path)
    pack(dataset, tmp_path / "packed")
    packed = PackedDataset(tmp_path / "packed")
    assert packed.labels == dataset.labels
    assert isinstance(packed[0]["seg"], MultiLabelMap)
    assert np.array_equal(packed[0]["seg"].array, dataset[0]["seg"].array)


def test_other_label_spaces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="task multilabel cannot be mapped"):
        MappedDataset(several(tmp_path), ["rust"])


PREDICTED = np.array([[[1, 1], [0, 0]], [[0, 0], [0, 1]], [[0, 0], [0, 0]]], np.uint8)
TRUE = np.array([[[1, 0], [1, 255]], [[0, 0], [0, 1]], [[0, 0], [0, 0]]], np.uint8)


def test_each_class_is_evaluated_against_the_rest() -> None:
    metric = IoUMetric(["mIoU", "mDice"], classes=["a", "b", "c"], task="multilabel")
    metric.update(PREDICTED, TRUE)
    metrics = metric.compute()
    assert metrics["IoU.a"] == pytest.approx(100 / 3)  # one right, one wrong, one missed; one unknown
    assert (metrics["Dice.a"], metrics["Acc.a"]) == (pytest.approx(50), pytest.approx(50))
    assert (metrics["IoU.b"], metrics["Dice.b"]) == (100, 100)
    assert np.isnan(metrics["IoU.c"])  # neither there nor predicted
    assert metrics["mIoU"] == pytest.approx((100 / 3 + 100) / 2)
    assert metrics["aAcc"] == pytest.approx(100 * 9 / 11)
    assert "fwIoU" not in metrics
    assert "aAcc 81.82" in metric.table()


def test_parts_merge_and_the_data_set_says_the_task() -> None:
    whole, first, second = (IoUMetric(classes=["a", "b", "c"], bootstrap=5) for _ in range(3))
    for metric in (whole, first, second):
        metric.labels = LabelSpec(("a", "b", "c"), task="multilabel")
    for part in (first, second):
        whole.update(PREDICTED, TRUE)
        part.update(PREDICTED, TRUE)
    first.merge(second)
    assert first.compute() == pytest.approx(whole.compute(), nan_ok=True)
    assert {"mIoU.low", "IoU.a.high"} <= set(first.compute())


def test_maps_that_do_not_fit_are_refused() -> None:
    metric = IoUMetric(classes=["a", "b"], task="multilabel")
    with pytest.raises(DataError, match="maps of 3 classes, but 2 are named"):
        metric.update(PREDICTED, TRUE)
    with pytest.raises(DataError, match=r"multilabel masks must be \(classes, H, W\)"):
        metric.update(PREDICTED[0], TRUE[0])


def test_predictions_are_written_in_a_folder_for_each_class_and_read_back(tmp_path: Path) -> None:
    labels = LabelSpec(("a", "b", "c/d"), task="multilabel")
    metric = IoUMetric(classes=labels.classes, output_dir=tmp_path / "out", format_only=True)
    metric.labels = labels

    class Named(dict[str, Any]):
        fields, meta = ("seg",), {"name": "x/one"}

    metric.update(Named(seg=PREDICTED), None)
    image.write(tmp_path / "images" / "x" / "one.png", np.zeros((2, 2, 3), np.uint8))
    masks = {name: f"out/{name.replace('/', '_')}" for name in labels.classes}
    again = folder(tmp_path, masks=masks, task="multilabel")[0]["seg"].array
    assert np.array_equal(np.moveaxis(again, 2, 0), PREDICTED)
