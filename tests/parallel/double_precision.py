"""A segmentor in float64, so that two processes and one can be compared to the last digits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from segkernel.interfaces.model import Backbone, Head
from segplug_heads import EncoderDecoder


class DoubleEncoderDecoder(EncoderDecoder):
    """`EncoderDecoder` whose weights and images are float64.

    Args:
        backbone: Images to feature maps.
        decode_head: Feature maps to logits.
    """

    def __init__(self, backbone: Backbone, decode_head: Head) -> None:
        super().__init__(backbone, decode_head)
        self.double()

    def extract_feat(self, images: Tensor) -> Sequence[Tensor]:
        return super().extract_feat(images.double())
