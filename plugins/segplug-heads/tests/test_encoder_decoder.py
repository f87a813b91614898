"""The segmentor: outputs, names of losses, and heads that do not fit the backbone."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from segkernel import build
from segkernel.errors import ConfigError, DataError, UsageError
from segkernel.interfaces.model import Features, Neck
from segkernel.sample import Targets
from segkernel.testing.toys import ToyBackbone
from segplug_heads import EncoderDecoder, FCNHead, SegformerHead

IMAGES = torch.randn(2, 3, 64, 96)
TARGETS = Targets({"seg": torch.zeros(2, 64, 96, dtype=torch.long)})


def head(**more: Any) -> FCNHead:
    return FCNHead(**{"in_channels": 16, "channels": 8, "num_classes": 3, "num_convs": 1, **more})


class Doubled(Neck):
    def forward(self, features: Features) -> tuple[Tensor, ...]:
        return tuple(torch.cat([x, x], 1) for x in features)


def test_one_auxiliary_head_is_called_aux() -> None:
    losses = EncoderDecoder(ToyBackbone(), head(), auxiliary_head=head(in_index=2)).loss(IMAGES, TARGETS)
    assert set(losses) == {"decode.loss_ce", "decode.acc_seg", "aux.loss_ce", "aux.acc_seg"}


def test_the_loss_takes_class_ids_in_one_s_own_loop() -> None:
    model = EncoderDecoder(ToyBackbone(), head()).eval()  # without dropout
    masks = torch.randint(0, 3, (2, 64, 96))
    losses = model.loss(IMAGES, masks)
    assert torch.equal(losses["decode.loss_ce"], model.loss(IMAGES, Targets({"seg": masks}))["decode.loss_ce"])
    losses["decode.loss_ce"].backward()
    with pytest.raises(UsageError, match=r"class ids \(N, H, W\)"):
        model.loss(IMAGES, masks[:, None])
    with pytest.raises(UsageError, match=r"torch.uint8: normalise"):
        model.loss(IMAGES.to(torch.uint8), masks)


def test_masks_of_another_size_or_with_unknown_ids_are_refused() -> None:
    model = EncoderDecoder(ToyBackbone(), head(ignore_index=9))
    masks = torch.randint(0, 3, (2, 64, 96))
    with pytest.raises(UsageError, match=r"\(2, 64, 96\).*, not Tensor \(2, 32, 48\)"):
        model.loss(IMAGES, masks[:, ::2, ::2])
    masks[0, :2] = torch.tensor([9, 255]).repeat(48)
    masks[1, 0, 0] = -1
    with pytest.raises(DataError, match=r"masks hold -1, 255; the model has 3 classes, 0 to 2, and ignores 9"):
        model.loss(IMAGES, masks)
    assert model.loss(IMAGES, masks.where((masks >= 0) & (masks != 255), 9))["decode.loss_ce"].isfinite()


def test_several_auxiliary_heads_are_numbered() -> None:
    model = EncoderDecoder(ToyBackbone(), head(), auxiliary_head=[head(in_index=2), head(in_index=-1)])
    assert {"aux_0.loss_ce", "aux_1.loss_ce"} < set(model.loss(IMAGES, TARGETS))
    assert "auxiliary_head.1.conv_seg.weight" in model.state_dict()


def test_neck_stands_between_backbone_and_head() -> None:
    model = EncoderDecoder(ToyBackbone(), head(in_channels=32), neck=Doubled())
    assert model(IMAGES).shape[:2] == (2, 3)


def test_prediction_is_the_raw_scores_of_the_main_output() -> None:
    model = EncoderDecoder(ToyBackbone(), head(align_corners=True)).eval()
    assert torch.equal(model.predict(IMAGES)["seg"], model(IMAGES))
    assert model.outputs["seg"].classes == 3
    assert model.outputs["seg"].align_corners


def test_whole_images_are_the_default() -> None:
    assert EncoderDecoder(ToyBackbone(), head()).test_cfg == {"mode": "whole"}


@pytest.mark.parametrize("more", [{"in_channels": 99}, {"in_channels": 16, "in_index": 0}, {"in_index": 7}])
def test_head_for_other_maps_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="8, 8, 16, 16") as caught:
        EncoderDecoder(ToyBackbone(), head(**more))
    assert caught.value.problems[0].path == "decode_head"


def test_auxiliary_head_for_other_maps_is_refused() -> None:
    with pytest.raises(ConfigError, match="in_channels 99"):
        EncoderDecoder(ToyBackbone(), head(), auxiliary_head=head(in_channels=99))


def test_head_of_several_maps_that_do_not_fit_is_refused() -> None:
    several = SegformerHead(in_channels=[8, 16], in_index=[0, 1], channels=4, num_classes=3)
    with pytest.raises(ConfigError, match="in_channels"):
        EncoderDecoder(ToyBackbone(), several)


def test_joined_maps_are_counted_together() -> None:
    joined = head(in_channels=[8, 16], in_index=[0, 2], input_transform="resize_concat")
    assert EncoderDecoder(ToyBackbone(), joined)(IMAGES).shape == (2, 3, 16, 24)


def test_built_from_a_config() -> None:
    loss = [{"type": "CrossEntropyLoss", "loss_weight": 0.5}, {"type": "DiceLoss"}]
    spec = {"type": "FCNHead", "in_channels": 16, "channels": 8, "num_classes": 3, "loss_decode": loss}
    backbone = {"type": "segkernel.testing.toys:ToyBackbone"}
    sampler = {"type": "OHEMPixelSampler", "thresh": 0.7, "min_kept": 100}
    model = build(
        "segmentors",
        {
            "type": "EncoderDecoder",
            "backbone": backbone,
            "decode_head": spec,
            "auxiliary_head": [{**spec, "in_index": 2, "loss_decode": loss[0], "sampler": sampler}],
            "test_cfg": {"mode": "slide", "crop_size": [32, 32], "stride": [16, 16]},
        },
    )
    assert {"decode.loss_ce", "decode.loss_dice", "aux_0.loss_ce"} < set(model.loss(IMAGES, TARGETS))


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, segplug_heads; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
