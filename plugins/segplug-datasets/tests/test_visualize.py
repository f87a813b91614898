"""`draw`: an image with ground truth, prediction, title and legend; and the hook that draws test images."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from segkernel import Evaluation, Runner
from segkernel.errors import UsageError
from segkernel.sample import LabelMap, Prediction, Sample, Targets
from segkernel.testing.toys import ToySegmentor
from segplug_datasets import PicturesHook, draw, image
from segplug_datasets.label_files import write_labels


def test_draw_takes_arrays_tensors_predictions_and_paths(
    tmp_path: Path, picture: np.ndarray, labels: np.ndarray
) -> None:
    image.write(tmp_path / "a.png", picture)
    tensor = torch.from_numpy(labels)
    drawn = draw(picture, labels)
    assert drawn.dtype == np.uint8
    assert np.array_equal(draw(tmp_path / "a.png", tensor), drawn)
    assert np.array_equal(draw(picture, Prediction({"seg": tensor})), drawn)


@pytest.mark.parametrize("shape", [(48, 64), (48, 64, 1)])
def test_draw_takes_grey_images(labels: np.ndarray, shape: tuple[int, ...]) -> None:
    assert draw(np.zeros(shape, np.uint8), labels).shape[1:] == (64, 3)


def test_ids_without_a_name_are_drawn_with_a_number(picture: np.ndarray) -> None:
    drawn = draw(picture, np.full((48, 64), 9), classes=["road"])
    assert len(drawn) > 48


def test_the_truth_stands_to_the_left_of_the_prediction(picture: np.ndarray, labels: np.ndarray) -> None:
    alone = draw(picture, labels)
    both = draw(picture, labels, truth=Targets({"seg": torch.from_numpy(labels)}), title="a street")
    assert both.shape[1] == 2 * alone.shape[1]
    assert both.shape[0] > alone.shape[0] - 60


def test_the_legend_shows_only_classes_that_occur(picture: np.ndarray) -> None:
    red, green = (250, 1, 2), (3, 250, 4)
    drawn = draw(picture, np.zeros((48, 64), int), classes=["road", "car"], palette=[red, green])
    colors = {tuple(color) for color in drawn[48:].reshape(-1, 3).tolist()}
    assert red in colors
    assert green not in colors


def test_a_background_is_not_painted(picture: np.ndarray) -> None:
    labels = np.zeros((48, 64), int)
    labels[:24] = 1
    palette = [(250, 1, 2), (3, 250, 4)]
    drawn = draw(picture, labels, classes=["Background", "car"], palette=palette, opacity=1.0)
    assert np.array_equal(drawn[24:48, :64], picture[24:])
    assert (drawn[:24, :64] == palette[1]).all()
    assert (draw(picture, labels, classes=["ground", "car"], palette=palette, opacity=1.0)[24:48] == palette[0]).all()


def test_light_colours_have_a_dark_border_in_the_legend(picture: np.ndarray) -> None:
    drawn = draw(picture, np.zeros((48, 64), int), classes=["snow"], palette=[(255, 255, 255)])
    assert drawn[48 + 6, 6:19].max() < 128
    assert (drawn[48 + 10, 8:17] == 255).all()


def test_draw_writes_its_image(tmp_path: Path, picture: np.ndarray, labels: np.ndarray) -> None:
    drawn = draw(picture, labels, out_file=tmp_path / "out/drawn.png")
    assert np.array_equal(image.read(tmp_path / "out/drawn.png"), drawn)


def test_draw_does_not_modify_its_inputs(picture: np.ndarray, labels: np.ndarray) -> None:
    before = picture.copy()
    draw(picture, labels, truth=labels, title="a street")
    assert np.array_equal(picture, before)


def test_all_ignored_labels_draw_the_image(picture: np.ndarray) -> None:
    assert np.array_equal(draw(picture, np.full((48, 64), 255)), picture)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere there always is a screen")
def test_showing_without_a_screen_is_refused(
    picture: np.ndarray, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(UsageError, match="no display"):
        draw(picture, labels, show=True)


def test_the_legend_lists_every_class_of_masks_that_overlap(picture: np.ndarray) -> None:
    under, over = (250, 1, 2), (3, 250, 4)
    drawn = draw(picture, np.ones((2, 48, 64), np.uint8), classes=["road", "car"], palette=[under, over])
    assert {under, over} <= {tuple(color) for color in drawn[48:].reshape(-1, 3).tolist()}


def test_binary_masks_are_written_in_a_folder_for_each_class(tmp_path: Path) -> None:
    planes = np.array([[[1, 1, 0, 255]], [[0, 1, 0, 0]]], np.uint8)
    write_labels(tmp_path, "x/one", planes, ["a", "b/c"])
    assert image.read_mask(tmp_path / "a" / "x" / "one.png").tolist() == [[1, 1, 0, 255]]
    assert image.read_mask(tmp_path / "b_c" / "x" / "one.png").tolist() == [[0, 1, 0, 0]]
    write_labels(tmp_path, "ids", planes[0], [])
    assert image.read_mask(tmp_path / "ids.png").tolist() == [[1, 1, 0, 255]]
    write_labels(tmp_path, "depths", np.array([[0.5, 99.0]], np.float32), [])
    assert image.read_mask(tmp_path / "depths.png").tolist() == [[500, 65535]]


# ---------------------------------------------------------------- the hook


class Squares:
    """Four noisy images of 40 x 48, 4 classes."""

    classes = ("a", "b", "c", "d")
    palette = ((200, 0, 0), (0, 200, 0), (0, 0, 200), (9, 9, 9))

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        pixels = np.random.default_rng(index).integers(0, 255, (40, 48, 3)).astype(np.uint8)
        return Sample({"seg": LabelMap(pixels[..., 0] % 4)}, {"name": f"square_{index}"}, pixels)


def draw_test_set(folder: Path, *hooks: PicturesHook) -> None:
    Runner(ToySegmentor(), test=Squares(), evaluation=Evaluation(), hooks=hooks, work_dir=folder / "run").run()


def test_the_hook_draws_the_first_images_of_a_test(tmp_path: Path) -> None:
    for interval, drawn in ((1, [0, 1]), (3, [0, 3]), (4, [0])):
        folder = tmp_path / str(interval)
        draw_test_set(folder, PicturesHook(count=2, interval=interval))
        assert sorted(path.stem for path in (folder / "run" / "pictures").iterdir()) == [f"square_{i}" for i in drawn]


def test_the_hook_draws_each_validation_on_request(tmp_path: Path) -> None:
    hooks = PicturesHook(count=2, interval=2, validation=True), PicturesHook()
    for name, hook in zip(("wanted", "default"), hooks):
        runner = Runner(ToySegmentor(), val=Squares(), test=Squares(), hooks=[hook], work_dir=tmp_path / name)
        runner.iteration = 20
        runner.validate()
        runner.close()
    drawn = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/pictures/**/*.png"))
    assert drawn == [f"wanted/pictures/val_0000020/square_{i}.png" for i in (0, 2)]


def test_the_hook_writes_every_picture_and_label_file_where_it_is_told(tmp_path: Path) -> None:
    draw_test_set(tmp_path, PicturesHook(0, tmp_path / "drawn", tmp_path / "labels"))
    names = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert len(names) == len(Squares())
    assert names == sorted(path.name for path in (tmp_path / "labels").iterdir())
    assert not (tmp_path / "run" / "pictures").exists()
    assert image.read_mask(tmp_path / "labels" / names[0]).shape == (40, 48)
    assert image.read(tmp_path / "drawn" / names[0]).shape[1] == 2 * 48


def test_the_truth_may_be_drawn_alone() -> None:
    picture, labels = np.zeros((48, 64, 3), np.uint8), np.ones((48, 64), int)
    assert draw(picture, None, labels).shape[1] == 64
    with pytest.raises(UsageError, match="a prediction, a truth, or both"):
        draw(picture, None)
