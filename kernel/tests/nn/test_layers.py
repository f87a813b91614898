"""Layers from ``norm_cfg``, ``act_cfg`` and others, and invalid configs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segkernel import build
from segkernel.catalog import Catalog, Row
from segkernel.errors import AmbiguousComponentError, ConfigError, UnknownComponentError
from segkernel.nn import (
    DropPath,
    SyncBatchNorm2d,
    build_activation,
    build_conv,
    build_dropout,
    build_norm,
    build_upsample,
    drop_path,
)


@pytest.mark.parametrize(
    ("cfg", "name", "kind"),
    [
        ({"type": "BN"}, "bn1", nn.BatchNorm2d),
        ({"type": "SyncBN"}, "bn1", nn.BatchNorm2d),
        ({"type": "GN", "num_groups": 4}, "gn1", nn.GroupNorm),
        ({"type": "LN"}, "ln1", nn.LayerNorm),
        ({"type": "IN"}, "in1", nn.InstanceNorm2d),
    ],
)
def test_norm_has_the_name_it_has_in_a_checkpoint(cfg: dict, name: str, kind: type) -> None:
    given, norm = build_norm(cfg, 8, postfix=1)
    assert given == name
    assert isinstance(norm, kind)


def test_norm_is_frozen_on_request() -> None:
    _, norm = build_norm({"type": "BN", "requires_grad": False}, 4)
    assert not any(parameter.requires_grad for parameter in norm.parameters())


def test_synchronised_norm_is_marked_for_engines_of_several_devices() -> None:
    assert isinstance(build_norm({"type": "SyncBN"}, 4)[1], SyncBatchNorm2d)
    assert not isinstance(build_norm({"type": "BN"}, 4)[1], SyncBatchNorm2d)


def test_config_is_not_changed() -> None:
    cfg = {"type": "GN", "num_groups": 2, "requires_grad": False}
    build_norm(cfg, 4)
    assert cfg == {"type": "GN", "num_groups": 2, "requires_grad": False}


@pytest.mark.parametrize("name", ["ReLU", "ReLU6", "GELU", "SiLU", "HSwish", "Sigmoid", "PReLU", "LeakyReLU"])
def test_activation_keeps_the_shape(name: str) -> None:
    assert build_activation({"type": name}, inplace=True)(torch.randn(2, 3, 4, 4)).shape == (2, 3, 4, 4)


def test_conv_is_two_dimensional_by_default() -> None:
    assert isinstance(build_conv(None, 3, 4, 1), nn.Conv2d)
    assert isinstance(build_conv({"type": "Conv1d"}, 3, 4, 1), nn.Conv1d)


def test_upsample_takes_mode_from_its_type() -> None:
    up = build_upsample({"type": "bilinear", "scale_factor": 2, "align_corners": False})
    assert up(torch.randn(1, 2, 3, 4)).shape == (1, 2, 6, 8)


def test_layer_norm_of_maps_normalises_the_channels_of_each_position() -> None:
    name, norm = build_norm({"type": "LN2d", "eps": 1e-6}, 8)
    x = torch.randn(2, 8, 3, 5)
    assert name == "ln"
    expected = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-6).sqrt()
    torch.testing.assert_close(norm(x), expected)


def test_unknown_layer_names_near_ones() -> None:
    with pytest.raises(UnknownComponentError) as caught:
        build_norm({"type": "SyncBn"}, 4)
    assert "SyncBN" in caught.value.near
    assert "segkernel.nn" in caught.value.searched


@pytest.mark.parametrize("cfg", ["BN", {}, {"num_groups": 2}, None, {"type": 3}])
def test_config_without_a_type_is_refused(cfg: object) -> None:
    with pytest.raises(ConfigError, match="norm_cfg"):
        build_norm(cfg, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("cfg", [{"type": "BN", "momentun": 0.1}, {"type": "GN", "num_groups": 3}])
def test_argument_that_a_layer_refuses_is_a_config_error(cfg: dict) -> None:
    with pytest.raises(ConfigError, match="norm_cfg"):
        build_norm(cfg, 4)


def test_dropped_paths_are_whole_images_and_keep_the_mean() -> None:
    torch.manual_seed(0)
    out = drop_path(torch.ones(4000, 2, 1, 1), 0.25, training=True)
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert (out[:, 0] == out[:, 1]).all()
    assert out.mean().item() == pytest.approx(1.0, abs=0.05)


def test_no_path_is_dropped_in_eval() -> None:
    layer = build_dropout({"type": "DropPath", "drop_prob": 0.9}).eval()
    assert isinstance(layer, DropPath)
    assert (layer(torch.ones(8, 1)) == 1).all()


def test_dropout_of_none_is_the_identity() -> None:
    assert isinstance(build_dropout(None), nn.Identity)
    assert build_dropout({"type": "Dropout", "drop_prob": 0.3}).p == 0.3


class OneNorm(nn.BatchNorm2d):
    """A norm of the distribution ``dist-one``."""


class TwoNorm(nn.BatchNorm2d):
    """A norm of the distribution ``dist-two``."""


@pytest.mark.parametrize(("prefer", "kind"), [("dist-one", OneNorm), ("dist-two", TwoNorm)])
def test_a_layer_that_two_distributions_offer_is_the_preferred_one_s(prefer: str, kind: type) -> None:
    rows = tuple(
        Row("layers", "MyNorm", f"dist-{name}", "1", f"{__name__}:{name.title()}Norm") for name in ("one", "two")
    )
    with Catalog(rows, (prefer,)).active():
        assert type(build_norm({"type": "MyNorm"}, 4)[1]) is kind
    with Catalog(rows).active(), pytest.raises(AmbiguousComponentError, match="dist-one/MyNorm or dist-two/MyNorm"):
        build_norm({"type": "MyNorm"}, 4)


class Normed(nn.Module):
    """Builds its norm itself, from a plain config."""

    def __init__(self, norm_cfg: dict) -> None:
        super().__init__()
        self.norm = build_norm(norm_cfg, 4)[1]


def test_layers_inside_a_component_follow_the_preferences_of_its_build() -> None:
    rows = tuple(
        Row("layers", "MyNorm", f"dist-{name}", "1", f"{__name__}:{name.title()}Norm") for name in ("one", "two")
    )
    spec = {"type": Normed, "norm_cfg": {"type": "MyNorm"}}
    assert type(build("parts", spec, catalog=Catalog(rows, ("dist-two",))).norm) is TwoNorm
