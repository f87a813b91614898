"""SegNeXt's decomposition, and K-Net's kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from segkernel.errors import ConfigError
from segkernel.sample import Targets
from segplug_heads import FCNHead, IterativeDecodeHead, KernelUpdateHead, KernelUpdator, LightHamHead, SegformerHead
from segplug_heads.heads.ham_head import NMF2D

MAP = torch.rand(3, 8, 5, 6, generator=torch.Generator().manual_seed(0))


def test_decomposition_is_the_same_in_eval_mode_and_another_in_training() -> None:
    ham = NMF2D(8, MD_R=4).eval()
    assert torch.equal(ham(MAP), ham(MAP))
    ham.train()
    assert not torch.equal(ham(MAP), ham(MAP))


def test_eval_mode_begins_with_the_bases_of_seed_0_and_draws_nothing() -> None:
    torch.manual_seed(0)
    drawn = F.normalize(torch.rand(3, 8, 4), dim=1)
    before = torch.get_rng_state()
    ham = NMF2D(8, MD_R=4).eval()
    torch.testing.assert_close(ham.bases[:3, 0], drawn)
    ham(MAP)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_may_be_larger_than_the_table_of_bases() -> None:
    ham = NMF2D(8, MD_R=4).eval()
    many = MAP[:1].expand(20, -1, -1, -1)
    torch.testing.assert_close(ham(many)[17], ham(many)[1])


def test_fixed_bases_are_part_of_the_state_and_the_same_for_all() -> None:
    ham = NMF2D(8, MD_S=2, MD_R=3, rand_init=False)
    assert list(ham.state_dict()) == ["bases"]
    assert torch.equal(ham(MAP), ham(MAP))
    torch.testing.assert_close(ham(MAP)[2], ham(MAP[2:])[0])
    assert list(NMF2D(8).state_dict()) == []


def test_a_map_of_low_rank_is_kept() -> None:
    low = (MAP[0, :, 0, :1] @ MAP[1, :1].flatten(1)).view(1, 8, 5, 6)
    torch.testing.assert_close(NMF2D(8, MD_R=2, eval_steps=50).eval()(low), low, rtol=1e-2, atol=1e-3)


def test_channels_that_are_not_divisible_by_the_groups_are_refused() -> None:
    with pytest.raises(ConfigError, match="not divisible by 3 groups"):
        LightHamHead(8, {"MD_S": 3}, in_channels=[8], in_index=[0], channels=8, num_classes=2)


def first_head() -> FCNHead:
    return FCNHead(in_channels=16, in_index=0, channels=8, num_classes=3, num_convs=1)


def stage(**more: Any) -> KernelUpdateHead:
    arguments = {"num_classes": 3, "in_channels": 8, "out_channels": 8, "num_heads": 2, "feedforward_channels": 8}
    return KernelUpdateHead(**{**arguments, "kernel_updator_cfg": KernelUpdator(8, 8), **more})


def test_each_stage_has_its_losses_whether_training_or_not() -> None:
    head = IterativeDecodeHead(2, first_head(), [stage(), stage()])
    targets = Targets({"seg": torch.randint(0, 3, (2, 32, 32))})
    features = [torch.rand(2, 16, 8, 8)]
    expected = {f"{name}.s{i}" for name in ("loss_ce", "acc_seg") for i in range(3)}
    assert set(head.train().loss(features, targets)) == expected
    assert set(head.eval().loss(features, targets)) == expected
    assert torch.equal(head(features), head.stages(features)[-1])


@pytest.mark.parametrize(
    "more",
    [
        {"mask_transform_stride": 2},
        {"mask_transform_stride": 2, "feat_gather_stride": 2, "feat_transform_cfg": {"kernel_size": 3}},
        {"with_ffn": False, "num_mask_fcs": 0, "kernel_init": True},
        {"kernel_updator_cfg": KernelUpdator(8, 8, gate_norm_act=True, activate_out=True, gate_sigmoid=False)},
        {"kernel_updator_cfg": KernelUpdator(4, 4)},
    ],
)
def test_options_keep_the_shapes(more: dict[str, Any]) -> None:
    masks, kernels = stage(**more)(torch.rand(2, 8, 12, 16), torch.rand(2, 3, 8, 1, 1), torch.rand(2, 3, 12, 16))
    assert masks.shape == (2, 3, 12, 16)
    assert kernels.shape == (2, 3, 8, 1, 1)


def test_larger_kernels_are_convolutions_of_that_size() -> None:
    head = stage(conv_kernel_size=3)
    masks, kernels = head(
        torch.rand(2, 8, 6, 7), torch.rand(2, 3, 8, 3, 3), torch.rand(2, 3, 3, 3), mask_shape=(12, 14)
    )
    assert masks.shape == (2, 3, 12, 14)
    assert kernels.shape == (2, 3, 8, 3, 3)
    x, convolutions = torch.rand(2, 8, 6, 7), torch.rand(2, 3, 8, 3, 3)
    expected = torch.stack([F.conv2d(a, b, padding=1) for a, b in zip(x, convolutions)])
    torch.testing.assert_close(head._predict_masks(x, convolutions, None), expected)


@pytest.mark.parametrize(
    ("stages", "path"),
    [
        ([], "kernel_update_head"),
        ([stage(in_channels=4, out_channels=4)], "kernel_update_head[0].in_channels"),
        ([stage(conv_kernel_size=3)], "kernel_update_head[0].conv_kernel_size"),
    ],
)
def test_stages_that_do_not_fit_are_refused(stages: list[KernelUpdateHead], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        IterativeDecodeHead(1, first_head(), stages)
    assert caught.value.problems[0].path == path


def test_updator_of_unequal_widths_is_refused() -> None:
    with pytest.raises(ConfigError, match="feat_channels"):
        KernelUpdator(256, 64)


def test_any_head_that_declares_its_last_input_is_accepted() -> None:
    first = SegformerHead(in_channels=[8, 16], in_index=[0, 1], channels=8, num_classes=3)
    head = IterativeDecodeHead(1, first, [stage()])
    assert head([torch.rand(1, 8, 8, 8), torch.rand(1, 16, 4, 4)]).shape == (1, 3, 8, 8)
