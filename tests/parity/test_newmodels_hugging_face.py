"""Models of transformers, built here from their configs, against what transformers computes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hugging_face import folder_of, model_of
from torch import Tensor
from torch.nn import functional as F

from segkernel.loading import load_model

CASES = [
    "segformer_b0_hf",
    "beit_tiny_semantic_hf",
    "mobilevit_xxs_deeplabv3_hf",
    "mobilevitv2_050_deeplabv3_hf",
    "mobilenetv2_100_deeplabv3_hf",
    "dpt_tiny_depth_hf",
]
LARGE = [
    "mobilevit_xs_deeplabv3_os8_hf",
    "dpt_small_semantic_hf",
    "depth_anything_v2_small_hf",
    "upernet_swin_tiny_hf",
    "upernet_convnext_tiny_hf",
]
every = pytest.mark.parametrize("name", [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])


@every
def test_model_gives_the_values_of_transformers(name: str) -> None:
    """With the names of the weights in memory, and the gradients."""
    case, model = model_of(name)
    case.load_into(model)
    shape = case.facts["logits_stats"][case.outputs[0]]["shape"]
    assert case.failures({case.outputs[0]: at_size(model(case.images), shape)}, model=model) == []


@every
def test_folder_gives_the_values_of_transformers(name: str, tmp_path: Path) -> None:
    """With the names of the weights in files, all of which must fit."""
    case, _ = model_of(name)
    model = load_model(folder_of(case, tmp_path / name)).model.eval()
    shape = case.facts["logits_stats"][case.outputs[0]]["shape"]
    assert case.failures({case.outputs[0]: at_size(model(case.images), shape)}) == []


def at_size(raw: Tensor, shape: Sequence[int]) -> Tensor:
    """Return logits at the size of the reference's, which UPerNet resizes to the image; depths without channels."""
    if len(shape) == 3:
        return raw[:, 0]
    size = tuple(shape[-2:])
    return raw if raw.shape[-2:] == size else F.interpolate(raw, size, mode="bilinear", align_corners=False)
