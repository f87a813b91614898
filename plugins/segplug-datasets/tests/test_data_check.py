"""``data check``: a small valid folder is damaged in every way; the problem is found, and the proposed lines fix it."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from segkernel.cli import main
from segkernel.config import load_config
from segkernel.errors import DataError, UsageError
from segplug_datasets import image
from segplug_datasets.cityscapes import LABELS as CITYSCAPES
from segplug_datasets.doctor import Finding, Report, check, inspect, parts_of_config, parts_of_folders, parts_of_type
from segplug_datasets.doctor.copies import near_duplicates
from segplug_datasets.doctor.sample_info import moments
from segplug_datasets.doctor.sources import read_list
from segplug_datasets.headers import read_header

CLASSES = ["ground", "sky", "wall"]
SIZE = (48, 64)
COUNT = 6


def picture(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Return an image that is unlike the one of any other seed: coarse noise in colour."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def labels(seed: int, size: tuple[int, int] = SIZE, values: Sequence[int] = (0, 1, 2)) -> np.ndarray:
    """Return a map of blocks that holds all ``values``."""
    blocks = np.random.default_rng(seed).choice(np.array(values), (6, 8))
    blocks.ravel()[: len(values)] = values
    return np.kron(blocks, np.ones((size[0] // 6, size[1] // 8), np.int64))


def write_set(folder: Path, first: int = 0, values: Sequence[int] = (0, 1, 2)) -> None:
    for seed in range(first, first + COUNT):
        image.write(folder / f"images/{seed}.png", picture(seed))
        image.write_mask(folder / f"masks/{seed}.png", labels(seed, values=values))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, entered, with a sound training and validation set, and ``c.yaml``, the config that names them."""
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "train")
    write_set(tmp_path / "val", 100)
    write_config(tmp_path)
    return tmp_path


def write_config(folder: Path, **arguments: Any) -> None:
    sets = {
        name: {
            "type": "FolderDataset",
            "data_root": name,
            "images": "images",
            "masks": "masks",
            "classes": CLASSES,
            **arguments,
        }
        for name in ("train", "val")
    }
    (folder / "c.yaml").write_text(yaml.safe_dump({"data": sets}))


def diagnose(*overrides: str, config: str = "c.yaml") -> Report:
    return check(inspect(parts_of_config(load_config(config, overrides)), workers=0))


def kinds(report: Report, *severities: str) -> list[str]:
    return sorted({f.kind for f in report.findings if not severities or f.severity in severities})


def only(report: Report, kind: str) -> Finding:
    found = [finding for finding in report.findings if finding.kind == kind]
    assert found, kinds(report)
    return found[0]


def fixed(finding: Finding) -> Report:
    """Check again with the lines of a finding laid over the config."""
    assert finding.fix
    Path("fixed.yaml").write_text(f"_base_: c.yaml\n{finding.fix}\n")
    return diagnose(config="./fixed.yaml")


def each_mask(change: Callable[[np.ndarray], np.ndarray], suffix: str = ".png", folder: str = "*") -> None:
    """Write every mask anew, through OpenCV, as ``change`` makes it."""
    for path in sorted(Path().glob(f"{folder}/masks/*.png")):
        changed = change(image.read_mask(path))
        path.unlink()
        cv2.imwrite(str(path.with_suffix(suffix)), changed)


# ---------------------------------------------------------------- sound data


def test_valid_data_have_no_findings(project: Path) -> None:
    report = diagnose()
    assert report.findings == []
    assert [(row.set, row.images, row.sound, row.occurring) for row in report.rows] == [
        ("train", 6, 6, 3),
        ("val", 6, 6, 3),
    ]


def test_several_processes_return_the_same_findings(project: Path) -> None:
    for seed in range(10, 40):
        image.write(f"train/images/{seed}.png", picture(seed))
        image.write_mask(f"train/masks/{seed}.png", labels(seed))
    parts = parts_of_config(load_config("c.yaml"))
    counted: list[int] = []
    inspected = inspect(parts, 2, counted.append)
    assert sum(counted) == 42
    assert inspected == inspect(parts, 0)


