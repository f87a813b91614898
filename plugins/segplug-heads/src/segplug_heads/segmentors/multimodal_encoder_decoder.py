"""A segmentor of an image encoder, a text encoder and a head that compares the two (SAN)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

import segkernel.weights
from segkernel.annotations import Positive
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Backbone, Segmentor, TestConfig
from segkernel.nn import resize
from segkernel.sample import Targets
from segplug_heads.heads.san_head import SANInputs, SideAdapterCLIPHead
from segplug_heads.parts.clip_text_encoder import TextEncoder
from segplug_heads.segmentors.encoder_decoder import flattened
from segplug_heads.segmentors.plain_targets import targets_of


class MultimodalEncoderDecoder(Segmentor):
    """Images (N, C, H, W) -> logits (N, K, h, w) for the classes whose names the text encoder knows.

    Args:
        image_encoder: Images to pairs of a map and a class token, such as a `VisionTransformer` with
            ``output_cls_token``.
        text_encoder: Gives a vector for each class.
        decode_head: Images, maps and vectors to logits.
        train_cfg: Not used, accepted for existing configs.
        test_cfg: Inference mode of `segkernel.inference`: whole images or sliding windows.
        pretrained: Weights to load into the whole model: a file, an address or a known name.
        asymetric_input: The image encoder sees a smaller image than the head. (The spelling is MMSegmentation's.)
        encoder_resolution: By how much, as a factor of height and width.

    Raises:
        ConfigError: ``asymetric_input`` without ``encoder_resolution``.
    """

    conformance: ClassVar = {
        "image_encoder": {"type": "segplug_heads.segmentors.multimodal_encoder_decoder:ToyTokenBackbone"},
        "text_encoder": {
            "type": "CLIPTextEncoder",
            "vocabulary": ["cat", "dog", "tree", "house"],
            "templates": ["a photo of a {}."],
            "embed_dims": 8,
            "output_dims": 8,
            "num_layers": 1,
            "num_heads": 2,
        },
        "decode_head": {"type": "SideAdapterCLIPHead", **SideAdapterCLIPHead.conformance},
        "encoder_resolution": 0.5,
    }

    def __init__(
        self,
        image_encoder: Backbone,
        text_encoder: TextEncoder,
        decode_head: SideAdapterCLIPHead,
        train_cfg: dict[str, Any] | None = None,
        test_cfg: TestConfig | None = None,
        pretrained: str | None = None,
        asymetric_input: bool = True,
        encoder_resolution: Positive | None = None,
    ) -> None:
        super().__init__()
        if asymetric_input and encoder_resolution is None:
            message = "needed with asymetric_input: the size of the image encoder's images, as a factor"
            raise ConfigError(Problem(message, "encoder_resolution"))
        self.image_encoder, self.text_encoder, self.decode_head = image_encoder, text_encoder, decode_head
        self.encoder_resolution = encoder_resolution if asymetric_input else None
        self.train_cfg, self.pretrained = train_cfg, pretrained
        self.test_cfg: TestConfig = test_cfg or {"mode": "whole"}
        self.outputs = {"seg": decode_head.output}
        segkernel.weights.load_pretrained(self)

    def extract_feat(self, images: Tensor) -> SANInputs:
        """Return what the head takes: the images, the image encoder's maps, and the class embeddings."""
        seen = images
        # CLIP was trained on small images; the side network needs the full resolution for its masks.
        if self.encoder_resolution is not None:
            seen = resize(images, scale_factor=self.encoder_resolution)
        classes = self.text_encoder()
        return images, self.image_encoder(seen), classes.expand(images.shape[0], -1, -1)

    def forward(self, images: Tensor) -> Tensor:
        return self.decode_head(self.extract_feat(images))

    def loss(self, images: Tensor, targets: Targets | Tensor) -> dict[str, Tensor]:
        targets = targets_of(targets, images, self.decode_head)
        return flattened({"decode": self.decode_head.loss(self.extract_feat(images), targets)})

    @property
    def one_pass(self) -> bool:
        return super().one_pass and self.decode_head.one_pass

    def single_pass(self, images: Tensor, targets: Targets) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        size = (images.shape[2], images.shape[3])
        inputs: Any = self.extract_feat(images)
        logits, losses = self.decode_head.predict_with_loss(inputs, targets, size=size)
        return {"seg": logits}, flattened({"decode": losses})

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        return {"seg": self.decode_head.predict(self.extract_feat(images), (images.shape[2], images.shape[3]))}


class ToyTokenBackbone(Backbone):
    """Two pairs of a map at stride 16 and a token (N, C), as of a transformer; for conformance checks.

    Args:
        in_channels: Channels of the images.
        channels: C.
    """

    def __init__(self, in_channels: int = 3, channels: int = 8) -> None:
        super().__init__()
        self.channels, self.strides = (channels, channels), (16, 16)
        self.patches = nn.Conv2d(in_channels, channels, 16, 16)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, images: Tensor) -> tuple[Any, ...]:
        first = self.patches(images)
        second = self.mix(first).relu()
        return (first, first.mean((2, 3))), (second, second.mean((2, 3)))
