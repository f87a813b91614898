"""Label maps as answers are exact in every format."""

from __future__ import annotations

import zlib
from itertools import pairwise

import cv2
import numpy as np
import pytest

from segkernel.labels import Labels
from segplug_deploy.serve.encode import coco_rle, encode, png, polygons, shares
from segplug_deploy.serve.refusal import Refusal

MAPS = {
    "noise": np.random.default_rng(0).integers(0, 3, (37, 53)).astype(np.uint8),
    "blobs": (cv2.GaussianBlur(np.random.default_rng(1).random((64, 48)), (0, 0), 4) * 40).astype(np.uint8) % 3,
    "one pixel": np.ones((1, 1), np.uint8),
    "one row": np.array([[0, 1, 1, 0, 2]], np.uint8),
    "one class": np.full((5, 7), 2, np.uint8),
    "nested": np.pad(np.pad(np.pad(np.zeros((1, 1), np.uint8), 1, constant_values=1), 2), 1, constant_values=1),
}
KNOWN = Labels(("a", "b", "c"), ((1, 2, 3), (40, 50, 60), (200, 210, 220)))


@pytest.mark.parametrize("labels", MAPS.values(), ids=MAPS)
def test_a_png_has_the_ids_as_values_and_shows_the_colours(labels: np.ndarray) -> None:
    data = png(labels, KNOWN.palette)
    colors = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert (colors == np.array(KNOWN.palette, np.uint8)[labels]).all()
    start = data.index(b"IDAT") + 4
    rows = np.frombuffer(zlib.decompress(data[start:-16]), np.uint8).reshape(labels.shape[0], -1)
    assert (rows[:, 1:] == labels).all()


@pytest.mark.parametrize("labels", MAPS.values(), ids=MAPS)
def test_run_lengths_are_those_that_coco_defines(labels: np.ndarray) -> None:
    for index in range(3):
        rle = coco_rle(labels == index)
        assert rle["size"] == [*labels.shape]
        runs = numbers_of(rle["counts"])
        column_wise = np.repeat(np.arange(len(runs)) % 2, runs)
        assert ((labels == index) == column_wise.reshape(labels.shape[::-1]).T).all()


def numbers_of(text: str) -> list[int]:
    """Decode COCO's compressed counts as its C code does, character by character."""
    numbers: list[int] = []
    place = value = 0
    for character in text:
        code = ord(character) - 48
        value |= (code & 31) << 5 * place
        place += 1
        if not code & 32:
            value -= (1 << 5 * place) if code & 16 else 0
            numbers.append(value + numbers[-2] if len(numbers) > 2 else value)
            place = value = 0
    return numbers


@pytest.mark.parametrize("labels", MAPS.values(), ids=MAPS)
def test_polygons_enclose_exactly_the_pixels_of_a_class(labels: np.ndarray) -> None:
    for index in range(3):
        shape = polygons(labels == index)
        assert (filled(shape["coordinates"], labels.shape) == (labels == index)).all()
        rings = [ring for polygon in shape["coordinates"] for ring in polygon]
        assert all(ring[0] == ring[-1] for ring in rings)


def filled(coordinates: list, size: tuple[int, int]) -> np.ndarray:
    """Return the mask inside polygons whose edges lie between pixels."""
    crossed = np.zeros((size[0], size[1] + 1), np.uint8)
    for ring in (ring for polygon in coordinates for ring in polygon):
        for (x, y), (next_x, next_y) in pairwise(ring):
            assert x == next_x or y == next_y
            if x == next_x:
                crossed[min(y, next_y) : max(y, next_y), x] ^= 1
    return np.bitwise_xor.accumulate(crossed, 1)[:, :-1].astype(bool)


def test_a_hole_belongs_to_the_polygon_around_it() -> None:
    labels = MAPS["nested"]
    counts = [len(polygon) for polygon in polygons(labels == 1)["coordinates"]]
    assert sorted(counts) == [2, 2]


def test_too_many_polygons_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segplug_deploy.serve.encode.MOST_RINGS", 3)
    assert polygons(MAPS["one class"] == 2)["coordinates"]
    with pytest.raises(Refusal, match="format=rle"):
        polygons(MAPS["noise"] == 0)


def test_shares_are_of_the_classes_that_occur() -> None:
    found = shares(np.array([[0, 2], [2, 2]], np.uint8), KNOWN)
    assert found == [
        {"id": 0, "name": "a", "color": [1, 2, 3], "pixels": 1, "share": 0.25},
        {"id": 2, "name": "c", "color": [200, 210, 220], "pixels": 3, "share": 0.75},
    ]


@pytest.mark.parametrize("kind", ["json", "rle", "polygons"])
def test_an_answer_in_json_names_model_and_size(kind: str) -> None:
    body, media_type = encode(MAPS["one row"], kind, "street", KNOWN)
    assert body.startswith(b'{"model":"street","height":1,"width":5,"classes":[{"id":0,"name":"a","color":[1,2,3]')
    assert media_type == "application/json"
