"""``data stats`` and ``data browse``: statistics against values computed by hand; the sheet shows training samples."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from segkernel.cli import main
from segkernel.config import load_config
from segkernel.errors import DataError
from segkernel.labels import IGNORE
from segkernel.sample import Sample
from segplug_datasets import image
from segplug_datasets.change import BaseCDDataset
from segplug_datasets.doctor import inspect, parts_of_config
from segplug_datasets.doctor.contact_sheet import HEIGHT, hatched, rows
from segplug_datasets.doctor.stats import DatasetStats, class_weights, measure
from segplug_datasets.files import FolderDataset

CLASSES = ["ground", "sky", "wall"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, entered, with images of different sizes, masks without the third class, and a config."""
    monkeypatch.chdir(tmp_path)
    for seed in range(5):
        rng, size = np.random.default_rng(seed), (20 + seed, 30)
        image.write(f"images/{seed}.png", rng.integers(0, 256, (*size, 3), np.uint8))
        image.write_mask(f"masks/{seed}.png", np.full(size, 0 if seed else 1) + 255 * (np.arange(30) > 20) * (seed > 3))
    sets = {"type": "FolderDataset", "images": "images", "masks": "masks", "classes": CLASSES}
    transforms = [{"type": "RandomCrop", "crop_size": [16, 16]}, {"type": "RandomFlip", "prob": 0.5}]
    config = {"data": {"train": sets, "train_transforms": transforms}, "seed": 3}
    Path("c.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


# ---------------------------------------------------------------- stats


def test_mean_and_deviation_are_those_of_all_pixels(project: Path) -> None:
    (stats,) = measure(inspect(parts_of_config(load_config("c.yaml")), 0))
    pixels = np.concatenate([image.read(f"images/{seed}.png").reshape(-1, 3) for seed in range(5)]).astype(np.float64)
    np.testing.assert_allclose(stats.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(stats.std, pixels.std(0), rtol=1e-12)


def test_pixels_images_and_sizes(project: Path) -> None:
    (stats,) = measure(inspect(parts_of_config(load_config("c.yaml")), 0))
    assert stats.pixels == {1: 20 * 30, 0: (21 + 22 + 23) * 30 + 24 * 21, IGNORE: 24 * 9}
    assert stats.images_with == {1: 1, 0: 4}
    assert stats.share(1) == 600 / (600 + 1980 + 504)
    assert stats.heights == [20, 21, 22, 23, 24]


def test_weights_are_those_of_the_papers() -> None:
    stats = DatasetStats("train", ("a", "b", "c"), pixels=Counter({0: 600, 1: 300, IGNORE: 100}))
    stats.images_with, stats.pixels_with = Counter({0: 10, 1: 2}), Counter({0: 900, 1: 500})
    weights = class_weights(stats)
    assert weights["median_frequency"] == [
        round((2 / 3 + 0.6) / 2 / (2 / 3), 4),
        round((2 / 3 + 0.6) / 2 / 0.6, 4),
        1.0,
    ]
    assert weights["enet"] == [round(1 / math.log(1.02 + 2 / 3), 4), round(1 / math.log(1.02 + 1 / 3), 4), 1.0]
    raw = [(2 / 3) ** -0.5, (1 / 3) ** -0.5]
    assert weights["inverse_sqrt"] == [*(round(value * 2 / sum(raw), 4) for value in raw), 1.0]
    raw = [0.001 / (1 - 0.999**n) for n in (10, 2)]
    assert weights["effective_number"] == [*(round(value * 2 / sum(raw), 4) for value in raw), 1.0]


def test_samples_that_cannot_be_read_are_left_out(project: Path) -> None:
    Path("images/2.png").write_bytes(b"")
    (stats,) = measure(inspect(parts_of_config(load_config("c.yaml")), 0))
    assert (stats.images, stats.unreadable) == (4, 1)
    for path in Path("images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="no sample of train can be read"):
        measure(inspect(parts_of_config(load_config("c.yaml")), 0))


def test_the_command_prints_lines_that_a_config_takes(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "stats", "c.yaml", "--weights", "enet") == 0
    out = capsys.readouterr().out
    assert "(ignored)" in out
    lines = yaml.safe_load(out[out.index("# from train") :])
    assert len(lines["data"]["preprocess"]["mean"]) == 3
    assert len(lines["model"]["decode_head"]["loss_decode"]["class_weight"]) == 3


def test_json_and_images_alone(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "stats", "c.yaml", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["classes"][1]["images"] == 1
    assert found["height"] == [20, 22, 24]
    assert run("data", "stats", "--images", "images") == 0
    assert "class_weight" not in capsys.readouterr().out
    assert run("data", "stats", "c.yaml", "--set", "val") == 2


class Bands:
    """Images of five bands of 16 bits."""

    classes, palette = ("a",), ((0, 0, 0),)

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        return Sample(
            image=np.full((4, 4, 5 if index < 2 else 4), [1000 * index] * 4 + [65535] * (index < 2), np.uint16)
        )


def test_any_number_of_bands() -> None:
    parts = parts_of_config({"data": {"train": {"type": Bands}}})
    inspected = inspect(parts, 0)
    with pytest.raises(DataError, match="4 or 5 bands"):
        measure(inspected)
    (stats,) = measure([(parts[0], inspected[0][1][:2])])
    assert stats.mean == (500, 500, 500, 500, 65535)
    assert stats.std == (500, 500, 500, 500, 0)


# ---------------------------------------------------------------- browse


def test_a_page_contains_everything(project: Path) -> None:
    Path("images/1.png").write_bytes(b"")
    assert run("data", "browse", "c.yaml", "--out", "new/sheet.html", "--number", "3") == 0
    page = Path("new/sheet.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 3 * 2, "each panel is a picture, so that a phone can stack them"
    assert {"ground", "sky"} <= set(re.findall(r"</i>(\w+)</span>", page)), "the legend"
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    assert run("data", "browse", "c.yaml", "--out", "new/sheet.html") == 0
    assert "images/1.png: the file is empty" in Path("new/sheet.html").read_text()


def test_a_folder_contains_an_image_per_sample(project: Path) -> None:
    pytest.importorskip("torch")
    assert run("data", "browse", "c.yaml", "--out", "pictures", "--number", "2", "--augmented", "2") == 0
    pictures = sorted(Path("pictures").iterdir())
    assert [path.name for path in pictures] == ["000_0.png", "001_4.png"]
    first = image.read(pictures[0])
    assert first.shape[1] == 2 * 360 + 2 * HEIGHT + 3 * 4
    assert first.shape[0] > HEIGHT  # the legend
    np.testing.assert_array_equal(first[:HEIGHT, :360:12][::12], image.read("images/0.png"))


def test_augmented_versions_equal_those_of_training(project: Path) -> None:
    pytest.importorskip("torch")
    from segkernel import build
    from segkernel.data import Loader
    from segplug_datasets.doctor.contact_sheet import _augmented

    dataset = FolderDataset("images", "masks", CLASSES)
    transforms = [build("transforms", {"type": "RandomCrop", "crop_size": [8, 8]})]
    seen = Loader(dataset, transforms, seed=3).train_batches()
    trained = [next(seen) for _ in range(10)]  # two epochs
    expected = [b.images[0].permute(1, 2, 0).numpy() for b in trained if b.meta[0]["name"] == "2"]
    found = _augmented(dataset, transforms, 2, 2, 3)
    assert len(found) == len(expected) == 2
    for (pixels, _), batch in zip(found, expected):
        np.testing.assert_array_equal(pixels, batch)


def test_all_fields_are_shown_below_each_other(project: Path) -> None:
    Path("other").mkdir()
    for number in range(5):
        image.write_mask(f"other/{number}.png", np.full(image.read(f"images/{number}.png").shape[:2], 0, np.uint8))
    masks = {"seg": {"path": "masks", "classes": CLASSES}, "material": {"path": "other", "classes": ["wood", "stone"]}}
    dataset = FolderDataset("images", masks)
    one, (row, *_) = next(rows(FolderDataset("images", "masks", CLASSES), number=1)), rows(dataset, number=1)
    assert row.caption == f"{one.caption}, from top to bottom: seg, material"
    np.testing.assert_array_equal(row.picture[: len(one.picture)], one.picture)
    second = row.picture[len(one.picture) :]
    np.testing.assert_array_equal(second[:HEIGHT, :360], one.picture[:HEIGHT, :360])
    assert (second[:HEIGHT, 364:724] != one.picture[:HEIGHT, 364:724]).any()
    assert len(second) > HEIGHT  # a legend of its own


def test_both_images_of_a_pair_are_shown(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from segkernel import build

    for folder, value in (("A", 10), ("B", 200)):
        image.write(tmp_path / folder / "0.png", np.full((HEIGHT, HEIGHT, 3), value, np.uint8))
    image.write_mask(tmp_path / "label" / "0.png", np.zeros((HEIGHT, HEIGHT), np.uint8))
    dataset = BaseCDDataset(tmp_path, img_suffix=".png")
    (row,) = rows(dataset, [build("transforms", {"type": "ConcatCDInput"})], augmented=1)
    assert row.picture is not None
    step = HEIGHT + 4
    assert row.picture.shape[1] == 5 * step - 4  # before, after, labels over after, and both as training sees them
    assert [row.picture[0, place * step, 0] for place in (0, 1)] == [10, 200]
    assert [row.picture[0, place * step, 0] > 90 for place in (2, 3, 4)] == [True, False, True]


def test_augmented_versions_need_a_config(project: Path) -> None:
    arguments: tuple[Any, ...] = ("--images", "images", "--out", "x.html", "--augmented", 1)
    assert run("data", "browse", *arguments) == 2
    assert run("data", "browse", "c.yaml", "--set", "val", "--out", "x.html") == 2
    assert run("data", "browse", "--images", "images", "--out", "x.html") == 0


def test_any_image_can_be_shown() -> None:
    deep = np.linspace(100, 4000, 400).reshape(20, 20, 1).astype(np.uint16)
    seen = image.as_rgb(np.repeat(deep, 5, 2))
    assert seen.shape == (20, 20, 3)
    assert seen.min() == 0
    assert seen.max() == 255


def test_ignored_pixels_are_hatched() -> None:
    grey, labels = np.full((16, 16, 3), 90, np.uint8), np.zeros((16, 16), np.uint8)
    labels[:8] = IGNORE
    drawn = hatched(grey, labels)
    assert (drawn[8:] == 90).all()
    assert 0.2 < (drawn[:8] == 255).mean() < 0.3


def test_an_empty_set_has_no_rows() -> None:
    with pytest.raises(DataError, match="empty"):
        list(rows([]))


def test_rows_have_captions(project: Path) -> None:
    (row,) = rows(FolderDataset("images", "masks", CLASSES), number=1)
    assert row.name == "0"
    assert "20 x 30, 3 bands uint8" in row.caption
