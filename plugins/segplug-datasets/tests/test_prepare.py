"""Infrastructure of the converters: archives, resuming, counts, the command."""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest

from segkernel import cli
from segkernel.errors import DataError, UsageError
from segplug_datasets import image
from segplug_datasets.optional_deps import ExtraMissingError
from segplug_datasets.prepare import Converter, Part, Report, Rule, find, prepare
from segplug_datasets.prepare.output import Output
from segplug_datasets.prepare.sources import SourceFile, open_files
from segplug_datasets.prepare.steps import colors_to_ids, copy, ids, map_values, picture, starts, tiles


def converter(step: Callable = copy, count: int = 2) -> Converter:
    rule = Rule("images", r"in/(\w+)\.png", lambda m: f"out/{m[1]}.png", step)
    part = Part("train", "out", (count,))
    return Converter("mini", "a set", "host/path", "free", "in.zip", "FolderDataset", (rule,), (part,))


def write_images(folder: Path, *names: str) -> Path:
    for name in names:
        image.write(folder / "in" / f"{name}.png", np.full((4, 5, 3), 7, np.uint8))
    return folder


def counted(step: Callable, calls: list[str]) -> Callable:
    def wrapped(file: SourceFile, target: str, output: Output) -> None:
        calls.append(target)
        step(file, target, output)

    return wrapped


# ---------------------------------------------------------------- resuming


def test_finished_files_are_not_converted_again(tmp_path: Path) -> None:
    calls: list[str] = []
    source, dest = write_images(tmp_path / "source", "a", "b"), tmp_path / "dest"
    mini = converter(counted(picture, calls))
    assert prepare(mini, source, dest) == Report(2, 0, [], {"train": 2}, [])
    assert prepare(mini, source, dest) == Report(0, 2, [], {"train": 2}, [])
    (dest / "out/a.png").unlink()  # gone
    (dest / "out/b.png").write_bytes(b"cut short")
    assert (prepare(mini, source, dest).made, len(calls)) == (2, 4)
    image.write(source / "in/a.png", np.zeros((40, 50, 3), np.uint8))  # another file
    assert prepare(mini, source, dest).made == 1
    assert prepare(mini, source, dest, force=True).made == 2


def test_an_interrupted_run_resumes(tmp_path: Path) -> None:
    source, dest = write_images(tmp_path / "source", "a", "b", "c"), tmp_path / "dest"

    def stopped(file: SourceFile, target: str, output: Output) -> None:
        if target.endswith("b.png"):
            raise KeyboardInterrupt
        picture(file, target, output)

    with pytest.raises(KeyboardInterrupt):
        prepare(converter(stopped), source, dest, workers=1)
    manifest = dest / ".prepare/mini.jsonl"
    manifest.write_text(manifest.read_text() + '{"job": "out/b')  # killed while writing
    report = prepare(converter(picture, 3), source, dest, workers=1)
    assert (report.made + report.kept, report.kept >= 1, report.odd) == (3, True, [])
    assert not list(dest.rglob("*.tmp"))


def test_one_bad_file_does_not_stop_the_others(tmp_path: Path) -> None:
    source, dest = write_images(tmp_path / "source", "a", "b"), tmp_path / "dest"
    (source / "in/c.png").write_bytes(b"no image")
    seen: list[tuple[int, int]] = []
    report = prepare(converter(picture), source, dest, progress=lambda done, total: seen.append((done, total)))
    assert (report.made, report.counts, seen[-1]) == (2, {"train": 2}, (3, 3))
    (failed,) = report.failed
    assert failed.startswith("out/c.png: in/c.png: not an image that OpenCV")
    write_images(source, "c")
    assert prepare(converter(picture, 3), source, dest) == Report(1, 2, [], {"train": 3}, [])


# ---------------------------------------------------------------- sources


def names(root: Path, work: Path, without: Path | None = None) -> list[str]:
    with open_files(root, work, lambda name: name.endswith(".png"), without) as files:
        assert all(file.read() == b"x" for file in files)
        return [file.name for file in files]


