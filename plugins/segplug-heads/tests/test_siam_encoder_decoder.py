"""Image pairs: how their feature maps are fused, and which configurations are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from segkernel.errors import ConfigError, UsageError
from segkernel.testing.toys import ToyBackbone
from segplug_heads import FCNHead, SiamEncoderDecoder

FIRST, SECOND = torch.randn(2, 2, 3, 64, 96, generator=torch.Generator().manual_seed(0)).unbind()
PAIR = torch.cat([FIRST, SECOND], 1)


def model(width: int, **more: Any) -> SiamEncoderDecoder:
    head = FCNHead(in_channels=width, channels=8, num_classes=2, num_convs=1)
    return SiamEncoderDecoder(ToyBackbone(), head, **more).eval()


def test_concat_joins_the_maps_of_the_first_and_the_second_image() -> None:
    siam = model(32)
    expected = [torch.cat(maps, 1) for maps in zip(siam.backbone(FIRST), siam.backbone(SECOND))]
    torch.testing.assert_close(list(siam.extract_feat(PAIR)), expected)


def test_difference_has_no_direction_and_is_nothing_for_equal_images() -> None:
    siam = model(16, fusion="difference")
    turned = torch.cat([SECOND, FIRST], 1)
    for one, other in zip(siam.extract_feat(PAIR), siam.extract_feat(turned)):
        torch.testing.assert_close(one, other)
    assert all(not x.any() for x in siam.extract_feat(torch.cat([FIRST, FIRST], 1)))


def test_branch_sees_both_images_and_is_joined() -> None:
    branch = ToyBackbone(6, (4, 4, 4, 4))
    siam = model(20, fusion="difference", branch=branch)
    assert [x.shape[1] for x in siam.extract_feat(PAIR)] == [12, 12, 20, 20]
    torch.testing.assert_close(siam.extract_feat(PAIR)[3][:, 16:], branch(PAIR)[3])
    assert "branch.stages.0.0.weight" in siam.state_dict()


@pytest.mark.parametrize(("width", "more"), [(16, {}), (32, {"fusion": "difference"})])
def test_head_that_does_not_fit_the_fused_maps_is_refused(width: int, more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="does not fit"):
        model(width, **more)


def test_branch_at_other_strides_is_refused() -> None:
    with pytest.raises(ConfigError, match="strides") as caught:
        model(36, branch=ToyBackbone(6, (4, 4, 4)))
    assert caught.value.problems[0].path == "branch"


def test_channels_of_an_image_and_a_half_are_refused() -> None:
    with pytest.raises(UsageError, match="ConcatCDInput"):
        model(32)(torch.rand(1, 5, 64, 64))
