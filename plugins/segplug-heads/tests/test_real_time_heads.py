"""Heads, losses and neck of real-time networks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segkernel.errors import ConfigError
from segkernel.nn import CrossEntropyLoss
from segkernel.sample import Targets
from segplug_heads import BoundaryLoss, DDRHead, ICNeck, OhemCrossEntropy, PIDHead, STDCHead
from segplug_heads.heads.pid_head import boundaries_of

K = 4


def two_halves(size: int = 16) -> Tensor:
    """Return a label map whose right half is another class."""
    labels = torch.ones(1, size, size, dtype=torch.int64)
    labels[:, :, size // 2 :] = 2
    return labels


def ddr_head(losses: int = 2) -> DDRHead:
    return DDRHead(16, 8, K, loss_decode=[CrossEntropyLoss() for _ in range(losses)])


def pid_head(*, losses: list | None = None) -> PIDHead:
    losses = [CrossEntropyLoss(), OhemCrossEntropy(), BoundaryLoss(), OhemCrossEntropy()] if losses is None else losses
    return PIDHead(16, 8, K, loss_decode=losses)


def pid_maps() -> list[Tensor]:
    return [torch.randn(2, width, 8, 8) for width in (8, 8, 16)]


def labels() -> Tensor:
    return torch.randint(0, K, (2, 64, 64), generator=torch.Generator().manual_seed(0))


def test_ddr_head_scores_the_last_map_and_learns_from_both() -> None:
    head, maps = ddr_head().eval(), [torch.randn(2, 8, 8, 8), torch.randn(2, 16, 8, 8)]
    losses = head.loss(maps, Targets({"seg": labels()}))
    assert list(losses) == ["loss_context", "loss_spatial", "acc_seg"]
    assert torch.equal(head(maps), head(maps[1:]))
    scores = F.interpolate(head(maps), (64, 64), mode="bilinear")
    assert losses["loss_context"].item() == pytest.approx(F.cross_entropy(scores, labels()).item(), rel=1e-5)


def test_pid_head_takes_borders_from_the_targets_or_from_the_labels() -> None:
    head, maps, truth = pid_head().eval(), pid_maps(), two_halves(64).expand(2, -1, -1)
    own = head.loss(maps, Targets({"seg": truth}))
    same = head.loss(maps, Targets({"seg": truth, "edge": boundaries_of(truth)}))
    other = head.loss(maps, Targets({"seg": truth, "edge": boundaries_of(truth, radius=4)}))
    assert own["loss_bd"] == same["loss_bd"] != other["loss_bd"]
    assert list(own) == ["loss_sem_p", "loss_sem_i", "loss_bd", "loss_sem_bd", "acc_seg"]


def test_pid_head_scores_count_twice_where_it_sees_a_border() -> None:
    head, maps = pid_head().eval(), pid_maps()
    for bias, expected in ((-20.0, 0.0), (20.0, None)):
        torch.nn.init.constant_(head.d_cls_seg.bias, bias)
        losses = head.loss(maps, Targets({"seg": labels()}))
        assert losses["loss_sem_bd"].item() == (losses["loss_sem_i"].item() if expected is None else expected)


def test_weights_per_pixel_reach_the_losses() -> None:
    nothing = torch.zeros(2, 64, 64)
    for head, maps in ((ddr_head(), [m[:, :w] for m, w in zip(pid_maps()[1:], (8, 16))]), (pid_head(), pid_maps())):
        losses = head.eval().loss(maps, Targets({"seg": labels(), "weight": nothing}))
        assert {value.item() for name, value in losses.items() if "loss" in name} == {0.0}


@pytest.mark.parametrize("build", [lambda: ddr_head(3), lambda: pid_head(losses=[CrossEntropyLoss()])])
def test_heads_of_several_scores_need_a_loss_for_each(build) -> None:
    with pytest.raises(ConfigError, match=r"loss_decode.*needed"):
        build()


def test_boundaries_of_labels_are_four_pixels_wide() -> None:
    assert boundaries_of(two_halves())[0].sum(1).tolist() == [4] * 16
    assert boundaries_of(torch.full((1, 9, 9), 255)).sum() == 0


def test_stdc_head_finds_borders_between_classes() -> None:
    head = STDCHead(in_channels=8, channels=4, num_classes=2)
    borders = head.boundaries(two_halves())
    assert borders.shape == (1, 16, 16)
    assert set(borders.unique().tolist()) == {0, 1}
    assert borders[0, 8, 8] == 1  # the higher id's side
    assert borders[0, 8, 12] == 0


def test_stdc_head_finds_the_same_borders_at_low_precision() -> None:
    head, many = STDCHead(in_channels=8, channels=4, num_classes=2), labels() * 60
    with torch.autocast("cpu", torch.bfloat16):
        low = head.boundaries(many)
    assert torch.equal(low, head.boundaries(many))


def test_stdc_head_learns_nothing_of_its_own_kernel() -> None:
    kernels = {
        name: p.requires_grad for name, p in STDCHead(in_channels=8, channels=4, num_classes=2).named_parameters()
    }
    assert kernels["fusion_kernel"] is False


def test_ohem_keeps_all_improbable_pixels_and_the_hardest_at_least() -> None:
    probabilities = torch.tensor([0.1, 0.3, 0.8, 0.95])
    scores = torch.stack([probabilities, 1 - probabilities]).log().view(1, 2, 1, 4)
    target = torch.zeros(1, 1, 4, dtype=torch.int64)
    for thres, min_kept, kept in ((0.7, 1, 2), (0.2, 3, 3), (0.9, 1, 3)):
        loss = OhemCrossEntropy(thres=thres, min_kept=min_kept)(scores, target)
        assert loss.item() == pytest.approx(-probabilities[:kept].log().mean().item(), rel=1e-5)


def test_ohem_is_zero_without_hard_pixels() -> None:
    scores = torch.zeros(1, 2, 4, 4, requires_grad=True)
    loss = OhemCrossEntropy(thres=0.1, min_kept=2)(scores, torch.zeros(1, 4, 4, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert scores.grad is not None
    assert scores.grad.abs().sum() == 0


def test_ohem_ignores_its_own_label_and_the_heads() -> None:
    scores, target = torch.randn(1, K, 4, 4), torch.randint(0, 2, (1, 4, 4))
    one, both = target.clone(), target.clone()
    one[0, 0], both[0, 0], both[0, 1] = 3, 3, 255
    loss = OhemCrossEntropy(ignore_label=3, thres=1.0)
    assert loss(scores, both).item() == pytest.approx(F.cross_entropy(scores[:, :, 2:], target[:, 2:]).item(), rel=1e-5)
    assert loss(scores, one).item() == pytest.approx(F.cross_entropy(scores[:, :, 1:], target[:, 1:]).item(), rel=1e-5)


@pytest.mark.parametrize("arguments", [{"thres": 1.5}, {"thres": -0.1}])
def test_ohem_refuses_invalid_probabilities(arguments: dict) -> None:
    with pytest.raises(ConfigError, match="not a probability"):
        OhemCrossEntropy(**arguments)


def test_ohem_refuses_weights_of_other_classes() -> None:
    with pytest.raises(ConfigError, match="2 numbers for 4 classes"):
        OhemCrossEntropy(class_weight=[1.0, 2.0])(torch.randn(1, K, 4, 4), torch.zeros(1, 4, 4))


def test_boundary_loss_balances_borders_and_the_rest() -> None:
    border = torch.zeros(1, 1, 10)
    border[0, 0, 0] = 1
    right, wrong = (border * 2 - 1) * 20, (1 - border * 2) * 20
    loss = BoundaryLoss(loss_weight=10.0)
    assert loss(right.unsqueeze(1), border).item() == pytest.approx(0, abs=1e-5)
    only_border = torch.where(border == 1, wrong, right)
    only_rest = torch.where(border == 1, right, wrong)
    one, nine = loss(only_border.unsqueeze(1), border).item(), loss(only_rest.unsqueeze(1), border).item()
    assert one == pytest.approx(nine, rel=1e-4)


def test_ic_neck_gives_two_maps_for_auxiliary_heads_and_the_fused_one() -> None:
    neck = ICNeck((4, 8, 12), 6, align_corners=True).eval()
    maps = [torch.randn(1, width, size, size + 1) for width, size in ((4, 16), (8, 9), (12, 4))]
    assert [tuple(m.shape) for m in neck(maps)] == [(1, 6, 9, 10), (1, 6, 16, 17), (1, 6, 16, 17)]


def test_ic_neck_needs_three_maps() -> None:
    with pytest.raises(ConfigError, match=r"in_channels.*3 numbers"):
        ICNeck((4, 8))
