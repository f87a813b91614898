"""Hierarchical transformers against transformers and timm: Swin V2, Hiera, and the encoders of SAM and SAM 2."""

from __future__ import annotations

from collections.abc import Callable

import newmodels
import pytest

from segkernel.interfaces.model import Backbone
from segplug_backbones import SwinTransformerV2

BUILDERS: dict[str, Callable[[], Backbone]] = {
    "swinv2_tiny_w8_hf": lambda: SwinTransformerV2("tiny", out_norm=False),
    "swinv2_tiny_window8_256_timm": lambda: SwinTransformerV2("tiny", out_norm=False, pad_small_map=False),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_encoder_equals_the_reference(name: str) -> None:
    case = newmodels.load(name)
    model = case.load_into(BUILDERS[name]())
    assert case.failures(case.named(model(case.images)), model=model) == []
