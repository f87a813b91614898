"""Class ids without large logits: those of interpolation and argmax, bit by bit."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from segkernel.interfaces.model import PixelClasses
from segplug_deploy.labels import FastPixelClasses, _axis, resize_and_crop, resized_argmax


def expected(logits: Tensor, steps: list, align_corners: bool) -> Tensor:
    logits = logits.contiguous()
    for size, kept in steps:
        if tuple(logits.shape[2:]) != tuple(size):
            logits = interpolate(logits, size, mode="bilinear", align_corners=align_corners)
        logits = logits[..., : kept[0], : kept[1]]
    return logits.argmax(1)


def smooth(generator: torch.Generator, classes: int, height: int, width: int) -> Tensor:
    """Return logits with few candidates in most cells, as a trained model's."""
    coarse = torch.randn(1, classes, 4, 5, generator=generator)
    noise = torch.randn(1, classes, height, width, generator=generator)
    return 3 * interpolate(coarse, (height, width), mode="bicubic") + 0.05 * noise


KINDS = {
    "noise": lambda x: x,
    "ties": torch.round,
    "constant": lambda x: x * 0,
    "almost constant": lambda x: x[:, :, :1, :1] + 1e-7 * x,
    "large": lambda x: x * 1e6,
}
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.mT.contiguous().mT,
    "strided": lambda x: x.repeat(1, 2, 1, 1)[:, ::2].flip(1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_labels_are_those_of_interpolate_and_argmax(kind: str, dtype: torch.dtype) -> None:
    rng, generator = random.Random(f"{kind} {dtype}"), torch.Generator().manual_seed(0)
    wrong = []
    for layout, arranged in LAYOUTS.items():
        classes, height, width = rng.choice((1, 3, 5, 21, 60, 200)), rng.randint(1, 24), rng.randint(1, 24)
        sizes = [(rng.randint(1, 200), rng.randint(100, 200)) for _ in range(rng.choice((1, 1, 2)))]
        steps = [(size, (rng.randint((size[0] + 1) // 2, size[0]), size[1])) for size in sizes]
        logits = smooth(generator, classes, height, width).repeat(rng.choice((1, 2)), 1, 1, 1)
        logits, align_corners = arranged(KINDS[kind](logits).to(dtype)), rng.random() < 0.5
        if not torch.equal(resized_argmax(logits, steps, align_corners), expected(logits, steps, align_corners)):
            wrong.append((layout, classes, height, width, steps, align_corners))
    assert wrong == []


@pytest.mark.parametrize("steps", [[((256, 512), (256, 512))], [((160, 200), (150, 190)), ((290, 301), (290, 301))]])
def test_smooth_logits_need_few_planes(steps: list, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = smooth(torch.Generator().manual_seed(1), 150, 32, 64)
    wanted, planes = expected(logits, steps, False), []

    def counted(logits: Tensor, steps: list, align_corners: bool) -> Tensor:
        planes.append(tuple(logits.shape))
        return resize_and_crop(logits, steps, align_corners)

    monkeypatch.setattr("segplug_deploy.labels.resize_and_crop", counted)
    found = resized_argmax(logits, steps)
    assert found.dtype == torch.uint8
    assert torch.equal(found, wanted)
    assert sum(shape[:2] == (1, 1) for shape in planes) < 40
    assert not any(shape[2:] == (32, 64) and shape[1] > 1 for shape in planes)


@pytest.mark.parametrize("kind", [*KINDS, "nan", "inf"])
@pytest.mark.parametrize("steps", [[((7, 40), (7, 40))] * 2, [((7, 40), (5, 33)), ((5, 33), (5, 33))]])
def test_logits_at_the_size_of_the_labels_are_compared_in_parts(
    kind: str, steps: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segplug_deploy.labels._PIXELS", 90)  # two rows
    logits = KINDS.get(kind, KINDS["ties"])(smooth(torch.Generator().manual_seed(5), 6, 7, 40)).repeat(2, 1, 1, 1)
    if kind not in KINDS:
        logits[1, 3, 2, 5], logits[1, :, 3, 5] = float(kind), -float("inf")
    assert torch.equal(resized_argmax(logits, steps), expected(logits, steps, False).to(torch.uint8))


def test_a_step_to_the_size_at_hand_only_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    monkeypatch.setattr("segplug_deploy.labels._argmax", lambda image, steps, *_: sizes.append(steps) or image[0])
    steps = [((60, 80), (50, 80)), ((200, 160), (190, 150)), ((190, 150), (180, 150))]
    resized_argmax(torch.zeros(1, 5, 60, 80), steps)
    assert sizes == [[((200, 160), (180, 150))]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_count_as_in_argmax(value: float) -> None:
    logits = smooth(torch.Generator().manual_seed(2), 7, 12, 16)
    logits[0, 3, 5, 6] = value
    steps = [((150, 170), (150, 170))]
    assert torch.equal(resized_argmax(logits, steps), expected(logits, steps, False))


def test_more_classes_than_a_byte_holds() -> None:
    logits = smooth(torch.Generator().manual_seed(3), 300, 9, 11)
    steps = [((180, 160), (180, 160))]
    found = resized_argmax(logits, steps)
    assert found.dtype == torch.int64
    assert torch.equal(found, expected(logits, steps, False))


OUTPUTS = {
    "multiclass": PixelClasses(9, 9),
    "aligned": PixelClasses(9, 9, align_corners=True),
    "binary": PixelClasses(2, 1, "sigmoid", 0.3),
    "multilabel": PixelClasses(3, 3, "sigmoid", 0.6, task="multilabel"),
    "sums": PixelClasses(9, 9, "none"),
}


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("original", [(150, 190), (301, 257), (140, 120)])
def test_a_fast_output_has_the_fields_of_a_plain_one(name: str, original: tuple[int, int]) -> None:
    plain = OUTPUTS[name]
    fast = FastPixelClasses(**vars(plain))
    raw = smooth(torch.Generator().manual_seed(4), plain.out_channels, 20, 25)
    found, wanted = (output.finish(raw, (160, 200), (150, 190), original) for output in (fast, plain))
    assert found.dtype == wanted.dtype
    assert torch.equal(found, wanted)
    assert fast.config() == plain.config()


@pytest.mark.parametrize("steps", [((64, 60),), ((150, 149), (97, 97)), ((9, 9), (40, 38)), ((1, 1), (5, 5))])
@pytest.mark.parametrize("align_corners", [False, True])
def test_the_weights_along_an_axis_are_those_of_an_identity_matrix(steps: tuple, align_corners: bool) -> None:
    size = 31
    axis = _axis(size, torch.float64, steps, align_corners)
    pad = len(axis.weights) - 1
    found = torch.zeros(size + 2 * pad, len(axis.cell), dtype=torch.float64)
    taps = axis.cell + torch.arange(pad + 1)[:, None]
    found.scatter_(0, taps, axis.weights[:, axis.place, axis.cell])
    sizes = [((large, 1), (kept, 1)) for large, kept in steps]
    wanted = resize_and_crop(torch.eye(size, dtype=torch.float64)[None, :, :, None], sizes, align_corners)[0, :, :, 0]
    torch.testing.assert_close(found[pad : pad + size], wanted)


def test_the_weights_along_a_long_axis_take_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []

    def counted(logits: Tensor, *arguments: Any) -> Tensor:
        counts.append(logits.numel())
        return resize_and_crop(logits, *arguments)

    monkeypatch.setattr("segplug_deploy.labels.resize_and_crop", counted)
    _axis(5000, torch.float32, ((20000, 20000),), False)
    assert max(counts) <= 10 * 5000
