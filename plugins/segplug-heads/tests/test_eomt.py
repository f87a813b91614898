"""EoMT: queries in the last blocks of an encoder, and the annealing of their masks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from segkernel.errors import ConfigError, UsageError
from segplug_heads.heads.eomt_head import EncoderState, EoMTHead, ExampleBlock
from segplug_heads.mask_annealing import MaskAnnealingHook, even_windows
from segplug_heads.segmentors.eomt import EoMT, ToyViT


def eomt(**head: Any) -> EoMT:
    torch.manual_seed(0)
    return EoMT(ToyViT(), EoMTHead(16, **{"num_classes": 4, "num_queries": 6, "num_blocks": 2} | head))


class Recording(nn.Module):
    """Keeps the masks of a block."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[Any] = []

    def forward(self, x: torch.Tensor, rotary: Any, mask: Any) -> torch.Tensor:
        self.masks.append(mask)
        return x


def test_masked_queries_attend_to_their_foreground_and_to_all_other_tokens() -> None:
    head = EoMTHead(16, num_classes=4, num_queries=6, num_blocks=1).eval()
    block, tokens = Recording(), torch.randn(2, 3 + 20, 16)
    mask_logits = head.queries(EncoderState(tokens, (4, 5), None, [block], nn.Identity()))[1][0]
    (mask,) = block.masks
    assert mask.shape == (2, 1, 29, 29)
    foreground = nn.functional.interpolate(mask_logits, (4, 5), mode="bilinear").flatten(2) > 0
    assert 0 < foreground.float().mean() < 1
    assert torch.equal(mask[:, 0, :6, 9:], foreground)
    assert mask[:, 0, :6, :9].all()  # queries, and prefix tokens
    assert mask[:, 0, 6:].all()


def test_without_probability_training_predicts_what_inference_does() -> None:
    model, images = eomt(), torch.randn(2, 3, 40, 72)
    for probability, layers in ((0.0, 1), (1.0, 3)):
        model.decode_head.set_mask_probabilities([probability] * 2)
        learned, used = (model.train(mode).decode_head.queries(model.extract_feat(images)) for mode in (True, False))
        assert [len(logits) for logits in (*learned, *used)] == [3, 3, layers, layers]
        for ours, theirs in zip(learned, used, strict=True):
            torch.testing.assert_close(ours[-1], theirs[-1])


def test_a_loaded_probability_decides_over_masks_in_inference() -> None:
    model, annealed = eomt().eval(), eomt()
    assert model.decode_head.masked_blocks == (True, True)
    annealed.decode_head.set_mask_probabilities([0.0, 0.7])
    model.load_state_dict(annealed.state_dict())
    assert model.decode_head.masked_blocks == (False, True)
    with torch.device("meta"):
        on_meta = eomt()
    on_meta.load_state_dict(annealed.state_dict(), assign=True)
    assert on_meta.decode_head.masked_blocks == (False, True)


def test_training_without_masks_supervises_the_last_block_only() -> None:
    model = eomt(masked_attention=False)
    losses = model.loss(torch.randn(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.long))
    assert set(losses) == {"decode.loss_cls", "decode.loss_mask", "decode.loss_dice"}
    assert "decode.d1.loss_dice" in eomt().loss(torch.randn(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.long))


def annealed(hook: MaskAnnealingHook, iteration: int) -> list[float]:
    """Return the probabilities in a run that was resumed at an iteration."""
    model = eomt()
    run: Any = SimpleNamespace(model=model, iteration=iteration, max_iterations=40)
    hook.before_train(run)
    hook.before_train_iteration(run)
    assert model.decode_head.masked_blocks == tuple(p >= 0.5 for p in model.decode_head.attn_mask_probs.tolist())
    return model.state_dict()["decode_head.attn_mask_probs"].tolist()


def test_masks_are_annealed_block_by_block() -> None:
    hook = MaskAnnealingHook(begin=[10, 20], end=[20, 40], power=0.5)
    assert annealed(hook, 0) == annealed(hook, 10) == [1.0, 1.0]
    assert annealed(hook, 15) == pytest.approx([0.5**0.5, 1.0])
    assert annealed(hook, 30) == pytest.approx([0.0, 0.5**0.5])
    assert annealed(hook, 40) == [0.0, 0.0]


def test_without_iterations_the_run_is_divided_evenly() -> None:
    assert even_windows(4, 39120) == [(6520, 13040), (13040, 19560), (19560, 26080), (26080, 32600)]  # as published
    assert annealed(MaskAnnealingHook(power=1.0), 15) == pytest.approx([0.5, 1.0])


def test_half_masked_training_draws_for_each_query() -> None:
    head, block = EoMTHead(16, num_classes=4, num_queries=400, num_blocks=1), Recording()
    head.set_mask_probabilities([0.25])
    head.queries(EncoderState(torch.randn(1, 21, 16), (4, 5), None, [block], nn.Identity()))
    assert 0.6 < block.masks[0][0, 0, :400].all(1).float().mean() < 0.9


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="5 blocks of an encoder that has 3"):
        eomt(num_blocks=5)
    with pytest.raises(ConfigError, match="the tokens of the encoder have 16 channels"):
        EoMT(ToyViT(), EoMTHead(8, num_blocks=2))
    backbone = ToyViT()
    backbone.norm = None  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="ToyViT has no norm"):
        EoMT(backbone, EoMTHead(16))
    with pytest.raises(UsageError, match="2 iterations in begin, 1 in end"):
        MaskAnnealingHook(begin=[1, 2], end=[3])
    with pytest.raises(UsageError, match="end 2 must be greater than begin 2"):
        MaskAnnealingHook(begin=[2], end=[2])
    run: Any = SimpleNamespace(model=eomt(masked_attention=False))
    with pytest.raises(UsageError, match="no EoMTHead with masked_attention"):
        MaskAnnealingHook(begin=[1], end=[3]).before_train(run)
    run.model = eomt()
    with pytest.raises(UsageError, match="for 1 blocks, but queries pass through 2"):
        MaskAnnealingHook(begin=[1], end=[3]).before_train(run)


def test_a_block_is_an_example() -> None:
    x = torch.randn(1, 5, 8)
    mask = torch.eye(5, dtype=torch.bool).expand(1, 1, 5, 5)
    torch.testing.assert_close(ExampleBlock()(x, None, mask), 2 * x)  # each token attends to itself


@torch.no_grad()
def test_a_graph_takes_any_batch_and_size() -> None:
    model, any_length = eomt().eval(), torch.export.Dim.DYNAMIC
    graph = torch.export.export(
        model,
        (torch.randn(2, 3, 64, 96),),
        dynamic_shapes=({0: any_length, 2: any_length, 3: any_length},),
        strict=False,
    )
    images = torch.randn(3, 3, 50, 120)
    torch.testing.assert_close(graph.module()(images), model(images))
