"""Rasterization of outlines and run lengths, against cases counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from segkernel.errors import DataError
from segplug_datasets.annotations.raster import (
    Region,
    as_points,
    ellipse,
    line,
    polygon,
    rectangle,
    union,
)
from segplug_datasets.annotations.rle import counts_of_text, from_coco, from_cvat, from_label_studio

SIZE = (6, 8)


def picture(region: Region, size: tuple[int, int] = SIZE) -> list[str]:
    canvas = np.zeros(size, np.uint8)
    region.paint(canvas, 1)
    return ["".join(".#"[value] for value in row) for row in canvas]


def points(*pairs: tuple[float, float]) -> np.ndarray:
    return np.array(pairs, np.float64)


# ---------------------------------------------------------------- polygons


def test_a_square_contains_pixels_whose_centres_are_inside() -> None:
    square = polygon(points((1, 1), (4, 1), (4, 4), (1, 4)), SIZE)
    assert picture(square) == ["........", ".###....", ".###....", ".###....", "........", "........"]
    assert square.area == 9


def test_the_same_square_with_its_outline() -> None:
    square = polygon(points((1, 1), (4, 1), (4, 4), (1, 4)), SIZE, "outline")
    assert picture(square) == ["........", ".####...", ".####...", ".####...", ".####...", "........"]


def test_a_triangle() -> None:
    # The slope crosses the centre of row r at x = r + 0.5: centres from there on are inside.
    assert picture(polygon(points((0, 0), (4, 0), (4, 4)), SIZE))[:5] == [
        *("####....", ".###....", "..##....", "...#....", "........")
    ]


def test_an_outline_that_crosses_itself_is_even_odd() -> None:
    pentagram = polygon(points((0, 0), (6, 0), (6, 6), (0, 6), (0, 0), (2, 2), (4, 2), (4, 4), (2, 4), (2, 2)), SIZE)
    assert picture(pentagram)[2:4] == ["##..##..", "##..##.."]


def test_corners_outside_are_cut_off() -> None:
    assert picture(polygon(points((-9, -9), (2, -9), (2, 99), (-9, 99)), SIZE)) == ["##......"] * 6
    assert picture(polygon(points((-1e300, -9), (1e300, -9), (1e300, 99), (-1e300, 99)), SIZE)) == ["########"] * 6
    for rule in ("area", "outline"):
        assert polygon(points((20, 20), (30, 20), (30, 30)), SIZE, rule).area == 0  # type: ignore[arg-type]


def test_polygons_without_area() -> None:
    assert polygon(points((1, 1), (5, 5)), SIZE).area == 0
    assert polygon(np.zeros((0, 2)), SIZE, "outline").area == 0
    assert polygon(points((2, 2), (2.4, 2), (2.4, 2.4)), SIZE).area == 0


def test_neighbours_neither_overlap_nor_leave_gaps() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        corners, middle = points((0, 0), (8, 0), (8, 6), (0, 6)), rng.uniform((0, 0), (8, 6))
        count = np.zeros(SIZE, int)
        for first, second in zip(corners, np.roll(corners, -1, 0)):
            canvas = np.zeros(SIZE, np.uint8)
            polygon(np.stack([first, second, middle]), SIZE).paint(canvas, 1)
            count += canvas
        assert (count == 1).all()


def test_polygons_against_a_test_of_each_centre() -> None:
    rng = np.random.default_rng(1)
    x, y = np.meshgrid(np.arange(40) + 0.5, np.arange(30) + 0.5)
    for _ in range(20):
        corners = rng.uniform(-5, 45, (rng.integers(3, 9), 2))
        inside = np.zeros((30, 40), bool)
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, 0)):
            inside ^= ((y0 > y) != (y1 > y)) & (x > x0 + (y - y0) * (x1 - x0) / (y1 - y0))
        canvas = np.zeros((30, 40), bool)
        polygon(corners, (30, 40)).paint(canvas, True)
        assert np.array_equal(canvas, inside)


def test_the_outline_rule_gives_masks_back() -> None:
    import cv2

    rng = np.random.default_rng(2)
    mask = cv2.GaussianBlur(rng.uniform(0, 1, (60, 80)).astype(np.float32), (0, 0), 4) > 0.5
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    canvas = np.zeros((60, 80), bool)
    union([polygon(contour[:, 0].astype(np.float64), (60, 80), "outline") for contour in contours]).paint(canvas, True)
    assert (canvas | ~mask).all()  # nothing is lost; holes are filled
    filled = np.zeros((60, 80), np.uint8)
    cv2.drawContours(filled, contours, -1, 1, cv2.FILLED)
    assert np.array_equal(canvas, filled.astype(bool))


def test_a_union() -> None:
    parts = [rectangle(0, 0, 2, 1, SIZE), rectangle(5, 4, 7, 6, SIZE), rectangle(90, 90, 99, 99, SIZE)]
    assert picture(union(parts)) == ["##......", *["........"] * 3, ".....##.", ".....##."]
    assert union([]).area == 0


def test_rectangles_turn_clockwise() -> None:
    assert picture(rectangle(1, 2, 5, 4, SIZE)) == ["........"] * 2 + [".####..."] * 2 + ["........"] * 2
    assert picture(rectangle(1, 2, 5, 4, SIZE, 90)) == ["........"] + ["..##...."] * 4 + ["........"]
    # The right end of a wide box goes down.
    tilted = np.zeros((40, 40), np.uint8)
    rectangle(5, 18, 35, 22, (40, 40), 45).paint(tilted, 1)
    assert tilted[30, 30]
    assert not tilted[10, 30]


def test_ellipses() -> None:
    assert picture(ellipse(3, 3, 2, 2, SIZE)) == [
        *("........", "..##....", ".####...", ".####...", "..##....", "........")
    ]
    assert picture(ellipse(4, 3, 4, 1, SIZE, 90)) == ["...##..."] * 6
    assert ellipse(4, 3, 0, 1, SIZE).area == 0
    assert ellipse(90, 90, 3, 3, SIZE).area == 0


def test_lines() -> None:
    assert picture(line(points((0.5, 2.5), (7.5, 2.5)), 1, SIZE)) == ["........"] * 2 + ["########"] + ["........"] * 3
    assert line(points((0.5, 2.5), (7.5, 2.5)), 3, SIZE).area == 24
    assert picture(line(points((2, 1), (2, 4), (6, 4)), 2, SIZE)) == [
        *(".##.....", ".##.....", ".##.....", ".######.", ".######.", "........")
    ]
    assert line(points((3, 3)), 4, SIZE).area == 12  # a disc
    assert line(points((3, 3), (3, 3)), 4, SIZE).area == 12


@pytest.mark.parametrize("values", [[1, 2, 3], [[1, 2, 3]], ["a", 1], [1, float("nan")], [[1, 2], [3]], {"x": 1}])
def test_malformed_points_are_refused(values: object) -> None:
    with pytest.raises(DataError, match="points must be pairs of numbers"):
        as_points(values)  # type: ignore[arg-type]


# ---------------------------------------------------------------- COCO's run lengths


def text_of_counts(counts: list[int]) -> str:
    """COCO's text, written as its description says, one number after the other."""
    text = ""
    for place, count in enumerate(counts):
        number = count - (counts[place - 2] if place > 2 else 0)
        while True:
            low, number = number & 31, number >> 5
            done = number == (-1 if low & 16 else 0)
            text += chr(48 + (low if done else low | 32))
            if done:
                break
    return text


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("5323", [5, 3, 2, 6]),  # the last is 6 - 3
        ("`0", [16]),  # 16 needs a sixth bit, or it would be negative
        ("0PP1", [0, 32 * 32]),  # 0, 0 and 1 in groups of five bits
        ("12O", [1, 2, -1]),
        ("4520N", [4, 5, 2, 5, 0]),  # 5 - 5 and -2 from 2
        ("", []),
    ],
)
def test_text_of_run_lengths(text: str, counts: list[int]) -> None:
    assert counts_of_text(text).tolist() == counts
    assert text_of_counts(counts) == text


