"""Unusable images and masks."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from segplug_datasets import image

CHANGES = {
    "an image is missing": (lambda: Path("images/1.png").unlink(), "no image in images: 1"),
    "a mask is missing": (lambda: Path("masks/1.png").unlink(), "without a mask NAME.png in masks: 1"),
    "an image is cut short": (lambda: cut("images/1.png"), "images/1.png: the file is cut short"),
    "a mask is cut short": (lambda: cut("masks/1.png"), "masks/1.png: the file is cut short"),
    "an image is text": (lambda: Path("images/1.png").write_text("hello"), "images/1.png: not an image"),
    "an image is empty": (lambda: Path("images/1.png").write_bytes(b""), "images/1.png: the file is empty"),
    "a mask is of another size": (
        lambda: image.write_mask("masks/1.png", np.zeros((9, 7), np.uint8)),
        "masks/1.png: a mask of 9 x 7 for an image of 32 x 48 pixels: images/1.png",
    ),
    "a label is none of the classes": (
        lambda: image.write_mask("masks/1.png", np.full((32, 48), 7, np.uint8)),
        "masks/1.png: label values 7 are outside the 3 classes",
    ),
    "a mask is in colour": (
        lambda: cv2.imwrite("masks/1.png", np.full((32, 48, 4), (9, 8, 7, 255), np.uint8)),
        "masks/1.png: the mask has colours",
    ),
    "there is no such folder": (lambda: shutil.rmtree("images"), "images: no such folder"),
    "a folder is empty": (lambda: (shutil.rmtree("images"), Path("images").mkdir()), "images: no file here ends in"),
    "a folder is a file": (lambda: (shutil.rmtree("images"), Path("images").touch()), "images: not a folder"),
}


def cut(path: str) -> None:
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("case", CHANGES)
def test_a_run_names_the_unusable_file(project, seg_kernel, case):
    change, message = CHANGES[case]
    change()
    seg_kernel("run", "tiny.yaml").must_fail(1, message)


@pytest.mark.parametrize("case", CHANGES)
def test_a_test_names_the_unusable_file(trained, seg_kernel, case):
    change, message = CHANGES[case]
    change()
    seg_kernel("test", "tiny.yaml", trained, "--work-dir", "test").must_fail(1, message)


def test_training_stops_when_nothing_can_be_read(project, seg_kernel):
    for path in Path("images").iterdir():
        path.write_text("hello")
    message = seg_kernel("run", "tiny.yaml", "schedule.val_interval=null").must_fail(1, "10 samples in a row")
    assert message.count("images/1.png") == 1


def test_the_checkpoint_is_kept_when_validation_cannot_read_a_file(project, seg_kernel):
    whole = Path("images/1.png").read_bytes()
    cut("images/1.png")
    seg_kernel("run", "tiny.yaml").must_fail(1, "images/1.png")
    assert Path("run/checkpoints/iter_0000002.pt").exists()
    Path("images/1.png").write_bytes(whole)
    assert seg_kernel("run", "tiny.yaml", "--resume").code == 0
    assert Path("run/checkpoints/best_mIoU_iter_0000002.pt").exists()


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_images_are_read_as_rgb(project, seg_kernel, channels):
    cv2.imwrite("images/1.png", np.full((32, 48, channels), 90, np.uint8))
    assert seg_kernel("run", "tiny.yaml").code == 0


def test_a_grey_mask_saved_in_colour_is_read(project, seg_kernel):
    cv2.imwrite("masks/1.png", np.ones((32, 48, 3), np.uint8))
    assert seg_kernel("run", "tiny.yaml").code == 0


def test_images_of_different_sizes_are_batched(project, seg_kernel, tiny):
    tiny.write_pair(project, "other", (64, 40))
    assert seg_kernel("run", "tiny.yaml").code == 0


def test_a_crop_larger_than_the_images_is_accepted(project, seg_kernel):
    crop = "data.train_transforms=[{type: RandomCrop, crop_size: [64, 96]}]"
    assert seg_kernel("run", "tiny.yaml", crop).code == 0


def test_an_empty_list_of_names_is_refused(project, seg_kernel):
    Path("empty.txt").touch()
    seg_kernel("run", "tiny.yaml", "+data.val.split=empty.txt").must_fail(1, "empty.txt: the list of names is empty")


def test_a_set_without_masks_is_not_evaluated(trained, seg_kernel):
    done = seg_kernel("test", "tiny.yaml", trained, "~data.test.masks", "--work-dir", "test")
    done.must_fail(1, "images/0.png", "evaluate.format_only: true")
