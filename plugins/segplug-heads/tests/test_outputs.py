"""Outputs with numbers per pixel."""

from __future__ import annotations

import torch

from segkernel.interfaces.model import output_of
from segplug_heads.outputs import PixelValues


def test_an_output_comes_back_from_its_config() -> None:
    assert output_of(PixelValues(2).config()) == PixelValues(2)


def test_numbers_of_one_channel_are_a_map_and_of_several_a_stack() -> None:
    raw = torch.rand(1, 2, 4, 5)
    assert PixelValues().decode(raw[:, :1]).shape == (4, 5)
    assert torch.equal(PixelValues(2).decode(raw), raw[0])