def test_text_of_many_run_lengths() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 3000, 500).tolist()
    assert counts_of_text(text_of_counts(counts)).tolist() == counts
    assert counts_of_text(text_of_counts(counts).encode()).tolist() == counts


@pytest.mark.parametrize("text", ["5\u00e9", "5 3", "5P", "5~", "P" * 20 + "0"])
def test_text_without_run_lengths(text: str) -> None:
    with pytest.raises(DataError, match="run lengths contain"):
        counts_of_text(text)


def test_runs_go_down_the_columns() -> None:
    expected = ["..#", "#..", "#.."]
    for counts in ([1, 2, 3, 1, 2], text_of_counts([1, 2, 3, 1, 2])):
        assert picture(from_coco({"size": [3, 3], "counts": counts}, (3, 3)), (3, 3)) == expected


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [3, 4], "counts": [12]}, "of size .3, 4. for an image of .3, 3."),
        ({"size": [3, 3], "counts": [8]}, "8 pixels, not 9"),
        ({"size": [3, 3], "counts": [-1, 10]}, "not 9"),
        ({"size": [3, 3], "counts": [10**30]}, "whole numbers"),
        ({"size": [3, 3], "counts": None}, "whole numbers"),
        ({"counts": [9]}, "of size None"),
    ],
)
def test_run_lengths_that_do_not_fit(rle: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_coco(rle, (3, 3))


# ---------------------------------------------------------------- CVAT's and Label Studio's


def test_cvat_runs_go_along_the_rows_of_a_box() -> None:
    region = from_cvat("1, 2, 1, 2", 2, 1, 3, 2, SIZE)
    assert picture(region)[:4] == ["........", "...##...", "...##...", "........"]
    for text, box, message in (
        ("1, 2", (2, 1, 3, 2), "3 pixels, not 6"),
        ("1, x", (2, 1, 3, 2), "whole numbers"),
        ("6", (6, 1, 3, 2), "is not inside the image"),
    ):
        with pytest.raises(DataError, match=message):
            from_cvat(text, *box, SIZE)


def packed(values: list[int], run_bits: int = 4) -> list[int]:
    """Label Studio's stream of bits, written as described: repeated values in runs, the others one by one."""
    bits = f"{len(values):032b}{7:05b}" + f"{run_bits - 1:04b}" * 4
    place = 0
    while place < len(values):
        length = 1
        while length < 2**run_bits and values[place : place + length + 1] == [values[place]] * (length + 1):
            length += 1
        if length > 1:
            bits += f"110{length - 1:0{run_bits}b}{values[place]:08b}"
        else:
            length = min(3, 2**run_bits, len(values) - place)
            bits += f"001{length - 1:0{run_bits}b}" + "".join(f"{v:08b}" for v in values[place : place + length])
        place += length
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


@pytest.mark.parametrize("run_bits", [1, 4, 16])
def test_label_studio_brushes_are_the_opacity(run_bits: int) -> None:
    mask = np.array([[0, 1, 1], [0, 0, 1]])
    values = np.zeros((2, 3, 4), int)
    values[..., 3], values[..., 0] = mask * 255, 7
    assert picture(from_label_studio(packed(values.ravel().tolist(), run_bits), (2, 3)), (2, 3)) == [".##", "..#"]


def test_brushes_that_do_not_fit() -> None:
    data = packed([0] * 24)
    with pytest.raises(DataError, match=r"6 pixels for an image of \[6, 8\]"):
        from_label_studio(data, SIZE)
    with pytest.raises(DataError, match="ends too early"):
        from_label_studio(data[:8], (2, 3))
    for wrong in ([300], None, "abc", [1.5]):
        with pytest.raises(DataError, match="list of bytes"):
            from_label_studio(wrong, (2, 3))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="larger than any image"):
        from_label_studio([255] * 8, (2, 3))
