"""A segmentor whose pixels are depths."""

from __future__ import annotations

from typing import ClassVar

from segkernel.errors import ConfigError, Problem
from segplug_heads.heads.vpd_depth_head import VPDDepthHead
from segplug_heads.outputs import PixelValues
from segplug_heads.segmentors.encoder_decoder import EncoderDecoder


class DepthEstimator(EncoderDecoder):
    """Images (N, C, H, W) -> depths (N, 1, h, w) of ``decode_head``, in the unit of the annotations ``depth``.

    Arguments are those of `EncoderDecoder`. `segkernel.inference` runs on an image as ``test_cfg`` says; the mode
    ``slide_flip`` is that of published depth models: windows, each seen mirrored as well.

    Raises:
        ConfigError: The decode head gives logits of classes.
    """

    conformance: ClassVar = {
        "backbone": {"type": "segkernel.testing.toys:ToyBackbone", "channels": [16, 16, 16, 16]},
        "decode_head": {"type": "VPDDepthHead", **VPDDepthHead.conformance},
    }

    def _check_heads(self) -> None:
        super()._check_heads()
        if not isinstance(self.decode_head.output, PixelValues):
            message = f"{type(self.decode_head).__name__} gives logits of classes, not depths"
            raise ConfigError(Problem(message, "decode_head", hint="VPDDepthHead gives depths"))
