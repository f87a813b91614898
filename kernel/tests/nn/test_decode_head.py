"""The base class of decode heads: inputs, outputs, losses, and invalid arguments."""

from __future__ import annotations

import inspect
import typing

import pytest
import torch
from torch import Tensor
from typing_extensions import Unpack

from segkernel.errors import ConfigError, SegKernelRemovedIn04Warning
from segkernel.interfaces.model import Features
from segkernel.nn import CrossEntropyLoss, DecodeHead, DecodeHeadArguments, OHEMPixelSampler
from segkernel.sample import Targets


class Plain(DecodeHead):
    def __init__(self, **kwargs: Unpack[DecodeHeadArguments]) -> None:
        super().__init__(**kwargs)

    def forward(self, features: Features) -> Tensor:
        return self.cls_seg(self.select(features))


MAPS = [torch.randn(2, 4, 8, 10), torch.randn(2, 6, 4, 5)]
TARGETS = Targets({"seg": torch.randint(0, 3, (2, 16, 20), generator=torch.Generator().manual_seed(0))})


def test_arguments_for_subclasses_are_those_of_the_base() -> None:
    parameters = set(inspect.signature(DecodeHead.__init__).parameters) - {"self"}
    assert set(typing.get_type_hints(DecodeHeadArguments)) == parameters


def test_last_map_is_taken_by_default() -> None:
    assert Plain(in_channels=6, channels=6, num_classes=3)(MAPS).shape == (2, 3, 4, 5)


def test_maps_are_joined_at_the_size_of_the_first() -> None:
    head = Plain(in_channels=[4, 6], in_index=[0, 1], channels=10, num_classes=3, input_transform="resize_concat")
    assert head.in_channels == 10
    assert head(MAPS).shape == (2, 3, 8, 10)


def test_maps_are_kept_separate() -> None:
    head = Plain(in_channels=[6, 4], in_index=[-1, 0], channels=4, num_classes=3, input_transform="multiple_select")
    assert [x.shape[1] for x in head.select(MAPS)] == [6, 4]


def test_two_losses_of_one_name_are_added() -> None:
    single = Plain(in_channels=6, channels=6, num_classes=3, dropout_ratio=0)
    double = Plain(
        in_channels=6, channels=6, num_classes=3, dropout_ratio=0, loss_decode=[CrossEntropyLoss(), CrossEntropyLoss()]
    )
    double.load_state_dict(single.state_dict())
    assert torch.allclose(double.loss(MAPS, TARGETS)["loss_ce"], 2 * single.loss(MAPS, TARGETS)["loss_ce"])


def test_losses_are_logged_under_their_names() -> None:
    loss = [CrossEntropyLoss(), CrossEntropyLoss(loss_name="loss_second", loss_weight=0.5)]
    losses = Plain(in_channels=6, channels=6, num_classes=3, loss_decode=loss).loss(MAPS, TARGETS)
    assert set(losses) == {"loss_ce", "loss_second", "acc_seg"}
    assert all(value.ndim == 0 for value in losses.values())


def test_sampler_weights_the_loss() -> None:
    torch.manual_seed(0)
    head = Plain(in_channels=6, channels=6, num_classes=3, sampler=OHEMPixelSampler(min_kept=10), dropout_ratio=0)
    every = Plain(in_channels=6, channels=6, num_classes=3, dropout_ratio=0)
    every.load_state_dict(head.state_dict())
    assert head.loss(MAPS, TARGETS)["loss_ce"] < every.loss(MAPS, TARGETS)["loss_ce"]


def test_binary_map_of_one_channel() -> None:
    head = Plain(in_channels=6, channels=6, num_classes=2, out_channels=1)
    assert (head.output.classes, head.output.out_channels) == (2, 1)
    assert (head.output.activation, head.output.threshold) == ("sigmoid", 0.3)


def test_the_default_output_is_a_softmax_without_threshold() -> None:
    output = Plain(in_channels=6, channels=6, num_classes=2, align_corners=True).output
    assert (output.activation, output.threshold, output.align_corners) == ("softmax", None, True)


@pytest.mark.parametrize(("classes", "channels"), [(3, 1), (2, 3), (19, 20)])
def test_other_numbers_of_channels_are_refused(classes: int, channels: int) -> None:
    with pytest.raises(ConfigError, match="out_channels"):
        Plain(in_channels=6, channels=6, num_classes=classes, out_channels=channels)


@pytest.mark.parametrize(
    "arguments",
    [
        {"in_channels": [4, 6]},
        {"in_channels": [4, 6], "in_index": [0, 1]},
        {"in_channels": 4, "in_index": [0], "input_transform": "multiple_select"},
        {"in_channels": [4, 6], "in_index": [0], "input_transform": "resize_concat"},
    ],
)
def test_inputs_that_do_not_fit_each_other_are_refused(arguments: dict) -> None:
    with pytest.raises(ConfigError, match="in_index"):
        Plain(channels=4, num_classes=3, **arguments)


def test_a_missing_feature_map_is_named() -> None:
    with pytest.raises(ConfigError, match="in_index 5, but there are 2"):
        Plain(in_channels=6, in_index=5, channels=6, num_classes=3)(MAPS)


def test_last_convolution_starts_small() -> None:
    head = Plain(in_channels=64, channels=64, num_classes=19)
    assert head.conv_seg.weight.std().item() == pytest.approx(0.01, rel=0.2)
    assert (head.conv_seg.bias == 0).all()


def test_prediction_and_loss_take_one_pass_unless_a_subclass_overrides_the_loss() -> None:
    head = Plain(in_channels=6, channels=6, num_classes=3).eval()
    runs = []
    head.register_forward_hook(lambda *_: runs.append(1))
    logits, losses = head.predict_with_loss(MAPS, TARGETS)
    assert (head.one_pass, len(runs)) == (True, 1)
    assert torch.equal(logits, head.predict(MAPS))
    assert losses == head.loss(MAPS, TARGETS)

    class Own(Plain):
        def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
            return {"loss_own": self(features).mean()}

    own = Own(in_channels=6, channels=6, num_classes=3).eval()
    assert not own.one_pass
    assert set(own.predict_with_loss(MAPS, TARGETS)[1]) == {"loss_own"}


def test_the_old_name_of_the_losses_of_logits_warns() -> None:
    head = Plain(in_channels=6, channels=6, num_classes=3).eval()
    with pytest.warns(SegKernelRemovedIn04Warning, match="removed in 0.4; use .*loss_by_logits"):
        assert head.loss_by_scores(head(MAPS), TARGETS["seg"]) == head.loss(MAPS, TARGETS)
