"""Attention heads: behaviour that the conformance kit and the golden values do not cover."""

from __future__ import annotations

import pytest
import torch

from segkernel import build
from segkernel.errors import ConfigError
from segkernel.sample import Targets
from segplug_heads import JPU, EMAHead, EncHead, ISAHead, PSAHead
from segplug_heads.heads.cc_head import CrissCrossAttention
from segplug_heads.heads.dm_head import DCM, _depthwise_by_shifts
from segplug_heads.heads.enc_head import Encoding, classes_present
from segplug_heads.heads.psa_head import PSAMask

ONE = {"in_channels": 6, "channels": 8, "num_classes": 3}
TWO = {"in_channels": [4, 6], "in_index": [0, 1], "channels": 8, "num_classes": 3}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def features(height: int = 9, width: int = 7) -> list[torch.Tensor]:
    return [torch.randn(2, 4, 2 * height, 2 * width), torch.randn(2, 6, height, width)]


def targets() -> Targets:
    return Targets({"seg": torch.randint(0, 3, (2, 36, 28))})


def laid_out_plainly(windows: torch.Tensor, mask_size: tuple[int, int]) -> torch.Tensor:
    """Return what `PSAMask` collects, pixel by pixel."""
    batch, _, height, width = windows.shape
    windows = windows.view(batch, *mask_size, height, width)
    whole = windows.new_zeros(batch, height, width, height, width)
    for y, x, i, j in torch.cartesian_prod(*map(torch.arange, (height, width, *mask_size))).tolist():
        row, column = y + i - (mask_size[0] - 1) // 2, x + j - (mask_size[1] - 1) // 2
        if 0 <= row < height and 0 <= column < width:
            whole[:, row, column, y, x] = windows[:, i, j, y, x]
    return whole.view(batch, height * width, height * width)


@pytest.mark.parametrize("mask_size", [(3, 5), (2, 4), (9, 7), (11, 3)])
def test_windows_are_laid_out_around_their_pixels(mask_size: tuple[int, int]) -> None:
    windows = torch.randn(2, mask_size[0] * mask_size[1], 4, 5)
    expected = laid_out_plainly(windows, mask_size)
    assert torch.equal(PSAMask("collect", mask_size)(windows), expected)
    assert torch.equal(PSAMask("distribute", mask_size)(windows), expected.transpose(1, 2))


@pytest.mark.parametrize("psa_type", ["collect", "distribute", "bi-direction"])
@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("shrink_factor", [1, 2])
def test_psa_head_takes_every_type(psa_type: str, compact: bool, shrink_factor: int) -> None:
    mask_size = ((9, 7), (5, 4))[shrink_factor - 1]  # the whole shrunken map, as compact needs
    head = PSAHead(mask_size, psa_type, compact, shrink_factor, normalization_factor=None, **ONE)
    assert head.normalization_factor == mask_size[0] * mask_size[1]
    assert head(features()[1:]).shape == (2, 3, 9, 7)


def test_an_unknown_psa_type_is_refused() -> None:
    with pytest.raises(ConfigError, match="psa_type"):
        PSAHead((3, 3), "gather", **ONE)


def test_criss_cross_attention_sees_row_and_column_only() -> None:
    module, x = CrissCrossAttention(8), torch.randn(1, 8, 5, 6, requires_grad=True)
    module.gamma.scale.data.fill_(1.0)
    module(x)[0, :, 2, 3].sum().backward()
    seen = x.grad.abs().sum((0, 1)) > 0
    assert seen[2].all()
    assert seen[:, 3].all()
    assert seen.sum() == 5 + 6 - 1


def test_ema_bases_move_in_training_only_and_stay_unit_vectors() -> None:
    head = EMAHead(ema_channels=8, num_bases=4, num_stages=2, **ONE)
    before = head.ema_module.bases.clone()
    head.eval()(features())
    assert torch.equal(head.ema_module.bases, before)
    head.train()(features())
    after = head.ema_module.bases
    assert not torch.equal(after, before)
    torch.testing.assert_close(before.norm(dim=1), torch.ones(1, 4))
    assert (after - before).norm(dim=1).max() <= 0.1 * 2  # the momentum, times the largest distance on a sphere


