"""A segmentor of what changed between two images of one place.

Daudt, Le Saux and Boulch, Fully Convolutional Siamese Networks for Change Detection, 2018
(https://arxiv.org/abs/1810.08462): ``fusion`` makes FC-Siam-conc or FC-Siam-diff of it. Their FC-EF, which sees both
images as one of twice the channels, is an `EncoderDecoder`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from segkernel.errors import ConfigError, Problem, UsageError
from segkernel.interfaces.model import Backbone, Head, Neck, TestConfig
from segplug_heads.segmentors.encoder_decoder import EncoderDecoder

Fusion = Literal["concat", "difference"]


class SiamEncoderDecoder(EncoderDecoder):
    """Two images, one after the other in the channels (N, 2 C, H, W) -> logits (N, K, h, w) of ``decode_head``.

    Both go through the same backbone; heads, and the neck before them, see what ``fusion`` makes of the two maps of
    each stride.

    Args:
        backbone: One image (N, C, H, W) to feature maps.
        decode_head: Fused feature maps to logits.
        fusion: ``concat`` joins the maps of the first and the second image, which gives twice the channels;
            ``difference`` takes the absolute value of their difference.
        branch: A further backbone, which sees both images at once, (N, 2 C, H, W); its maps are joined to the fused
            ones. None for none.
        neck: Feature maps to feature maps, after the fusion; none for None.
        auxiliary_head: Heads whose losses help in training.
        train_cfg: Not used, accepted for existing configs.
        test_cfg: Inference mode of `segkernel.inference`: whole images or sliding windows.
        pretrained: Weights of ``backbone``, loaded by `segkernel.build` and runs after construction, not by the class.

    Raises:
        ConfigError: The maps of ``branch`` are not at the strides of the backbone's, or a head does not fit the fused
            ones.
    """

    conformance: ClassVar[Any] = [
        {
            "backbone": {"type": "segkernel.testing.toys:ToyBackbone"},
            "decode_head": {"type": "FCNHead", "in_channels": 32, "channels": 8, "num_classes": 2},
        },
        {
            "backbone": {"type": "segkernel.testing.toys:ToyBackbone"},
            "decode_head": {"type": "FCNHead", "in_channels": 32, "channels": 8, "num_classes": 2},
            "fusion": "difference",
            "branch": {"type": "segkernel.testing.toys:ToyBackbone", "in_channels": 6},
        },
    ]
    conformance_inputs: ClassVar = {"channels": 6}

    def __init__(
        self,
        backbone: Backbone,
        decode_head: Head,
        fusion: Fusion = "concat",
        branch: Backbone | None = None,
        neck: Neck | None = None,
        auxiliary_head: Head | Sequence[Head] | None = None,
        train_cfg: dict[str, Any] | None = None,
        test_cfg: TestConfig | None = None,
        pretrained: str | None = None,
    ) -> None:
        self._fused = _fused_channels(backbone, fusion, branch)  # before the heads are checked
        super().__init__(
            backbone,
            decode_head,
            neck=neck,
            auxiliary_head=auxiliary_head,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            pretrained=pretrained,
        )
        self.fusion, self.branch = fusion, branch

    def feature_channels(self) -> Sequence[int] | None:
        return self._fused if self.neck is None else None

    def extract_feat(self, images: Tensor) -> Sequence[Tensor]:
        """Return the fused feature maps of normalised pairs of images (N, 2 C, H, W), finest first."""
        if images.shape[1] % 2:
            raise UsageError(f"{images.shape[1]} channels are not two images; ConcatCDInput joins two")
        # Both images in one batch: batch norm has common statistics for them.
        both = self.backbone(torch.cat(images.chunk(2, 1)))
        features = tuple(self._fuse(*x.unflatten(0, (2, -1))) for x in both)
        if self.branch is not None:
            features = tuple(torch.cat(maps, 1) for maps in zip(features, self.branch(images), strict=True))
        return features if self.neck is None else self.neck(features)

    def _fuse(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.cat([first, second], 1) if self.fusion == "concat" else (second - first).abs()


def _fused_channels(backbone: Backbone, fusion: Fusion, branch: Backbone | None) -> list[int]:
    """Return the channels of the fused maps."""
    channels = [width * (2 if fusion == "concat" else 1) for width in backbone.channels]
    if branch is None:
        return channels
    if tuple(branch.strides) != tuple(backbone.strides):
        message = f"its maps are at strides {list(branch.strides)}, those of the backbone at {list(backbone.strides)}"
        raise ConfigError(Problem(message, "branch"))
    return [fused + width for fused, width in zip(channels, branch.channels, strict=True)]