def write_zip(path: Path, *members: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for member in members:
            archive.writestr(member, b"x")


def test_archives_count_as_folders(tmp_path: Path) -> None:
    source, work = tmp_path / "source", tmp_path / "work"
    (source / "d/__MACOSX").mkdir(parents=True)
    for name in ("d/a.png", "d/.hidden.png", "d/__MACOSX/b.png", "d/other.txt"):
        (source / name).write_bytes(b"x")
    write_zip(source / "z.zip", "e/c.png", "__MACOSX/c.png", "e/._c.png", "e/c.txt")
    with tarfile.open(source / "t.tar.gz", "w:gz") as archive:
        for name in ("f/d.png", "f/d.txt", "/g.png", "../h.png"):
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
    assert names(source, work) == ["d/a.png", "t/f/d.png", "z/e/c.png"]
    assert names(source, work) == ["d/a.png", "t/f/d.png", "z/e/c.png"]  # unpacked already
    assert not (tmp_path / "h.png").exists()
    assert names(source / "z.zip", work) == ["e/c.png"]
    assert names(source, work, source / "d") == ["t/f/d.png", "z/e/c.png"]


def test_sources_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone: no such file or folder"):
        names(tmp_path / "gone", tmp_path)
    (tmp_path / "a.txt").write_bytes(b"x")
    with pytest.raises(DataError, match="neither a folder nor an archive"):
        names(tmp_path / "a.txt", tmp_path)
    for name in ("bad.zip", "bad.tar"):
        (tmp_path / name).write_bytes(b"x" * 600)
        with pytest.raises(DataError, match=rf"{name}: a damaged archive, download it again"):
            names(tmp_path / name, tmp_path / "work")


def test_a_damaged_file_in_an_archive_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, "a")
    path = tmp_path / "source/in.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tmp_path / "in/a.png", "in/a.png")
    data = bytearray(path.read_bytes())
    data[60] ^= 255
    path.write_bytes(bytes(data))
    report = prepare(converter(picture), path.parent, tmp_path / "dest")
    assert report.failed[0].startswith("out/a.png: ")
    assert "CRC" in report.failed[0]


def test_the_destination_may_be_inside_the_source(tmp_path: Path) -> None:
    source = write_images(tmp_path, "a", "b")
    rule = Rule("images", r"(\w+)\.png", lambda m: f"in/{m[1]}.png", copy)
    mini = replace(converter(), rules=(rule,), parts=(Part("train", "in", (2,)),))
    for _ in range(2):
        assert prepare(mini, source, source / "dest").counts == {"train": 2}
    with pytest.raises(DataError, match="DEST is the folder of the download"):
        prepare(mini, source, source)


def test_of_two_files_with_one_target_the_one_outside_archives_counts(tmp_path: Path) -> None:
    source = write_images(tmp_path / "source", "a")
    write_zip(source / "in.zip", "in/a.png", "in/in/b.png")
    prepare(converter(copy), source, tmp_path / "dest")
    assert image.read(tmp_path / "dest/out/a.png").max() == 7
    assert (tmp_path / "dest/out/b.png").read_bytes() == b"x"


# ---------------------------------------------------------------- steps


def test_origins_of_tiles() -> None:
    assert starts(6000, 512, 512) == [*range(0, 5121, 512), 5488]  # Potsdam: 12 by 12 tiles, 24 * 144 = 3456
    assert starts(1024, 256, 256) == [0, 256, 512, 768]
    assert starts(1000, 896, 512) == [0, 104]
    assert starts(512, 512, 512) == [0]


