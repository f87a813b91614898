"""Volumes: file contents, slices and whole volumes, and the Medical Segmentation Decathlon."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkernel import build
from segkernel.errors import DataError, UsageError
from segplug_datasets.decathlon import DecathlonDataset
from segplug_datasets.optional_deps import ExtraMissingError
from segplug_datasets.volumes import VolumeDataset, Volumes, read_volume

SCAN = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)  # channels, Z, Y, X
LABELS = (np.arange(60).reshape(3, 4, 5) % 2).astype(np.uint8)


def save(root: Path, name: str = "a") -> Path:
    for folder, array in (("images", SCAN), ("masks", LABELS)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        np.save(root / folder / f"{name}.npy", array)
    return root


def volumes(root: Path, **arguments: Any) -> Volumes:
    return VolumeDataset("images", "masks", data_root=root, **arguments)


# ---------------------------------------------------------------- slices


def test_slices_along_each_axis(tmp_path: Path) -> None:
    save(tmp_path)
    save(tmp_path, "b")
    data = volumes(tmp_path)
    assert len(data) == 6
    sample = data[4]
    assert sample.meta["name"] == "b/0001"
    assert np.array_equal(sample.image, SCAN[:, 1].transpose(1, 2, 0))
    assert (sample.image.dtype, sample.image.flags["C_CONTIGUOUS"]) == (np.float32, True)
    assert np.array_equal(sample["seg"].array, LABELS[1])
    along_y, along_x = volumes(tmp_path, axis="y"), volumes(tmp_path, axis="x")
    assert (len(along_y), len(along_x)) == (8, 10)
    assert np.array_equal(along_y[3].image, SCAN[:, :, 3].transpose(1, 2, 0))
    assert np.array_equal(along_x[-1].image, SCAN[..., 4].transpose(1, 2, 0))
    assert np.array_equal(along_x[-1]["seg"].array, LABELS[..., 4])
    with pytest.raises(IndexError):
        data[6]


def test_window_channels_and_neighbours(tmp_path: Path) -> None:
    data = volumes(save(tmp_path), window=(60, 110), channels=[1], context=1)
    sample = data[0]
    assert (sample.image.shape, sample.image.dtype) == ((4, 5, 3), np.uint8)
    assert sample.image[0, 0].tolist() == [0, 0, 102]  # 60, 60 (the first again), 80: 20 of 50
    assert sample.image[3, 4].tolist() == [97, 97, 199]  # 79, 79, 99
    assert volumes(tmp_path, window=(-10, -5))[0].image.min() == 255


def test_whole_volumes_are_as_the_transforms_take_them(tmp_path: Path) -> None:
    data = volumes(save(tmp_path), whole=True)
    assert len(data) == 1
    sample = data[0]
    assert (sample.image.shape, sample["seg"].array.shape, sample.meta["slices"]) == ((4, 5, 6), (4, 5, 3), 3)
    assert np.array_equal(sample.image.reshape(4, 5, 3, 2), SCAN.transpose(2, 3, 1, 0))
    assert np.array_equal(sample["seg"].array, LABELS.transpose(1, 2, 0))
    crop = build("transforms", {"type": "BioMedical3DRandomCrop", "crop_shape": [2, 3, 3]})
    assert crop(sample, np.random.default_rng(0))["seg"].array.shape == (3, 3, 2)


def test_a_copy_for_a_worker_is_small(tmp_path: Path) -> None:
    data = volumes(save(tmp_path))
    first = data[0].image
    copy = pickle.loads(pickle.dumps(data))
    assert copy._held is None
    assert np.array_equal(copy[0].image, first)


def test_volumes_without_labels_and_with_labels_inside(tmp_path: Path) -> None:
    save(tmp_path)
    assert list(VolumeDataset("images", data_root=tmp_path)[0]) == []
    both = np.concatenate([SCAN, LABELS[None]])
    (tmp_path / "both").mkdir()
    np.save(tmp_path / "both/a.npy", both)
    data = VolumeDataset("both", data_root=tmp_path, with_seg=True)
    assert (data[0].image.shape[2], np.array_equal(data[2]["seg"].array, LABELS[2])) == (2, True)
    np.savez(tmp_path / "both/a.npz", image=SCAN[0], label=LABELS)
    data = VolumeDataset("both", data_root=tmp_path, with_seg=True, suffix=".npz")
    assert np.array_equal(data[1].image[..., 0], SCAN[0, 1])
    assert np.array_equal(data[1]["seg"].array, LABELS[1])


def test_contents_of_label_files(tmp_path: Path) -> None:
    save(tmp_path)
    np.save(tmp_path / "masks/a.npy", LABELS.astype(np.float64) + 1)
    assert np.array_equal(volumes(tmp_path, offset=1)[0]["seg"].array, LABELS[0])
    with pytest.raises(DataError, match=r"a.npy: label values 2 are outside the 2 classes"):
        volumes(tmp_path)[0]
    np.save(tmp_path / "masks/a.npy", LABELS + 0.5)
    with pytest.raises(DataError, match="labels must be whole numbers"):
        volumes(tmp_path)[0]
    np.save(tmp_path / "masks/a.npy", LABELS[:2])
    with pytest.raises(DataError, match=r"labels of \(2, 4, 5\) for a volume of \(3, 4, 5\)"):
        volumes(tmp_path)[0]


def test_wrong_arguments(tmp_path: Path) -> None:
    save(tmp_path)
    for arguments, message in (
        ({"axis": "w"}, "axis must be z, y or x"),
        ({"window": [5, 5]}, "window must be the lowest and the highest"),
        ({"window": [5]}, "window must be the lowest and the highest"),
        ({"context": -1}, "context must be 0 or more slices"),
        ({"with_seg": True}, "give 'masks', or 'with_seg'"),
    ):
        with pytest.raises(UsageError, match=message):
            volumes(tmp_path, **arguments)
    with pytest.raises(DataError, match="has 2 channels, but 'channels' is"):
        volumes(tmp_path, channels=[2])[0]
    (tmp_path / "masks/a.npy").unlink()
    np.save(tmp_path / "masks/b.npy", LABELS)
    with pytest.raises(DataError, match=r"1 of 1 names without labels in .*masks: a"):
        volumes(tmp_path)
    np.save(tmp_path / "images/a.npy", LABELS)
    with pytest.raises(DataError, match="has one channel, which cannot be image and labels"):
        VolumeDataset("images", data_root=tmp_path, with_seg=True)[0]


# ---------------------------------------------------------------- files


def test_files_of_numpy_and_pickle(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", SCAN[0])
    np.savez_compressed(tmp_path / "a.npz", only=SCAN)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"image": SCAN, "label": LABELS}))
    (tmp_path / "list.pkl").write_bytes(pickle.dumps(LABELS.tolist()))
    assert np.array_equal(read_volume(tmp_path / "a.npy"), SCAN[:1])
    assert np.array_equal(read_volume(tmp_path / "a.npz"), SCAN)
    assert np.array_equal(read_volume(tmp_path / "a.pkl", "label"), LABELS[None])
    assert np.array_equal(read_volume(tmp_path / "list.pkl"), LABELS[None])
    with pytest.raises(DataError, match="contains 'image', 'label': choose one"):
        read_volume(tmp_path / "a.pkl", "scan")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, (7,)


def test_files_without_volumes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_volume(tmp_path / "gone.npy")
    for name, content in (("cut.npy", b"\x93NUMPY\x01"), ("cut.npz", b"PK\x03\x04"), ("cut.pkl", b"\x80\x04]")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: not a volume, or a damaged one"):
            read_volume(tmp_path / name)
    np.save(tmp_path / "flat.npy", LABELS[0])
    with pytest.raises(DataError, match=r"3 axes, or 4 with channels: \(4, 5\)"):
        read_volume(tmp_path / "flat.npy")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError, match=r"contains sys.exit: only arrays are read"):
        read_volume(tmp_path / "evil.pkl")


def test_nifti(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    scan = nibabel.Nifti1Image(SCAN.T.astype(np.int16), np.eye(4))
    nibabel.save(scan, tmp_path / "images/a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(LABELS.T, np.eye(4)), tmp_path / "masks/a.nii.gz")
    data = volumes(tmp_path)
    assert (len(data), data[0].meta["name"]) == (3, "a/0000")
    assert np.array_equal(data[2].image, SCAN[:, 2].transpose(1, 2, 0))
    assert np.array_equal(data[2]["seg"].array, LABELS[2])
    scan.header.set_slope_inter(2, -100)
    nibabel.save(scan, tmp_path / "images/a.nii")
    (tmp_path / "images/b.nii").write_bytes(b"x" * 400)
    with pytest.raises(DataError, match=r"b.nii: not a volume, or a damaged one"):
        read_volume(tmp_path / "images/b.nii")


def test_nifti_without_nibabel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ExtraMissingError, match=r"reading NIfTI files needs nibabel.*\n.*segplug-datasets\[medical\]"):
        read_volume(tmp_path / "a.nii.gz")


# ---------------------------------------------------------------- decathlon

TASK = {
    "name": "BRATS",
    "tensorImageSize": "4D",
    "modality": {"0": "FLAIR", "1": "T1w"},
    "labels": {"0": "background", "1": "edema", "2": "tumour"},
    "training": [{"image": "./imagesTr/BRATS_306.nii.gz", "label": "./labelsTr/BRATS_306.nii.gz"}],
    "test": ["./imagesTs/BRATS_557.nii.gz"],
}


@pytest.fixture
def task(tmp_path: Path) -> Path:
    (tmp_path / "dataset.json").write_text(json.dumps(TASK))
    for name in ("imagesTr/BRATS_306", "labelsTr/BRATS_306", "imagesTs/BRATS_557"):
        path = tmp_path / f"{name}.nii.gz"
        path.parent.mkdir()
        path.touch()
    return tmp_path


def test_a_task_of_the_decathlon(task: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    for name in ("imagesTr/BRATS_306", "imagesTs/BRATS_557"):
        nibabel.save(nibabel.Nifti1Image(SCAN.T, np.eye(4)), task / f"{name}.nii.gz")
    nibabel.save(nibabel.Nifti1Image(LABELS.T * 2.0, np.eye(4)), task / "labelsTr/BRATS_306.nii.gz")
    data = DecathlonDataset(task)
    assert (data.classes, len(data), data[0].image.shape) == (("background", "edema", "tumour"), 3, (4, 5, 2))
    assert np.array_equal(data[1]["seg"].array, LABELS[1] * 2)
    assert data[1].meta["name"] == "BRATS_306/0001"
    one = DecathlonDataset(task, modality=["T1W"], metainfo={"classes": ["tumour"]})
    assert np.array_equal(one[0].image[..., 0], SCAN[1, 0])
    assert np.array_equal(one[0]["seg"].array, np.where(LABELS[0], 0, 255))
    assert "seg" not in DecathlonDataset(task, test_mode=True)[0]
    assert DecathlonDataset(task, whole=True)[0].image.shape == (4, 5, 6)


def test_descriptions_that_cannot_be_used(task: Path) -> None:
    with pytest.raises(DataError, match="no modality is called 'T2': there are FLAIR, T1w"):
        DecathlonDataset(task, modality=["T2"])
    (task / "imagesTs/BRATS_557.nii.gz").unlink()
    with pytest.raises(DataError, match=r"1 of 1 names listed in .* but not found in .*: ./imagesTs/BRATS_557.nii.gz"):
        DecathlonDataset(task, test_mode=True)
    for content, message in (
        ("{", "the description is damaged"),
        ("[]", "the description must be a mapping"),
        ("{}", "not a description of a decathlon task"),
        (json.dumps({**TASK, "training": []}), "lists no volumes"),
    ):
        (task / "dataset.json").write_text(content)
        with pytest.raises(DataError, match=message):
            DecathlonDataset(task)
    with pytest.raises(DataError, match="the description cannot be read"):
        DecathlonDataset(task, ann_file="gone.json")