# ---------------------------------------------------------------- values


def test_black_and_white_masks(project: Path) -> None:
    each_mask(lambda mask: np.where(mask > 0, 255, 0).astype(np.uint8))
    write_config(project, classes=["ground", "wall"])
    finding = only(diagnose(), "black-and-white-masks")
    assert finding.severity == "error"
    assert len(finding.files) == 12
    assert yaml.safe_load(finding.fix)["data"]["train"] == {"values": {0: 0, 255: 1}}
    assert fixed(finding).findings == []


def test_some_black_and_white_masks_among_others(project: Path) -> None:
    each_mask(lambda mask: np.minimum(mask, 1).astype(np.uint8), folder="train")
    each_mask(lambda mask: np.where(mask > 0, 255, 0).astype(np.uint8), folder="val")
    write_config(project, classes=["ground", "wall"])
    finding = only(diagnose(), "mixed-black-and-white-masks")
    assert fixed(finding).findings == []


def test_one_more_value_than_classes(project: Path) -> None:
    each_mask(lambda mask: (mask + 1).astype(np.uint8) * (np.arange(64) > 3).astype(np.uint8))
    finding = only(diagnose(), "off-by-one")
    assert yaml.safe_load(finding.fix)["data"]["val"] == {"offset": 1}
    assert "# " in finding.fix
    assert "background" in finding.fix
    assert fixed(finding).findings == []


def test_all_values_one_too_high(project: Path) -> None:
    each_mask(lambda mask: mask + 1)
    assert fixed(only(diagnose(), "shifted-by-one")).findings == []


def test_an_offset_that_is_not_needed(project: Path) -> None:
    write_config(project, offset=1)
    assert fixed(only(diagnose(), "needless-offset")).findings == []


def test_sparse_values(project: Path) -> None:
    each_mask(lambda mask: mask * 100 + 7)
    finding = only(diagnose(), "sparse-values")
    assert yaml.safe_load(finding.fix)["data"]["train"]["values"] == {7: 0, 107: 1, 207: 2}
    assert fixed(finding).findings == []


def test_values_out_of_range(project: Path) -> None:
    mask = labels(0)
    mask[0, 0] = 77
    image.write_mask("train/masks/0.png", mask)
    finding = only(diagnose(), "labels-out-of-range")
    assert finding.files == ["train/masks/0.png"]
    assert fixed(finding).findings == []


def test_ids_of_objects(project: Path) -> None:
    for number, path in enumerate(sorted(Path().glob("*/masks/*.png"))):
        image.write_mask(path, labels(number, values=range(2 + number % 4)))
    write_config(project, classes=["ground", "person"])
    assert fixed(only(diagnose(), "instance-masks")).findings == []


def test_label_ids_of_cityscapes(project: Path) -> None:
    classes = ["road", "sidewalk", "building", *(f"c{i}" for i in range(3, 19))]
    write_config(project, classes=classes)
    each_mask(lambda mask: np.array([7, 8, 33], np.uint8)[mask])
    finding = only(diagnose(), "cityscapes-label-ids")
    assert kinds(fixed(finding)) == ["absent-classes"]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_masks_with_lossy_compression(project: Path, suffix: str) -> None:
    def spoilt(mask: np.ndarray) -> np.ndarray:
        jpeg = cv2.imencode(".jpg", cv2.resize(mask * 120, (250, 190), interpolation=cv2.INTER_NEAREST))[1]
        return cv2.imdecode(jpeg, cv2.IMREAD_UNCHANGED)

    each_mask(spoilt, suffix)
    for path in Path().glob("*/images/*.png"):
        image.write(path, cv2.resize(image.read(path), (250, 190)))
    write_config(project, mask_suffix=suffix)
    finding = only(diagnose(), "lossy-masks")
    assert finding.severity == "error"
    values = yaml.safe_load(finding.fix)["data"]["train"]["values"]
    assert (values[0], values[120], values[240]) == (0, 1, 2)
    assert "error" not in {f.severity for f in fixed(finding).findings}


