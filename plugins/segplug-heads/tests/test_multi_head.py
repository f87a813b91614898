"""Several heads on one backbone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from segkernel.errors import ConfigError
from segkernel.inference import infer
from segkernel.sample import Targets
from segkernel.testing.toys import ToyBackbone
from segplug_heads import FCNHead, MultiHeadSegmentor, OCRHead


def head(in_channels: int = 16, in_index: int = -1, classes: int = 4, **more: Any) -> FCNHead:
    return FCNHead(in_channels=in_channels, in_index=in_index, channels=8, num_classes=classes, num_convs=1, **more)


def model(heads: dict[str, FCNHead] | None = None, **more: Any) -> MultiHeadSegmentor:
    torch.manual_seed(0)
    return MultiHeadSegmentor(ToyBackbone(), heads or {"seg": head(), "lane": head(classes=2)}, **more)


def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def targets(**more: torch.Tensor) -> Targets:
    generator = torch.Generator().manual_seed(1)
    drawn = {name: torch.randint(0, k, (2, 64, 64), generator=generator) for name, k in (("seg", 4), ("lane", 2))}
    return Targets({**drawn, **more})


def test_every_head_has_its_output_and_its_losses() -> None:
    net = model()
    assert {name: scores.shape[1] for name, scores in net.predict(images()).items()} == {"seg": 4, "lane": 2}
    assert {"seg.loss_ce", "lane.loss_ce", "lane.acc_seg"} <= net.loss(images(), targets()).keys()
    assert net(images()).shape[1] == 4


def test_a_binary_head_beside_others_becomes_labels() -> None:
    net = model({"seg": head(), "lane": head(classes=2, out_channels=1, threshold=0.5)}).eval()
    scores = infer(net.predict, images(), net.outputs, net.test_cfg)
    assert net.outputs["lane"].decode(scores["lane"][:1]).unique().tolist() in ([0], [1], [0, 1])
    assert net.outputs["lane"].activation == "sigmoid"


def test_a_head_learns_its_configured_field() -> None:
    both = model(labels={"lane": "seg"}, heads={"seg": head(), "lane": head()}).eval()
    both.heads["lane"].load_state_dict(both.heads["seg"].state_dict())
    losses = both.loss(images(), targets())
    assert losses["lane.loss_ce"] == losses["seg.loss_ce"]


def test_pixel_weights_reach_the_loss_of_their_head_alone() -> None:
    net = model(weights={"lane": "lane_weight"}).eval()
    plain = model().eval().loss(images(), targets())
    weighted = net.loss(images(), targets(lane_weight=torch.full((2, 64, 64), 0.5)))
    assert weighted["seg.loss_ce"].item() == pytest.approx(plain["seg.loss_ce"].item())
    assert weighted["lane.loss_ce"].item() == pytest.approx(plain["lane.loss_ce"].item() / 2)


@pytest.mark.parametrize("take", ["logits", "features"])
def test_a_serial_head_works_on_what_another_gives(take: str) -> None:
    heads = {"lane": head(in_channels=4 if take == "logits" else 8, classes=2), "seg": head()}
    net = model(heads, links={"lane": [{"head": "seg", "take": take, "join": "replace"}]}).eval()
    features = net.extract_feat(images())
    taken = net.heads["seg"](features)
    if take == "features":
        taken = net.heads["seg"].convs(features[-1])
        taken = net.heads["seg"].conv_cat(torch.cat([features[-1], taken], 1))
    torch.testing.assert_close(net.predict(images())["lane"], net.heads["lane"]([taken]))


def test_an_appended_map_is_joined_with_those_of_the_trunk() -> None:
    joined = head(in_channels=[16, 4], in_index=[-2, -1], classes=2, input_transform="resize_concat")
    net = model({"seg": head(), "lane": joined}, links={"lane": [{"head": "seg"}]}).eval()
    features = net.extract_feat(images())
    expected = net.heads["lane"]([*features, net.heads["seg"](features)])
    torch.testing.assert_close(net.predict(images())["lane"], expected)


@pytest.mark.parametrize("detach", [False, True])
def test_the_gradient_passes_a_link_unless_detached(detach: bool) -> None:
    heads = {"seg": head(), "lane": head(in_channels=4, classes=2)}
    net = model(heads, links={"lane": [{"head": "seg", "join": "replace", "detach": detach}]})
    net.loss(images(), targets())["lane.loss_ce"].backward()
    assert (net.heads["seg"].conv_seg.weight.grad is None) == detach


def test_a_head_runs_once_in_training_however_many_take_from_it() -> None:
    net = model(links={"lane": [{"head": "seg"}]}, heads={"seg": head(), "lane": head(in_channels=4, classes=2)})
    calls: list[int] = []
    net.heads["seg"].register_forward_hook(lambda *_: calls.append(1))
    net.loss(images(), targets())
    assert len(calls) == 1


def test_a_head_for_training_only_gives_no_output() -> None:
    net = model(training_only=["lane"])
    assert set(net.outputs) == set(net.predict(images())) == {"seg"}
    assert "lane.loss_ce" in net.loss(images(), targets())


def test_it_exports_with_all_outputs() -> None:
    heads = {"seg": head(), "lane": head(in_channels=4, classes=2)}
    net = model(heads, links={"lane": [{"head": "seg", "join": "replace"}]}).eval()

    class Outputs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(self.net.predict(x).values())

    exported = torch.export.export(Outputs(), (images(),), strict=False).module()
    for ours, theirs in zip(net.predict(images()).values(), exported(images()), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": {"main": head()}}, "one output is called 'seg'"),
        ({"training_only": ["seg"]}, "one output is called 'seg'"),
        ({"labels": {"lines": "seg"}}, "unknown head 'lines'"),
        ({"links": {"lane": [{"head": "lines"}]}}, "unknown head 'lines'"),
        ({"links": {"lane": [{"head": "seg"}], "seg": [{"head": "lane"}]}}, "depend on each other"),
        ({"links": {"lane": [{"head": "lane"}]}}, "depend on each other"),
    ],
)
def test_incompatible_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model(**arguments)


def test_a_refining_head_is_sent_elsewhere() -> None:
    ocr = OCRHead(in_channels=16, channels=8, ocr_channels=8, num_classes=4)
    with pytest.raises(ConfigError, match="CascadeEncoderDecoder"):
        model({"seg": head(), "lane": ocr})


def test_a_missing_label_field_is_named_with_the_existing_ones() -> None:
    with pytest.raises(ConfigError, match=r"no field 'lane' for the head 'lane'[\s\S]*seg"):
        model().loss(images(), Targets({"seg": targets()["seg"]}))
