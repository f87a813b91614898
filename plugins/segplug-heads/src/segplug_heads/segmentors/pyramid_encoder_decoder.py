"""A segmentor whose head takes the backbone's maps by their strides: a U-Net on any backbone.

model:
  type: PyramidEncoderDecoder
  backbone: {type: ResNet, depth: 34}
  decode_head: {type: UNetHead, num_classes: 19, norm_cfg: {type: BN}}
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple

from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Backbone, Head, Neck, TestConfig
from segkernel.interfaces.spec import Spec
from segplug_heads.heads.pyramid_head import PyramidHead
from segplug_heads.necks.simple_feature_pyramid import SimpleFeaturePyramid
from segplug_heads.segmentors.encoder_decoder import EncoderDecoder


class _Maps(NamedTuple):
    channels: tuple[int, ...]
    strides: tuple[int, ...]


class PyramidEncoderDecoder(EncoderDecoder):
    """Images (N, C, H, W) -> logits (N, K, h, w) of ``decode_head``, which is told its maps, channels and strides.

    Args:
        backbone: Images to feature maps. A class with an attribute ``pyramid`` is built to return one map for each
            halving of the resolution, from stride 2 on; arguments that are given, such as ``out_indices``, prevail.
            Maps of one stride only, as of a plain vision transformer, pass a `SimpleFeaturePyramid`.
        decode_head: Feature maps to logits; ``in_channels``, ``in_index`` and ``feature_strides`` may be left out.
        neck: Feature maps to feature maps of the ``channels`` and ``strides`` that it has as attributes.
        encoder_depth: How often the backbone halves the resolution, at most: 5 is up to stride 32.
        auxiliary_head: Heads whose losses help in training; ``in_channels`` may be left out.
        train_cfg: Not used, accepted for existing configs.
        test_cfg: Inference mode of `segkernel.inference`: whole images or sliding windows.
        pretrained: Weights to load into the backbone: a file, an address or a known name.

    Raises:
        ConfigError: The backbone lacks a stride that the head needs.
    """

    conformance: ClassVar[Any] = {
        "backbone": {"type": "segkernel.testing.toys:ToyBackbone"},
        "decode_head": {"type": "UNetHead", "num_classes": 4, "decoder_channels": [16, 16, 8, 8, 8]},
    }

    def __init__(
        self,
        backbone: Spec[Backbone] | Backbone,
        decode_head: Spec[PyramidHead] | PyramidHead,
        neck: Neck | None = None,
        encoder_depth: Literal[3, 4, 5] = 5,
        auxiliary_head: Spec[Head] | Head | Sequence[Spec[Head] | Head] | None = None,
        train_cfg: dict[str, Any] | None = None,
        test_cfg: TestConfig | None = None,
        pretrained: str | None = None,
    ) -> None:
        trunk = _built_backbone(backbone, encoder_depth)
        if neck is None and len({*trunk.strides}) == 1 and trunk.strides[0] > 4:
            neck = SimpleFeaturePyramid(trunk.channels[-1], stride=trunk.strides[-1])
        maps = _maps(trunk, neck)
        super().__init__(
            trunk,
            _built_head(decode_head, maps, encoder_depth),
            neck,
            auxiliary_head=_built_auxiliary(auxiliary_head, maps),
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            pretrained=pretrained,
        )


def _built_backbone(backbone: Spec[Backbone] | Backbone, depth: int) -> Backbone:
    if isinstance(backbone, Backbone):
        return backbone
    pyramid = getattr(backbone.factory, "pyramid", {}).get(depth, {})
    with _located("backbone"):
        return backbone.factory(**{**pyramid, **backbone.arguments})


def _maps(backbone: Backbone, neck: Neck | None) -> _Maps:
    """Return the channels and strides of the maps that heads receive."""
    source = backbone if neck is None else neck
    try:
        return _Maps(source.channels, source.strides)  # type: ignore[arg-type]
    except AttributeError:
        message = f"{type(neck).__name__} has no attributes `channels` and `strides`, by which a head chooses its maps"
        raise ConfigError(
            Problem(message, "neck", hint="use EncoderDecoder, and set in_channels of the heads")
        ) from None


def _built_head(head: Spec[PyramidHead] | PyramidHead, maps: _Maps, depth: int) -> PyramidHead:
    if isinstance(head, PyramidHead):
        return head
    strides = [stride for stride in maps.strides if stride <= 2**depth]
    # Where the last stages are dilated they have the stride of an earlier one, but each counts as a halving.
    strides = strides[: depth - round(math.log2(strides[0])) + 1] if strides else []
    factory: Any = head.factory
    chosen = head.arguments.get("in_index") or factory.select_maps(strides)
    with _located("decode_head"):
        inputs = {
            "in_index": chosen,
            "in_channels": [maps.channels[i] for i in chosen],
            "feature_strides": [maps.strides[i] for i in chosen],
        }
        return factory(**{**inputs, **head.arguments})


def _built_auxiliary(heads: Any, maps: _Maps) -> Any:
    if isinstance(heads, Sequence):
        return [_built_auxiliary(head, maps) for head in heads]
    if not isinstance(heads, Spec):
        return heads
    with _located("auxiliary_head"):
        index = heads.arguments.get("in_index", -1)
        several = isinstance(index, Sequence)
        width = [maps.channels[i] for i in index] if several else maps.channels[index]
        return heads.factory(**{"in_channels": width, **heads.arguments})


@contextmanager
def _located(key: str) -> Iterator[None]:
    """Report what a constructor refuses at its key in the config."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError([replace(p, path=f"{key}.{p.path}".rstrip(".")) for p in error.problems]) from error
    except (TypeError, IndexError) as error:
        raise ConfigError(Problem(str(error), key)) from error
