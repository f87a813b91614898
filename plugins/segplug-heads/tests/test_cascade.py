"""Cascaded heads, each refining the scores of the previous one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from segkernel import build
from segkernel.errors import ConfigError
from segkernel.sample import Targets

FIRST = {"type": "FCNHead", "in_channels": 16, "in_index": 2, "channels": 8, "num_classes": 4}
SECOND = {"type": "OCRHead", "in_channels": 16, "in_index": 2, "channels": 8, "ocr_channels": 4, "num_classes": 4}
MODEL = {"type": "CascadeEncoderDecoder", "backbone": {"type": "segkernel.testing.toys:ToyBackbone"}}


def make(*heads: dict[str, Any], **more: Any) -> Any:
    torch.manual_seed(0)
    return build("segmentors", {**MODEL, "num_stages": len(heads), "decode_head": list(heads), **more})


def losses_of(model: Any) -> dict[str, torch.Tensor]:
    images, labels = torch.randn(2, 3, 64, 64), torch.randint(0, 4, (2, 64, 64))
    return model.loss(images, Targets({"seg": labels}))


def calls_of(module: torch.nn.Module) -> list[int]:
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_each_stage_has_its_losses() -> None:
    model = make(FIRST, SECOND, SECOND, auxiliary_head=FIRST)
    named = {"decode_0", "decode_1", "decode_2", "aux"}
    assert {name.split(".")[0] for name in losses_of(model)} == named
    assert {key.split(".")[1] for key in model.state_dict() if key.startswith("decode_head.")} == {"0", "1", "2"}


def test_outputs_passed_between_stages_are_computed_once() -> None:
    model = make(FIRST, SECOND)
    calls = calls_of(model.decode_head[0])
    losses_of(model)
    assert len(calls) == 1


def test_a_first_head_with_losses_of_its_own_keeps_them() -> None:
    first = {"type": "DAHead", "pam_channels": 2, "in_channels": 16, "in_index": 2, "channels": 8, "num_classes": 4}
    assert {"decode_0.pam.loss_ce", "decode_1.loss_ce"} <= set(losses_of(make(first, SECOND)))


@torch.no_grad()
def test_the_last_scores_are_predicted() -> None:
    model, images = make(FIRST, SECOND).eval(), torch.randn(1, 3, 64, 96)
    features = model.extract_feat(images)
    expected = model.decode_head[1](features, model.decode_head[0](features))
    assert torch.equal(model(images), expected)
    assert torch.equal(model.predict(images)["seg"], expected)
    assert model.outputs["seg"] == model.decode_head[1].output


@torch.no_grad()
def test_ocr_pools_queries_by_its_scale() -> None:
    assert make(FIRST, {**SECOND, "scale": 2}).eval()(torch.randn(1, 3, 72, 96)).shape == (1, 4, 5, 6)


@pytest.mark.parametrize("heads", [[FIRST], [FIRST, SECOND, SECOND]])
def test_the_number_of_heads_must_be_right(heads: list) -> None:
    with pytest.raises(ConfigError, match="decode_head"):
        make(*heads, num_stages=2)


@pytest.mark.parametrize(("heads", "at"), [([SECOND, SECOND], 0), ([FIRST, FIRST], 1)])
def test_a_head_of_the_wrong_kind_is_refused(heads: list, at: int) -> None:
    with pytest.raises(ConfigError, match=rf"decode_head\[{at}\]"):
        make(*heads)


def test_a_stage_made_for_other_maps_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"decode_head\[1\]"):
        make(FIRST, {**SECOND, "in_channels": 24})
