"""Images in archives are predicted as those of a folder; hostile archives are refused."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segkernel import Predictor
from segkernel.errors import DataError, UsageError
from segplug_datasets import collect_images, image, predict_images
from segplug_datasets.predict import archives


@pytest.fixture
def predictor() -> Predictor:
    torch.manual_seed(0)
    return Predictor(torch.nn.Conv2d(3, 3, 1), classes=["ground", "red", "blue"])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.jpg"):
        image.write(tmp_path / "in" / name, rng.integers(0, 256, (12, 16, 3)).astype(np.uint8))
    return tmp_path / "in"


def packed(folder: Path, suffix: str) -> Path:
    path = folder.with_name(f"set{suffix}")
    files = sorted(folder.iterdir())
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("__MACOSX/a.png", b"no image")
            for file in files:
                archive.write(file, f"inner/{file.name}")
    else:
        with tarfile.open(path, f"w:{suffix.rpartition('.')[2]}" if suffix.count(".") == 2 else "w") as archive:
            link = tarfile.TarInfo("inner/link.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
            for file in files:
                archive.add(file, f"inner/{file.name}")
    return path


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tar.xz"])
def test_an_archive_is_predicted_as_its_folder(predictor: Predictor, photos: Path, tmp_path: Path, suffix: str) -> None:
    list(predict_images(predictor, photos, tmp_path / "plain"))
    found = list(predict_images(predictor, packed(photos, suffix), tmp_path / "out"))
    assert [each.meta["name"] for each in found] == ["a", "b", "c"]
    for folder in ("pred", "vis"):
        files = {path.name: path.read_bytes() for path in (tmp_path / "out" / folder).iterdir()}
        assert files == {path.name: path.read_bytes() for path in (tmp_path / "plain" / folder).iterdir()}


def test_a_damaged_image_names_archive_and_member(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    (photos / "b.png").write_bytes(b"no image")
    found = []
    with pytest.raises(DataError, match=r"set\.zip/inner/b\.png: not an image"):
        found.extend(predict_images(predictor, packed(photos, ".zip")))
    assert not (tmp_path / "image.png").exists()


def test_names_cannot_leave_the_output_folder(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in ("inner/../../evil.png", "/absolute.png", "c\\..\\..\\back.png", "dots..png"):
            archive.writestr(name, (photos / "a.png").read_bytes())
    list(predict_images(predictor, tmp_path / "set.zip", tmp_path / "deep" / "out", formats=["labels"]))
    written = [path for path in tmp_path.rglob("*.png") if path.parent != photos]
    assert len(written) == 3  # a path with .. is skipped
    assert all(path.is_relative_to(tmp_path / "deep" / "out" / "pred") for path in written)


def test_a_bomb_is_refused_without_expanding_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_SMALL", 2**20)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.bmp", bytes(2**22))
    data = tarfile.TarInfo("a.bmp")
    data.size = 2**22
    with tarfile.open(tmp_path / "bomb.tgz", "w:gz") as archive:  # type: ignore[assignment]
        archive.addfile(data, io.BytesIO(bytes(2**22)))  # type: ignore[attr-defined]
    for name in ("bomb.zip", "bomb.tgz"):
        with pytest.raises(DataError, match="refused as a bomb"):
            collect_images(tmp_path / name)


def test_a_member_above_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_BYTES", 100)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("a.png", bytes(101))
    (member,) = collect_images(tmp_path / "set.zip")
    with pytest.raises(DataError, match="101 bytes are more"):
        member.read()  # type: ignore[union-attr]


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
def test_damaged_and_empty_archives_are_one_message(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"set{suffix}"
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be read from the archive"):
        collect_images(path)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.md", b"text")
    with pytest.raises(DataError, match="no images in this archive"):
        collect_images(tmp_path / "other.zip")


def test_an_encrypted_member_is_named(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    path = packed(photos, ".zip")
    data = bytearray(path.read_bytes())
    for mark in (b"PK\3\4", b"PK\1\2"):  # set the flag of encryption in every header
        start, offset = 0, 6 if mark == b"PK\3\4" else 8
        while (start := data.find(mark, start)) >= 0:
            data[start + offset] |= 1
            start += 4
    path.write_bytes(data)
    found: list[Any] = []
    with pytest.raises(DataError, match=r"a\.png: cannot be read from the archive: .*encrypted"):
        found.extend(predict_images(predictor, path))


def test_a_video_is_not_an_image(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="predict_video"):
        list(predict_images(predictor, tmp_path / "movie.mp4"))
