"""OneFormer for semantic segmentation: the task is "the task is semantic".

Probabilities of classes and masks are multiplied at the stride of the masks, as its image processor does. The text
encoder, which takes part in training only, is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segplug_heads.hugging_face.mask2former import backbone_of, decoder, losses, transformer
from segplug_heads.hugging_face.values import ACTIVATIONS, only

DEFAULTS: dict[str, Any] = {
    "conv_dim": 256,
    "mask_dim": 256,
    "hidden_dim": 256,
    "encoder_feedforward_dim": 1024,
    "encoder_layers": 6,
    "decoder_layers": 10,
    "query_dec_layers": 2,
    "num_attention_heads": 8,
    "dropout": 0.1,
    "dim_feedforward": 2048,
    "ignore_value": 255,
    "num_queries": 150,
}


def segmentor(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model of a ``OneFormerConfig``."""
    config = DEFAULTS | dict(config)
    only(config, pre_norm=False, common_stride=4, use_task_norm=True, norm="GN", task_seq_len=77, layer_norm_eps=1e-5)
    only(config, enforce_input_proj=False)  # transformers neither saves nor loads these projections
    backbone, widths = backbone_of(config)
    head = {
        "type": "OneFormerHead",
        "out_channels": config["mask_dim"],
        "query_decoder": decoder(config, config["query_dec_layers"], ACTIVATIONS["relu"], config["dropout"]),
        "inference_size": "masks",
        **transformer(config, widths, config["conv_dim"], "relu"),
        **losses(config),
    }
    return {"type": "EncoderDecoder", "backbone": backbone, "decode_head": head, "direct_resize": True}