def test_the_published_numbers_of_tiles_of_vaihingen() -> None:
    """Sizes of the 33 images (ISPRS), which MMSegmentation cuts into 344 and 398 tiles."""
    sizes = {
        **dict.fromkeys((4, 5, 6, 7, 8, 10), (2557, 1887)), **dict.fromkeys((14, 15, 16), (2565, 1919)),
        **dict.fromkeys((21, 22, 23, 24), (2546, 1903)), **dict.fromkeys((31, 32), (2555, 1980)),
        1: (2569, 1919), 2: (2767, 2428), 3: (3007, 2006), 11: (2566, 1893), 12: (2575, 1922), 13: (2558, 2818),
        17: (1281, 2336), 20: (2315, 1866), 26: (1783, 2995), 27: (3313, 1917), 28: (2567, 1917), 29: (2563, 1917),
        30: (2563, 1934), 33: (2555, 1581), 34: (2555, 1388), 35: (1884, 2805), 37: (1995, 1996), 38: (2550, 3816),
    }  # fmt: skip
    from segplug_datasets.prepare.vaihingen import SPLITS

    counts = [
        sum(len(starts(sizes[area][0], 512, 512)) * len(starts(sizes[area][1], 512, 512)) for area in areas)
        for areas in (SPLITS["train"], SPLITS["val"])
    ]
    assert (counts, len(sizes)) == ([344, 398], 33)


def test_tiles_hold_the_pixels_that_their_names_say(tmp_path: Path) -> None:
    pixels = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    image.write(tmp_path / "source/in/a.png", pixels)
    prepare(
        converter(tiles(4, 3, "{target}-{top}-{left}-{bottom}-{right}.png")), tmp_path / "source", tmp_path / "dest"
    )
    made = sorted(path.name for path in (tmp_path / "dest/out").iterdir())
    assert made == [f"a.png-{top}-{left}-{top + 4}-{left + 4}.png" for top in (0, 1) for left in (0, 3)]
    assert np.array_equal(image.read(tmp_path / "dest/out/a.png-1-3-5-7.png"), pixels[1:5, 3:7])


def test_labels_that_a_table_lacks(tmp_path: Path) -> None:
    assert map_values(np.array([[0, 5]]), {0: 1, 5: 255}).tolist() == [[1, 255]]
    with pytest.raises(DataError, match=r"label values \[3\] do not belong to this set"):
        map_values(np.array([[0, 3]]), {0: 1, 5: 255})
    write_images(tmp_path / "source", "a")
    report = prepare(converter(ids({7: 1})), tmp_path / "source", tmp_path / "dest")
    assert "labels have two axes" in report.failed[0]


def test_other_colours_become_0() -> None:
    pixels = np.array([[[1, 2, 3], [9, 9, 9], [3, 2, 1]]], np.uint8)
    assert colors_to_ids(pixels, ((0, 0, 0), (1, 2, 3), (3, 2, 1))).tolist() == [[1, 0, 2]]
    tall = np.repeat(pixels, 700, 0)
    assert np.array_equal(colors_to_ids(tall, ((0, 0, 0), (1, 2, 3))), np.tile([1, 0, 0], (700, 1)))


# ---------------------------------------------------------------- result


def test_the_result_is_compared_with_the_published_counts(tmp_path: Path) -> None:
    part = Part("val", "out", (3, 4), ("labels",), (".png", "_gt.png"))
    mini = replace(converter(), parts=(part,))
    source, dest = write_images(tmp_path / "source", "a", "b"), tmp_path / "dest"
    image.write_mask(dest / "labels/a_gt.png", np.zeros((4, 5), np.uint8))
    image.write_mask(dest / "labels/z_gt.png", np.zeros((4, 5), np.uint8))
    assert prepare(mini, source, dest).odd == [
        "val: 2 images, 3 or 4 were published",
        "val: without labels in labels: b",
        "val: labels without an image in labels: z",
    ]
    listed = replace(mini, parts=(replace(part, listed="val.txt"),))
    assert prepare(listed, source, dest).odd == ["val: no list val.txt"]
    (dest / "val.txt").write_text("a\nc\nd\n")
    assert prepare(listed, source, dest).odd == [
        "val: without an image in out: c, d",
        "val: without labels in labels: c, d",
    ]


