"""Heads that bound sizes, traced by TorchScript: the trace follows the size of its input."""

from __future__ import annotations

import pytest
import torch

from segplug_heads.heads.lraspp_head import WindowPool
from segplug_heads.heads.point_head import most_uncertain_pixels


@pytest.mark.parametrize(
    "function", [WindowPool(4, (3, 2)), lambda logits: most_uncertain_pixels(logits, 200)[0]], ids=["pool", "pixels"]
)
def test_a_trace_follows_the_size_of_its_input(function):
    generator = torch.Generator().manual_seed(0)
    first, small, large = (torch.randn(1, 3, *size, generator=generator) for size in ((12, 15), (3, 7), (25, 31)))
    traced = torch.jit.trace(function, (first,), check_trace=False)
    for image in (small, large):
        assert torch.equal(traced(image), function(image))