def test_ema_needs_a_round() -> None:
    with pytest.raises(ConfigError, match="num_stages"):
        EMAHead(ema_channels=8, num_bases=4, num_stages=0, **ONE)


def test_encoding_is_a_softmax_over_distances_to_codewords() -> None:
    module, x = Encoding(5, 3), torch.randn(2, 5, 4, 6)
    residuals = x.flatten(2).transpose(1, 2).unsqueeze(2) - module.codewords
    shares = (module.scale * residuals.square().sum(3)).softmax(2)
    torch.testing.assert_close(module(x)[..., 0], (shares.unsqueeze(3) * residuals).sum(1))


def testclasses_present_leave_out_ignored_labels() -> None:
    labels = torch.tensor([[[0, 2], [255, 2]], [[255, 255], [255, 255]]])
    assert classes_present(labels, 3, 255).tolist() == [[1, 0, 1], [0, 0, 0]]
    assert classes_present(labels, 3, 2).tolist() == [[1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "IN"])
def test_encnet_learns_which_classes_are_present(norm: str) -> None:
    head = EncHead(num_codes=4, norm_cfg={"type": norm}, **TWO)
    assert set(head.loss(features(), targets())) == {"loss_ce", "loss_se", "acc_seg"}
    assert set(EncHead(use_se_loss=False, **TWO).loss(features(), targets())) == {"loss_ce", "acc_seg"}


def test_danet_learns_from_both_branches() -> None:
    losses = build("heads", {"type": "DAHead", "pam_channels": 2, **ONE}).loss(features(), targets())
    assert {name for name in losses if "loss" in name} == {"pam_cam.loss_ce", "pam.loss_ce", "cam.loss_ce"}


def test_ann_needs_two_maps() -> None:
    with pytest.raises(ConfigError, match="in_channels"):
        build("heads", {"type": "ANNHead", **TWO, "in_channels": [4], "in_index": [0], "project_channels": 2})


def test_ann_pools_queries_as_well() -> None:
    head = build("heads", {"type": "ANNHead", "project_channels": 2, "query_scales": [1, 2], **TWO})
    assert head(features()).shape == (2, 3, 9, 7)


@pytest.mark.parametrize("filter_size", [1, 2, 3, 4])
def test_dynamic_filters_are_one_per_image_and_channel(filter_size: int) -> None:
    module = DCM(filter_size, True, 6, 8, None, None, None)
    x, kernels = torch.randn(2, 8, 5, 6), torch.randn(2, 8, filter_size, filter_size)
    found = module._convolve(x, kernels)
    torch.testing.assert_close(found[1:], module._convolve(x[1:], kernels[1:]))
    after = (filter_size - 1) // 2
    before = filter_size - 1 - after
    padded = torch.nn.functional.pad(x, (before, after, before, after))
    torch.testing.assert_close(_depthwise_by_shifts(padded, kernels, (5, 6)), found)


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 7), (1, 1)])
def test_isanet_fills_up_cells(height: int, width: int) -> None:
    head = ISAHead(isa_channels=4, down_factor=(2, 3), **ONE)
    assert head([torch.randn(2, 6, height, width)]).shape == (2, 3, height, width)


def test_jpu_replaces_the_last_level() -> None:
    maps = [torch.randn(2, 4, 16, 12), torch.randn(2, 6, 8, 6), torch.randn(2, 8, 4, 3)]
    fine, joined = JPU([4, 6, 8], mid_channels=5, end_level=2, dilations=[1, 2, 3])(maps)
    assert fine is maps[0]
    assert joined.shape == (2, 15, 16, 12)


@pytest.mark.parametrize(("start", "end"), [(1, 1), (0, 4), (-1, 2)])
def test_jpu_refuses_missing_levels(start: int, end: int) -> None:
    with pytest.raises(ConfigError, match="level"):
        JPU([4, 6, 8], start_level=start, end_level=end)