def test_folders_without_classes_get_a_proposal(project: Path) -> None:
    report = check(inspect(parts_of_folders("train/images", "train/masks", [], {}), 0))
    finding = only(report, "classes-unknown")
    Path("new.yaml").write_text(finding.fix)
    assert diagnose(config="./new.yaml").findings == []


# ---------------------------------------------------------------- colours


COLORS = np.array([(128, 64, 128), (70, 130, 180), (102, 102, 156)], np.uint8)


def test_colours_of_a_published_set_get_its_palette(project: Path) -> None:
    stripes = np.array(CITYSCAPES.palette[:12], np.uint8).repeat(4, 0)[:, None].repeat(64, 1)
    each_mask(lambda mask: stripes[..., ::-1])
    without_classes(project)
    finding = only(diagnose(), "colour-masks")
    assert "Cityscapes" in finding.why
    assert yaml.safe_load(finding.fix)["data"]["train"]["classes"][:2] == ["road", "sidewalk"]
    assert kinds(fixed(finding)) == ["absent-classes"]


def test_a_few_colours_of_a_published_set_are_not_its_classes(project: Path) -> None:
    each_mask(lambda mask: np.array([(0, 0, 0), (0, 255, 0), (255, 0, 0)], np.uint8)[mask][..., ::-1])
    without_classes(project)
    finding = only(diagnose(), "colour-masks")
    assert "(0, 255, 0)" in finding.what
    lines = yaml.safe_load(finding.fix)["data"]["train"]
    assert lines["classes"] == ["background", "class_1", "class_2"]
    assert lines["palette"][0] == [0, 0, 0]
    assert "ignore_colors" not in lines
    assert fixed(finding).findings == []


def without_classes(project: Path) -> None:
    """Leave the classes out of the config."""
    config = yaml.safe_load((project / "c.yaml").read_text())
    for part in config["data"].values():
        del part["classes"]
    (project / "c.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize(
    "colors",
    [[(0, 0, 0), (0, 255, 0), (0, 0, 255)], [(0, 0, 0), (128, 0, 0), (0, 128, 0)], COLORS.tolist()],
    ids=["of no set", "Pascal VOC", "Cityscapes"],
)
def test_classes_of_the_user_win_over_a_known_palette(project: Path, colors: list[tuple[int, int, int]]) -> None:
    each_mask(lambda mask: np.array(colors, np.uint8)[mask][..., ::-1])
    finding = only(diagnose(), "colour-masks")
    lines = yaml.safe_load(finding.fix)["data"]["train"]
    assert lines["classes"] == CLASSES
    assert sorted(map(tuple, lines["palette"])) == sorted(map(tuple, colors))
    assert "ignore_colors" not in lines
    assert "put colours and names into the same order" in finding.why
    assert fixed(finding).findings == []


def test_names_of_a_known_set_get_its_colours(project: Path) -> None:
    each_mask(lambda mask: COLORS[mask][..., ::-1])
    write_config(project, classes=["wall", "road", "Sky"])
    finding = only(diagnose(), "colour-masks")
    lines = yaml.safe_load(finding.fix)["data"]["train"]
    assert (lines["classes"], lines["palette"]) == (["wall", "road", "Sky"], COLORS[[2, 0, 1]].tolist())


def test_colours_that_are_more_or_fewer_than_the_classes_are_asked_for(project: Path) -> None:
    each_mask(lambda mask: COLORS[mask][..., ::-1])
    write_config(project, classes=["a", "b", "c", "d"])
    finding = only(diagnose(), "colour-masks")
    assert not finding.fix
    assert "Give the colour of each of the 4 classes in 'palette'" in finding.why


