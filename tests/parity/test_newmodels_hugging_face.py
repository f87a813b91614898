"""Models of transformers, built here from their configs, against what transformers computes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hugging_face import model_of
from torch import Tensor
from torch.nn import functional as F

CASES = [
    "segformer_b0_hf",
    "beit_tiny_semantic_hf",
    "mobilevit_xxs_deeplabv3_hf",
    "mobilevitv2_050_deeplabv3_hf",
    "mobilenetv2_100_deeplabv3_hf",
    "mobilevit_xs_deeplabv3_os8_hf",
    "dpt_small_semantic_hf",
    "dpt_tiny_depth_hf",
]
LARGE = ["upernet_swin_tiny_hf", "upernet_convnext_tiny_hf"]


@pytest.mark.parametrize("from_file", [False, True], ids=["memory", "file"])
@pytest.mark.parametrize("name", [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_model_gives_the_values_of_transformers(name: str, from_file: bool) -> None:
    case, model = model_of(name)
    case.load_into(model, from_file)
    outputs = {
        name: at_size(model(case.images), case.facts["logits_stats"][name]["shape"]) for name in case.outputs[:1]
    }
    assert case.failures(outputs, model=None if from_file else model) == []


def at_size(logits: Tensor, shape: Sequence[int]) -> Tensor:
    """Return logits at the size of the reference's: UPerNet resizes them to the image; ours are resized outside."""
    if len(shape) == 3:  # depths
        return logits[:, 0]
    size = tuple(shape[-2:])
    return logits if logits.shape[-2:] == size else F.interpolate(logits, size, mode="bilinear", align_corners=False)