# ---------------------------------------------------------------- the command


def call(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", "prepare", *map(str, arguments)])
    code = ended.value.code
    assert isinstance(code, int)
    return code


def loveda(folder: Path) -> Path:
    for split in ("Train", "Val"):
        image.write(folder / split / "Rural/images_png/1.png", np.zeros((4, 5, 3), np.uint8))
        image.write_mask(folder / split / "Rural/masks_png/1.png", np.ones((4, 5), np.uint8))
    return folder


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, dest = loveda(tmp_path / "source"), tmp_path / "dest"
    assert call("loveda", source, dest, "--workers", "2") == 1
    printed = capsys.readouterr()
    assert "4 made, 0 kept from before\n  train  1 images" in printed.out
    assert "train: 1 images, 2522 were published" in printed.err
    assert "--partial" in printed.err
    assert call("LoveDA", source, dest, "--partial") == 0
    printed = capsys.readouterr()
    assert "0 made, 4 kept from before" in printed.out
    assert f"read it with  {{type: LoveDADataset, data_root: {dest}}}\n" in printed.out
    assert f"seg-kernel data check --type LoveDADataset --root {dest}" in printed.out
    assert printed.err.count("warning: ") == 3
    assert call("loveda", source, dest, "--partial", "--force") == 0
    assert "4 made, 0 kept" in capsys.readouterr().out


def test_the_list_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--list") == 0
    printed = capsys.readouterr().out
    assert "potsdam: ISPRS Potsdam" in printed
    assert "train 3456, val 2016; PotsdamDataset" in printed
    assert printed.count("    from   ") == 18


def test_wrong_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("potsdan", tmp_path, tmp_path / "dest") == 2
    assert "no converter is called 'potsdan': did you mean 'potsdam'?" in capsys.readouterr().err
    assert call("potsdam", tmp_path, tmp_path / "dest", "--workers", "-1") == 2
    assert call("potsdam", tmp_path / "gone", tmp_path / "dest") == 1
    assert "no such file or folder" in capsys.readouterr().err
    assert not (tmp_path / "dest").exists()
    with pytest.raises(UsageError, match="workers must be 0"):
        prepare(converter(), tmp_path, tmp_path / "dest", workers=-1)
    (tmp_path / "Training").mkdir()
    for name in ("c", "d"):
        (tmp_path / f"{name}.png").write_bytes(b"x")
    assert call("drive", tmp_path, tmp_path / "dest") == 1
    assert "holds no images, no labels: drive needs training.zip and test.zip" in capsys.readouterr().err


def test_files_that_fail_end_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    for name in ("im0001.ppm", "im0001.ah.ppm"):
        source.mkdir(exist_ok=True)
        (source / name).write_bytes(b"x")
    assert call("stare", source, tmp_path / "dest", "--partial") == 1
    assert "2 files could not be converted" in capsys.readouterr().err


def test_a_package_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("scipy.io", "nibabel"):
        monkeypatch.setitem(sys.modules, package, None)
    sources = {
        "voc_aug": ("benchmark_RELEASE/dataset/cls/a.mat", "scipy", "mat"),
        "synapse": ("img/img0001.nii", "nibabel", "medical"),
    }
    for name, (path, package, extra) in sources.items():
        one = find(name)
        mini = replace(one, rules=tuple(replace(rule, needed=False) for rule in one.rules), more=None)
        source = tmp_path / name
        (source / path).parent.mkdir(parents=True)
        (source / path).write_bytes(b"x")
        with pytest.raises(ExtraMissingError, match=rf"needs {package}.*\n.*segplug-datasets\[{extra}\]") as missing:
            prepare(mini, source, tmp_path / "dest")
        assert missing.value.exit_code == 3


def test_the_options_do_not_grow_unnoticed() -> None:
    from segplug_datasets.commands.prepare import command

    options = [flag for one in command.params if isinstance(one, click.Option) for flag in one.opts]
    assert options == ["--workers", "--force", "--partial", "--list"]