def test_ids_in_one_channel_are_numbers_unless_there_is_a_palette(project: Path) -> None:
    each_mask(lambda mask: np.stack([mask * 0, mask * 0, mask], 2).astype(np.uint8))
    assert diagnose().findings == []
    write_config(project, palette=[[0, 0, 0], [1, 0, 0], [2, 0, 0]])
    assert diagnose().findings == []
    write_config(project)
    each_mask(lambda mask: mask * np.uint8(90))
    assert "colour-masks" in kinds(diagnose(), "error")


def test_unknown_colours_get_the_given_names(project: Path) -> None:
    each_mask(lambda mask: (COLORS + 3)[mask][..., ::-1])
    finding = only(diagnose(), "colour-masks")
    lines = yaml.safe_load(finding.fix)["data"]["train"]
    assert lines["classes"] == CLASSES
    assert sorted(map(tuple, lines["palette"])) == sorted(map(tuple, (COLORS + 3).tolist()))
    assert fixed(finding).findings == []


def test_a_colour_that_is_not_in_the_palette(project: Path) -> None:
    each_mask(lambda mask: COLORS[mask][..., ::-1])
    write_config(project, palette=COLORS[:2].tolist(), classes=CLASSES[:2])
    assert fixed(only(diagnose(), "unknown-colours")).findings == []


def test_colour_masks_stored_as_jpeg(project: Path) -> None:
    each_mask(lambda mask: COLORS[mask][..., ::-1], ".jpg")
    write_config(project, palette=COLORS.tolist(), mask_suffix=".jpg")
    assert "lossy-masks" in kinds(diagnose(), "error")


def test_colours_among_numbers(project: Path) -> None:
    each_mask(lambda mask: COLORS[mask][..., ::-1], folder="train")
    assert "mixed-masks" in kinds(diagnose())


