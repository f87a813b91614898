"""Packed data sets return the same samples, from memory maps."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkernel.errors import DataError, UsageError
from segkernel.sample import DepthMap, Field, LabelMap, RasterField, Sample, WeightMap
from segplug_datasets import image, packed, pages
from segplug_datasets.change import SecondImage
from segplug_datasets.fields import Boxes, InstanceMasks, Keypoints
from segplug_datasets.files import FolderDataset
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.packed import PackedDataset, pack, verify_pack
from segplug_datasets.raster import RasterDataset
from segplug_datasets.transforms.distortion import Distortion


@dataclass
class Scaled(RasterField):
    """A field with more than an array."""

    scale: float = 1.0


class Made:
    """Samples of every kind of field, from arrays."""

    classes = ("a", "b")
    palette = ((0, 0, 0), (1, 2, 3))

    def __init__(self, count: int = 5, **extra: Any) -> None:
        self.count, self.extra = count, extra

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        rng = np.random.default_rng(index)
        size = (7 + index, 9)
        fields: dict[str, Field] = {
            "seg": LabelMap(rng.integers(0, 2, size, np.uint8)),
            "weight": WeightMap(rng.random(size, np.float32)),
            "depth": DepthMap(rng.random(size, np.float32)),
            "objects": InstanceMasks(rng.integers(0, 2, (*size, index), np.uint8)),
            "boxes": Boxes(rng.random((index, 4), np.float32)),
            "points": Keypoints(rng.random((1, 3, 3)).astype(np.float32)),
            "img2": SecondImage(rng.integers(0, 2**16, (*size, 4), np.uint16)),
            "scaled": Scaled(np.zeros(size, bool), scale=index / 2),
        }
        meta = {"name": f"n{index}", "size": size, "ids": {1: "x", "y": [None, True]}, "at": Path("a/b"),
                "matrix": np.eye(3), "number": np.float32(0.5), **self.extra}  # fmt: skip
        sample = Sample(fields, meta, rng.integers(0, 256, (*size, 3), np.uint8), moved="Crop" if index else "")
        sample.original_size = (70, 90) if index else None
        return sample


def write_folder(folder: Path, count: int = 6) -> FolderDataset:
    rng = np.random.default_rng(0)
    for number in range(count):
        size = (20 + number, 30)
        image.write(folder / f"images/{number}.jpg", rng.integers(0, 256, (*size, 3), np.uint8))
        image.write_mask(folder / f"masks/{number}.png", rng.choice(np.array([0, 7, 255], np.uint8), size))
    return FolderDataset("images", "masks", ["road", "car"], values={0: 0, 7: 1}, data_root=folder)


def same(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray):
        return (
            isinstance(second, np.ndarray)
            and first.dtype == second.dtype
            and first.shape == second.shape
            and first.tobytes() == second.tobytes()
        )
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, Sample):
        names = ("image", "fields", "meta", "moved", "size", "original_size")
        return all(same(getattr(first, name), getattr(second, name)) for name in names)
    if isinstance(first, Field):
        names = [part.name for part in dataclasses.fields(first)]
        return type(first) is type(second) and all(same(getattr(first, n), getattr(second, n)) for n in names)
    return type(first) is type(second) and bool(first == second)


def change(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


def stop_after(shards: int) -> Any:
    seen: list[int] = []

    def progress(done: int, samples: int) -> None:
        seen.append(done)
        if len(seen) == shards:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("workers", [0, 2])
def test_packed_samples_are_the_originals(tmp_path: Path, workers: int) -> None:
    original = write_folder(tmp_path)
    found = pack(original, tmp_path / "packed", workers, shard_bytes=10_000)
    assert len(list((tmp_path / "packed").glob("shard-*.bin"))) > 1
    assert len(found) == 6
    assert all(same(original[i], found[i]) for i in range(6))
    assert (found.classes, found.palette, found.labels) == (original.classes, original.palette, original.labels)
    assert list(verify_pack(tmp_path / "packed")) == []


def test_every_kind_of_field_and_of_meta_comes_back(tmp_path: Path) -> None:
    found = pack(Made(), tmp_path, shard_bytes=1)
    assert all(same(Made()[i], found[i]) for i in range(5))
    assert not hasattr(found, "labels")


def test_arrays_are_views_into_the_map_that_may_be_written(tmp_path: Path) -> None:
    found = pack(Made(), tmp_path)
    sample = found[1]
    assert sample.image.flags.writeable
    assert not sample.image.flags.owndata
    other = found[1]
    sample.image[...] = 0
    sample["seg"].array[...] = 1
    assert same(Made()[1], found[1])
    assert same(Made()[1], other)


def test_more_samples_than_file_handles_can_be_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = pack(Made(), tmp_path)
    monkeypatch.setattr(pages, "_MAPS_AT_ONCE", 3)
    held = [found[i % 5] for i in range(50)]
    assert len(pages._maps) <= 3
    assert all(same(Made()[i % 5], sample) for i, sample in enumerate(held))
    held[-1].image[...] = 0
    assert same(Made()[4], found[4])


def test_indices_outside_raise(tmp_path: Path) -> None:
    found = pack(Made(), tmp_path)
    assert same(found[-1], found[4])
    for index in (5, -6):
        with pytest.raises(IndexError):
            found[index]


def test_a_copy_in_another_process_opens_the_files_itself(tmp_path: Path) -> None:
    found = pack(Made(), tmp_path)
    content = pickle.dumps(found)
    assert len(content) < 500
    assert same(pickle.loads(content)[2], Made()[2])


def test_a_stopped_run_resumes_with_finished_shards(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        pack(Made(), tmp_path, shard_bytes=1, progress=stop_after(3))
    assert len(list(tmp_path.glob("shard-*.bin"))) == 3
    with pytest.raises(DataError, match=r"packing was not finished; pack the data set again"):
        PackedDataset(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("shard-*.bin")}
    (tmp_path / ".shard-00004.bin.17.tmp").write_bytes(b"half of it")
    found = pack(Made(), tmp_path, shard_bytes=1)
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert all(same(Made()[i], found[i]) for i in range(5))
    assert not list(tmp_path.glob(".*"))


def test_a_damaged_or_missing_shard_is_rewritten(tmp_path: Path) -> None:
    pack(Made(), tmp_path, shard_bytes=1)
    first, second = (tmp_path / f"shard-0000{i}.bin" for i in (0, 1))
    content = bytearray(first.read_bytes())
    content[10] ^= 1
    first.write_bytes(content)
    second.unlink()
    kept = (tmp_path / "shard-00002.bin").stat().st_mtime_ns
    found = pack(Made(), tmp_path, shard_bytes=1)
    assert all(same(Made()[i], found[i]) for i in range(5))
    assert (tmp_path / "shard-00002.bin").stat().st_mtime_ns == kept


def test_a_changed_source_file_is_packed_again(tmp_path: Path) -> None:
    original = write_folder(tmp_path)
    pack(original, tmp_path / "packed", shard_bytes=1)
    image.write_mask(tmp_path / "masks/3.png", np.full((23, 30), 7, np.uint8))
    os.utime(tmp_path / "masks/3.png", (1, 1))
    ((index, problem),) = verify_pack(tmp_path / "packed")
    assert index == 3
    assert problem.startswith(f"{tmp_path}/masks/3.png: changed since it was packed")
    found = pack(original, tmp_path / "packed", shard_bytes=1)
    assert (found[3]["seg"].array == 1).all()
    assert list(verify_pack(tmp_path / "packed")) == []


def test_other_samples_under_the_same_description_are_not_kept(tmp_path: Path) -> None:
    pack(Made(source="first"), tmp_path, shard_bytes=1)
    assert pack(Made(source="second"), tmp_path, shard_bytes=1)[4].meta["source"] == "second"


def test_a_folder_of_another_data_set_is_refused(tmp_path: Path) -> None:
    pack(Made(), tmp_path)
    with pytest.raises(DataError, match=r"contains a pack of another data set, .* delete it first"):
        pack(Made(4), tmp_path)
    with pytest.raises(DataError, match=r"another data set"):
        pack(Made(), tmp_path, source={"type": "Other"})
    assert len(PackedDataset(tmp_path)) == 5
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(DataError, match=r"plan.json: damaged .*: delete the folder and pack again"):
        pack(Made(), tmp_path)


def test_samples_that_cannot_be_read_are_all_named(tmp_path: Path) -> None:
    original = write_folder(tmp_path)
    for number in (1, 4):
        (tmp_path / f"images/{number}.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"2 samples cannot be packed") as caught:
        pack(original, tmp_path / "packed", shard_bytes=1)
    assert "1.jpg" in str(caught.value)
    assert "4.jpg" in str(caught.value)
    image.write(tmp_path / "images/1.jpg", np.zeros((21, 30, 3), np.uint8))
    image.write(tmp_path / "images/4.jpg", np.zeros((24, 30, 3), np.uint8))
    assert len(pack(original, tmp_path / "packed", shard_bytes=1)) == 6


def test_insufficient_disk_space_is_reported_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed.shutil, "disk_usage", lambda folder: packed.shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(DataError, match=r"needs about 0\.00 GB, the disk has 0\.00 GB left"):
        pack(Made(), tmp_path)
    assert not list(tmp_path.glob("shard*"))


def test_a_disk_that_becomes_full_is_reported_and_no_data_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(KeyboardInterrupt):
        pack(Made(), tmp_path, shard_bytes=1, progress=stop_after(2))
    with monkeypatch.context() as patch:
        patch.setattr(packed.os, "fsync", full)
        with pytest.raises(
            DataError, match=r"shard-00002.bin: cannot be written: No space left.*free some space and pack again"
        ):
            pack(Made(), tmp_path, shard_bytes=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "shard-00000.bin", "shard-00001.bin"]
    assert len(pack(Made(), tmp_path, shard_bytes=1)) == 5


def test_windows_of_rasters_can_be_packed(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    np.save(tmp_path / "images/a.npy", np.random.default_rng(0).random((30, 40, 5), np.float32))
    image.write_mask(tmp_path / "masks/a.png", np.ones((30, 40), np.uint8))
    original = RasterDataset("images", "masks", data_root=tmp_path, window=(16, 16), overlap=4)
    found = pack(original, tmp_path / "packed")
    assert len(found) == len(original) > 1
    assert all(same(original[i], found[i]) for i in range(len(found)))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: (f / "shard-00001.bin").unlink(),
            r"shard-00001.bin: this shard is missing; pack the data set again",
        ),
        (lambda f: os.truncate(f / "shard-00001.bin", 100), r"shard-00001.bin: has 100 bytes instead of \d+"),
        (lambda f: (f / "index.npy").unlink(), r"index.npy: cannot be read \(No such file"),
        (lambda f: (f / "index.npy").write_bytes(b"x"), r"not the index that pack.json describes"),
        (lambda f: np.save(f / "index.npy", np.zeros((5, 4), np.int64)), r"not the index that pack.json describes"),
        (lambda f: (f / "pack.json").write_text("{"), r"pack.json: damaged"),
        (
            lambda f: (f / "pack.json").write_text('{"version": 7, "crc32": 0, "pack": {}}'),
            r"format version 7, this release reads 1",
        ),
        (lambda f: change(f / "pack.json", '"a"', '"A"'), r"pack.json: damaged \(its checksum differs"),
        (lambda f: [path.unlink() for path in f.iterdir()], r"not a packed data set: it has no pack.json"),
    ],
)
def test_invalid_folders_are_reported_on_opening(tmp_path: Path, spoil: Any, message: str) -> None:
    pack(Made(), tmp_path, shard_bytes=1)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        PackedDataset(tmp_path)


def test_later_damage_is_an_error_of_the_sample(tmp_path: Path) -> None:
    found = pack(Made(), tmp_path, shard_bytes=1)
    shard = tmp_path / "shard-00002.bin"
    content = shard.read_bytes()
    shard.write_bytes(content.replace(b'{"image"', b'{"imago"'))
    with pytest.raises(DataError, match=r"shard-00002.bin: sample 2 is damaged; pack the data set again"):
        found[2]
    os.truncate(shard, 0)
    with pytest.raises(DataError, match=r"shard-00002.bin: this shard is truncated"):
        found[2]
    shard.unlink()
    with pytest.raises(DataError, match=r"shard-00002.bin: this shard is missing"):
        found[2]


def test_a_changed_pixel_is_found_by_its_checksum(tmp_path: Path) -> None:
    pack(Made(), tmp_path, shard_bytes=1)
    shard = tmp_path / "shard-00002.bin"
    content = bytearray(shard.read_bytes())
    content[3] ^= 255
    shard.write_bytes(content)
    assert not same(PackedDataset(tmp_path)[2], Made()[2])
    with pytest.raises(DataError, match=r"its checksum differs"):
        PackedDataset(tmp_path, verify=True)[2]
    ((index, problem),) = verify_pack(tmp_path)
    assert index == 2
    assert "shard-00002.bin: damaged at byte 0" in problem


def test_unsupported_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a object cannot be packed|a function cannot be packed"):
        pack(Made(function=json.dumps), tmp_path / "a")
    with pytest.raises(UsageError, match=r"an array of object cannot be packed"):
        pack(Made(objects=np.array([None])), tmp_path / "b")
    with pytest.raises(UsageError, match=r"pending device steps"):
        pages.encode(Sample(device_steps=[Distortion(brightness=3)]))
    with pytest.raises(UsageError, match=r"need at least 0 and 1"):
        pack(Made(), tmp_path / "c", workers=-1)
    with pytest.raises(DataError, match=r"the data set is empty"):
        pack(Made(0), tmp_path / "d")


def test_labels_without_and_with_values(tmp_path: Path) -> None:
    original = Made()
    original.labels = LabelSpec(("a", "b"), ignore=(9, 255), offset=1)
    assert pack(original, tmp_path).labels == original.labels
