"""CLIP's weights with the names of OpenAI and OpenCLIP, for SAN, which is built on CLIP.

Learning Transferable Visual Models From Natural Language Supervision (CLIP), Radford et al., 2021
(https://arxiv.org/abs/2103.00020).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, ClassVar

from torch import Tensor, nn

from segkernel.interfaces.model import WeightFormat
from segkernel.weights import convert
from segplug_heads.heads.san_head import SideAdapterCLIPHead
from segplug_heads.segmentors.multimodal_encoder_decoder import MultimodalEncoderDecoder

Weights = dict[str, Tensor]
_IMAGE_LAYER = re.compile(r"^visual\.transformer\.resblocks\.(\d+)\.")


class CLIPSAN(WeightFormat):
    """CLIP's weights for a whole SAN.

    The first layers of CLIP's image encoder are SAN's image encoder, its last ones recognise the mask proposals; the
    side adapter network keeps its initial weights.
    """

    rules: ClassVar = (
        (r"\.ln_1\.", ".norms.0."),
        (r"\.ln_2\.", ".norms.1."),
        (r"\.attn\.(in_proj_|out_proj\.)", r".attentions.0.attn.\1"),
        (r"\.mlp\.c_fc\.", ".ffns.0.layers.0.0."),
        (r"\.mlp\.c_proj\.", ".ffns.0.layers.1."),
    )

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        fits = isinstance(module, MultimodalEncoderDecoder) and isinstance(module.decode_head, SideAdapterCLIPHead)
        return fits and {"visual.class_embedding", "token_embedding.weight"} <= set(keys)

    def convert(self, module: Any, weights: Weights) -> Weights:
        depth = len(module.image_encoder.layers)
        image: Weights = {}
        converted: Weights = {}
        for key, value in weights.items():
            layer = _IMAGE_LAYER.match(key)
            if layer and int(layer[1]) >= depth:
                name = f"layers.{int(layer[1]) - depth}.{key[layer.end() :]}"
                converted[f"decode_head.rec_with_attnbias.{self._layer_name(name)}"] = value
            elif key.startswith("visual.ln_post."):
                converted[f"decode_head.rec_with_attnbias.{key.removeprefix('visual.')}"] = value
            elif key == "visual.proj":
                converted["decode_head.rec_with_attnbias.proj.weight"] = value.T.contiguous()
            elif key.startswith("visual."):
                image[key] = value
            else:
                name = key.replace("transformer.resblocks.", "transformer.")
                converted[f"text_encoder.{self._layer_name(name)}"] = value
        encoder = convert(module.image_encoder, image).weights
        return converted | {f"image_encoder.{key}": value for key, value in encoder.items()}

    def _layer_name(self, name: str) -> str:
        """Return our name of a parameter of a layer."""
        for pattern, replacement in self.rules:
            name = re.sub(pattern, replacement, name)
        return name