def with_palette(mask: np.ndarray, palette: np.ndarray) -> bytes:
    """Return a PNG with a palette, which OpenCV cannot write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = b"".join(b"\0" + row.tobytes() for row in mask.astype(np.uint8))
    header = struct.pack(">IIBBBBB", mask.shape[1], mask.shape[0], 8, 3, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"PLTE", palette.tobytes()), chunk(b"IDAT", zlib.compress(rows)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def test_masks_with_a_palette_are_read_as_numbers(project: Path) -> None:
    for path in Path().glob("*/masks/*.png"):
        path.write_bytes(with_palette(image.read_mask(path), COLORS))
    assert kinds(diagnose()) == ["palette-masks"]


def test_palettes_that_contradict_each_other(project: Path) -> None:
    for path in Path().glob("*/masks/*.png"):
        palette = COLORS if path.parts[0] == "train" else COLORS[::-1].copy()
        path.write_bytes(with_palette(image.read_mask(path), palette))
    assert "palettes-differ" in kinds(diagnose(), "error")


# ---------------------------------------------------------------- classes


def test_a_class_that_never_occurs(project: Path) -> None:
    each_mask(lambda mask: np.minimum(mask, 1), folder="train")
    finding = only(diagnose(), "absent-classes")
    assert (finding.severity, finding.where) == ("warning", "train")
    assert "wall" in finding.what


def test_only_one_class(project: Path) -> None:
    each_mask(lambda mask: mask * 0)
    assert kinds(diagnose()) == ["one-class"]


def test_masks_of_ignored_pixels_only(project: Path) -> None:
    image.write_mask("train/masks/0.png", np.full(SIZE, 255))
    assert kinds(diagnose(), "warning") == ["empty-masks"]
    each_mask(lambda mask: np.full_like(mask, 255))
    assert kinds(diagnose(), "error") == ["nothing-labelled"]


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("content", "says"),
    [(lambda b: b"", "empty"), (lambda b: b[: len(b) // 2], "cut short"), (lambda b: b"hello", "not an image")],
)
@pytest.mark.parametrize("kind", ["images", "masks"])
def test_files_that_cannot_be_read(project: Path, kind: str, content: Callable[[bytes], bytes], says: str) -> None:
    path = Path(f"train/{kind}/3.png")
    path.write_bytes(content(path.read_bytes()))
    finding = only(diagnose(), f"unreadable-{kind}")
    assert finding.files == [str(path)]
    assert says in finding.what


def test_a_mask_of_another_size(project: Path) -> None:
    image.write_mask("train/masks/0.png", labels(0, (24, 32)))
    image.write_mask("val/masks/100.png", labels(100).T)
    report = diagnose()
    assert kinds(report) == ["mask-transposed", "size-mismatch"]
    assert "24 x 32 for 48 x 64" in only(report, "size-mismatch").what


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """Return a JPEG with an EXIF block that holds an orientation."""
    exif = (
        b"Exif\0\0" + b"MM\0*" + struct.pack(">IH", 8, 1) + struct.pack(">HHIHH", 274, 3, 1, orientation, 0) + bytes(4)
    )
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


@pytest.mark.parametrize(("orientation", "kind"), [(6, "mask-not-turned"), (3, "exif-orientation")])
def test_an_image_turned_by_exif(project: Path, orientation: int, kind: str) -> None:
    Path("train/images/0.png").unlink()
    jpeg = cv2.imencode(".jpg", picture(0))[1].tobytes()
    Path("train/images/0.jpg").write_bytes(with_orientation(jpeg, orientation))
    finding = only(diagnose(), kind)
    assert finding.files[0].endswith(("0.jpg", "0.png"))


def test_transparent_deep_grey_and_tiny_images(project: Path) -> None:
    cv2.imwrite("train/images/0.png", np.dstack([picture(0), np.full(SIZE, 128, np.uint8)]))
    cv2.imwrite("train/images/1.png", picture(1).astype(np.uint16) * 257)
    cv2.imwrite("train/images/2.png", picture(2)[..., 0])
    image.write("train/images/3.png", picture(3, (1, 1)))
    image.write_mask("train/masks/3.png", np.zeros((1, 1), np.int64))
    image.write("train/images/4.png", picture(4, (12, 16)))
    image.write_mask("train/masks/4.png", labels(4, (12, 16)))
    report = diagnose()
    assert kinds(report, "error") == ["one-pixel-images"]
    assert kinds(report, "warning") == ["deep-images", "small-images", "transparent-images"]
    assert only(report, "grey-and-colour").files == ["train/images/2.png"]


def test_a_jpeg_that_is_called_png(project: Path) -> None:
    Path("train/images/0.png").write_bytes(cv2.imencode(".jpg", picture(0))[1].tobytes())
    assert only(diagnose(), "wrong-suffix").files == ["train/images/0.png"]


# ---------------------------------------------------------------- pairs, copies


def test_images_and_masks_without_a_partner(project: Path) -> None:
    Path("train/masks/0.png").unlink()
    Path("val/images/101.png").unlink()
    report = diagnose()
    assert only(report, "images-without-mask").files == ["train/images/0.png"]
    assert only(report, "masks-without-image").files == ["val/masks/101.png"]
    assert [row.sound for row in report.rows] == [5, 5]


def test_names_that_differ_in_case(project: Path) -> None:
    Path("train/images/0.png").rename("train/images/a.png")
    Path("train/masks/0.png").rename("train/masks/A.png")
    assert kinds(diagnose()) == ["case-differs"]


@pytest.mark.parametrize(("own", "end"), [("", "_mask.png"), ("_rgb", "_labels.png"), ("", ".tif")])
def test_masks_of_another_name_are_found(project: Path, own: str, end: str) -> None:
    for path in Path().glob("*/images/*.png"):
        path.rename(path.with_name(f"{path.stem}{own}.png"))
    for path in Path().glob("*/masks/*.png"):
        mask = image.read_mask(path)
        path.unlink()
        cv2.imwrite(str(path.with_name(path.stem + end)), mask)
    findings = [f for f in diagnose().findings if f.fix]
    assert len(findings) == 2
    lines = "\n".join(findings[0].fix.splitlines() + findings[1].fix.splitlines()[1:])
    Path("fixed.yaml").write_text(f"_base_: c.yaml\n{lines}\n")
    assert diagnose(config="./fixed.yaml").findings == []


def test_duplicate_images(project: Path) -> None:
    for kind in ("images", "masks"):
        Path(f"train/{kind}/again.png").write_bytes(Path(f"train/{kind}/0.png").read_bytes())
    assert kinds(diagnose()) == ["duplicates"]
    image.write_mask("train/masks/again.png", labels(1))
    assert kinds(diagnose()) == ["contradicting-duplicates"]


def test_an_image_in_two_sets(project: Path) -> None:
    image.write("val/images/100.png", picture(0))
    finding = only(diagnose(), "leak")
    assert finding.severity == "error"
    assert finding.files == ["train/images/0.png = val/images/100.png"]


def test_near_duplicates_in_two_sets(project: Path) -> None:
    again = cv2.imencode(".jpg", np.clip(picture(0).astype(int) + 1, 0, 255).astype(np.uint8)[..., ::-1], [1, 90])[1]
    Path("val/images/100.png").unlink()
    Path("val/images/100.jpg").write_bytes(again.tobytes())
    assert kinds(diagnose()) == ["near-leak"]


def test_all_near_duplicates_are_found_that_comparing_all_pairs_finds(project: Path) -> None:
    for seed in range(40):
        noise = np.random.default_rng(seed).normal(0, 4, (*SIZE, 3))
        image.write(f"train/images/n{seed}.png", np.clip(picture(seed % 10) + noise, 0, 255).astype(np.uint8))
        image.write_mask(f"train/masks/n{seed}.png", labels(seed))
    inspected = inspect(parts_of_config(load_config("c.yaml")), 0)
    found = near_duplicates(inspected)
    places = [(s, i) for s, (_, samples) in enumerate(inspected) for i in range(len(samples))]
    thumbs = {
        p: np.frombuffer(inspected[p[0]][1][p[1]].image.thumbnail, np.uint8).reshape(16, 17).astype(int) for p in places
    }
    bits = {place: thumb[:, 1:] > thumb[:, :-1] + 2 for place, thumb in thumbs.items()}
    expected = [
        (a, b)
        for number, a in enumerate(places)
        for b in places[number + 1 :]
        if (bits[a] != bits[b]).sum() <= 10 and np.abs(thumbs[a] - thumbs[b]).mean() <= 6
    ]
    assert set(found) <= set(expected)
    assert {(a[0], b) for a, b in found} == {(a[0], b) for a, b in expected}  # each with one of each set is enough
    assert len(found) > 20


# ---------------------------------------------------------------- lists of classes


def test_classes_in_another_order_than_the_source_says(project: Path) -> None:
    Path("train/labelmap.txt").write_text("# label:color:parts:actions\nsky:0,0,255::\nground:9,9,9::\nwall:1,2,3::\n")
    finding = only(diagnose(), "class-order")
    assert "class 0 is 'ground', there 'sky'" in finding.what
    assert fixed(finding).findings == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "ground\nsky\nwall\n"),
        ("labels.txt", "1: ground\n2: sky\n3: wall\n"),
        ("dataset.json", '{"labels": {"0": "background", "1": "ground", "2": "sky", "3": "wall"}}'),
        ("classes.json", '{"classes": ["ground", "sky", "wall"]}'),
        ("objectInfo150.txt", "Idx\tName\n1\tground, earth\n2\tsky\n3\twall\n"),
        ("class_dict.csv", "name,r,g,b\nground,1,2,3\nsky,4,5,6\nwall,7,8,9\n"),
        ("labels.py", "Label(  'ground'  ,  7 ,  0)\nLabel('sky', 8, 1, 'x')\nLabel('wall', 9, 2)\nLabel('v',0,-1)"),
    ],
)  # fmt: skip
def test_lists_that_agree(project: Path, name: str, text: str) -> None:
    Path("train", name).write_text(text)
    assert [names[0] for _, names in read_list(Path("train", name))][-3:] == CLASSES
    assert diagnose().findings == []
    write_config(project, classes=["ground", "skye", "wall"])
    assert "class-names" in kinds(diagnose())


# ---------------------------------------------------------------- targets, command


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def test_the_command_ends_with_1_when_there_is_an_error(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "check", "c.yaml") == 0
    image.write_mask("train/masks/0.png", np.full(SIZE, 9))
    assert run("data", "check", "c.yaml", "--write-split", "good.txt") == 1
    out = capsys.readouterr().out
    assert "ERROR  train, val: values 9 do not belong to any of the 3 classes" in out
    assert Path("good_train.txt").read_text().split() == ["0", "1", "2", "3", "4", "5"]


def test_json(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("train/masks/0.png").unlink()
    assert run("data", "check", "c.yaml", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["findings"][0]["kind"] == "images-without-mask"
    assert found["sets"][1]["set"] == "val"


def test_two_folders_and_a_class(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = ("--images", "train/images", "--masks", "train/masks")
    assert run("data", "check", *folders, "--classes", "ground,sky,wall") == 0
    assert run("data", "check", *folders, "--classes", "ground,sky", "ignore=[2]") == 0
    assert run("data", "check", "--type", "FolderDataset", "--root", "train", "images=images", "masks=masks") == 1
    assert run("data", "check", "c.yaml", "--type", "CamVid") == 2
    assert run("data", "check", "--type", "CamVib", "--root", "x") == 2
    assert run("data", "check") == 2


def test_a_type_with_splits_gives_each(project: Path) -> None:
    for split in ("train", "val", "test"):
        Path("c").mkdir(exist_ok=True)
        Path(split).mkdir(exist_ok=True)
    Path("train/images").rename("c/train")
    Path("train/masks").rename("c/trainannot")
    parts = parts_of_type("CamVid", "c", {})
    assert [part.name for part in parts] == ["train", "val", "test"]
    assert len(parts[0].pairs) == COUNT
    assert "no such folder" in parts[1].problem


def test_wrapped_data_sets_are_inspected(project: Path) -> None:
    content = yaml.safe_load(Path("c.yaml").read_text())
    content["data"] = {"train": {"type": "ConcatDataset", "datasets": list(content["data"].values())}}
    Path("c.yaml").write_text(yaml.safe_dump(content))
    each_mask(lambda mask: mask + 1)
    finding = only(diagnose(), "shifted-by-one")
    assert finding.where == "train[0], train[1]"
    assert "# in place of data.train.datasets[0]" in finding.fix


class Strange:
    """A data set that is no list of files."""

    classes, palette = ("a", "b"), ((0, 0, 0), (1, 1, 1))

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        from segkernel.sample import LabelMap, Sample

        if index == 1:
            raise DataError("no such slice", "volume.npy")
        seg = LabelMap(np.eye(20, dtype=np.uint8))
        return Sample(image=np.random.default_rng(index).random((20, 20, 5)).astype(np.float32), fields={"seg": seg})


def test_any_data_set_is_asked_for_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = parts_of_config({"data": {"train": {"type": Strange}}})
    report = check(inspect(parts, 0))
    assert kinds(report) == ["refused-samples"]
    assert report.rows[0].occurring == 2


def test_a_config_without_data_is_refused() -> None:
    with pytest.raises(UsageError, match="no data sets"):
        parts_of_config({})


# ---------------------------------------------------------------- what files say of themselves


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".webp"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_headers(suffix: str, channels: int) -> None:
    if channels == 4 and suffix == ".jpg":
        pytest.skip("JPEG has no alpha")
    data = cv2.imencode(suffix, np.full((30, 20, channels), 90, np.uint8))[1].tobytes()
    header = read_header(data)
    assert header.size == (30, 20)
    assert header.depth == 8
    if suffix != ".webp":
        assert header.channels == channels
    assert header.alpha == (channels == 4) or suffix in (".webp", ".tif")  # extra bands of a TIFF may be anything
    assert header.orientation == 1


def test_headers_of_deep_and_damaged_files() -> None:
    deep = np.full((5, 4), 9, np.uint16)
    assert read_header(cv2.imencode(".png", deep)[1].tobytes()).depth == 16
    assert read_header(cv2.imencode(".tif", deep)[1].tobytes()).depth == 16
    assert read_header(cv2.imencode(".tif", deep.astype(np.float32))[1].tobytes()).floating
    for start in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"II*\0", b"BM", b"RIFF", b""):
        assert read_header(start + b"\xff" * 9).size == (0, 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_moments(dtype: Any) -> None:
    pixels = (np.random.default_rng(0).random((33, 44, 5)) * 255).astype(dtype)
    sums, squares = moments(pixels)
    np.testing.assert_allclose(sums, pixels.astype(np.float64).sum((0, 1)), rtol=1e-12)
    np.testing.assert_allclose(squares, (pixels.astype(np.float64) ** 2).sum((0, 1)), rtol=1e-12)


# ---------------------------------------------------------------- lines are tried before they are proposed


def one_folder(project: Path, end: str = "_mask") -> None:
    """Put the images and masks of each set into one folder."""
    for part in ("train", "val"):
        for path in Path(part).glob("*/*.png"):
            target = Path(part, "all", path.stem + (end if path.parent.name == "masks" else "") + ".png")
            target.parent.mkdir(exist_ok=True)
            path.rename(target)


@pytest.mark.parametrize("end", ["_mask", ".label", "-seg_1"])
def test_images_and_masks_in_one_folder(project: Path, end: str) -> None:
    one_folder(project, end)
    write_config(project, images="all", masks="all", mask_suffix=f"{end}.png")
    assert diagnose().findings == []
    write_config(project, images="all", masks="all")
    finding = only(diagnose(), "masks-without-image")
    assert yaml.safe_load(finding.fix)["data"] == {"train": {"mask_suffix": f"{end}.png"}}
    both = "".join(f.fix.removeprefix("data:") for f in diagnose().findings if f.fix)
    Path("fixed.yaml").write_text(f"_base_: c.yaml\ndata:{both}\n")
    assert diagnose(config="./fixed.yaml").findings == []


def test_jpegs_and_masks_in_one_folder(project: Path) -> None:
    for seed in range(COUNT):
        image.write(f"both/{seed}.jpg", picture(seed))
        image.write_mask(f"both/{seed}.png", labels(seed))
    report = check(inspect(parts_of_folders("both", "both", CLASSES, {}), 0))
    assert report.findings == []
    assert [(row.images, row.masks, row.occurring) for row in report.rows] == [(6, 6, 3)]


def test_names_that_differ_at_the_beginning_lead_to_a_list(project: Path) -> None:
    for path in Path("train/masks").iterdir():
        path.rename(path.with_name(f"mask_{path.name}"))
    assert "write a list with 'image mask' per line" in only(diagnose(), "images-without-mask").why


def test_masks_below_the_images(project: Path) -> None:
    for part in ("train", "val"):
        Path(part, "masks").rename(Path(part, "images/masks"))
    write_config(project, masks="images/masks")
    assert diagnose().findings == []


def test_no_image_is_proposed_as_its_own_mask(project: Path) -> None:
    write_config(project, masks="images", mask_suffix="_mask.png")
    report = diagnose()
    assert report.failed
    assert not any(finding.fix for finding in report.findings)


def test_lines_that_leave_one_class_are_not_proposed(project: Path) -> None:
    each_mask(lambda mask: np.where(mask > 0, 200, 0).astype(np.uint8))
    finding = only(diagnose(), "labels-out-of-range")
    assert not finding.fix
    assert "these lines" not in diagnose().text()


def test_lines_that_do_not_read_the_masks_are_not_proposed(project: Path) -> None:
    (project / "train/classes.txt").write_text("ground\nsky\nwall\nwall\n")
    assert not any(finding.fix for finding in diagnose().findings)
