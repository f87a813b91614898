"""CLIP's weights in SAN: where no mask is told from another, its image and text vectors are CLIP's.

CLIP is written out here as functions of its weights, in the names of OpenAI.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from segkernel import build
from segkernel.nn import fit_shapes
from segkernel.weights import convert, load_weights
from segplug_heads import MultimodalEncoderDecoder
from segplug_heads.parts.clip_tokenizer import tokenize

Weights = dict[str, Tensor]
IMAGE_WIDTH, TEXT_WIDTH, VECTOR, HEADS, MASKS = 12, 8, 6, 2, 5
IMAGE_LAYERS, FIRST, TEXT_LAYERS = 3, 2, 2


def san() -> MultimodalEncoderDecoder:
    """SAN whose image encoder has the first two of CLIP's three layers."""
    vit = {"img_size": 32, "patch_size": 8, "patch_pad": 0, "embed_dims": IMAGE_WIDTH, "num_layers": FIRST,
           "num_heads": HEADS, "out_origin": True, "out_indices": (0, 1), "output_cls_token": True, "pre_norm": True,
           "act_cfg": {"type": "QuickGELU"}}  # fmt: skip
    text = {"vocabulary": ["cat", "dog"], "templates": ["a photo of a {}."], "embed_dims": TEXT_WIDTH,
            "output_dims": VECTOR, "num_layers": TEXT_LAYERS, "num_heads": HEADS}  # fmt: skip
    beside = {"clip_channels": IMAGE_WIDTH, "embed_dims": 8, "num_queries": MASKS, "fusion_index": [0, 1],
              "cfg_encoder": {"num_encode_layer": 2, "num_heads": 2, "mlp_ratio": 2},
              "cfg_decoder": {"num_heads": HEADS, "embed_channels": 8, "mlp_channels": 8, "num_mlp": 2,
                              "rescale": True}}  # fmt: skip
    naming = {"sos_token_num": MASKS, "num_layers": IMAGE_LAYERS - FIRST, "embed_dims": IMAGE_WIDTH,
              "num_heads": HEADS, "out_dims": VECTOR, "act_cfg": {"type": "QuickGELU"}}  # fmt: skip
    head: dict[str, Any] = {"type": "SideAdapterCLIPHead", "num_classes": 2, "san_cfg": beside, "maskgen_cfg": naming}
    return build(
        "segmentors",
        {
            "type": "MultimodalEncoderDecoder",
            "image_encoder": {"type": "VisionTransformer", **vit},
            "text_encoder": {"type": "CLIPTextEncoder", **text},
            "decode_head": head,
            "encoder_resolution": 0.5,
        },
    )


def clip() -> Weights:
    shapes: dict[str, tuple[int, ...]] = {
        "visual.class_embedding": (IMAGE_WIDTH,),
        "visual.positional_embedding": (17, IMAGE_WIDTH),
        "visual.conv1.weight": (IMAGE_WIDTH, 3, 8, 8),
        "visual.proj": (IMAGE_WIDTH, VECTOR),
        "token_embedding.weight": (49408, TEXT_WIDTH),
        "positional_embedding": (77, TEXT_WIDTH),
        "text_projection": (TEXT_WIDTH, VECTOR),
        "logit_scale": (),
    }
    for name, width in (("visual.ln_pre", IMAGE_WIDTH), ("visual.ln_post", IMAGE_WIDTH), ("ln_final", TEXT_WIDTH)):
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    for tower, width, layers in (("visual.", IMAGE_WIDTH, IMAGE_LAYERS), ("", TEXT_WIDTH, TEXT_LAYERS)):
        for i in range(layers):
            at = f"{tower}transformer.resblocks.{i}"
            shapes |= {f"{at}.attn.in_proj_weight": (3 * width, width), f"{at}.attn.in_proj_bias": (3 * width,)}
            for name, out, inputs in (("attn.out_proj", width, width), ("mlp.c_fc", 4 * width, width),
                                      ("mlp.c_proj", width, 4 * width)):  # fmt: skip
                shapes |= {f"{at}.{name}.weight": (out, inputs), f"{at}.{name}.bias": (out,)}
            shapes |= {f"{at}.{norm}.{leaf}": (width,) for norm in ("ln_1", "ln_2") for leaf in ("weight", "bias")}
    generator = torch.Generator().manual_seed(0)
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])


def transformer(w: Weights, tower: str, x: Tensor, layers: int, causal: bool) -> Tensor:
    for i in range(layers):
        at = f"{tower}transformer.resblocks.{i}"
        y = F.linear(layer_norm(w, f"{at}.ln_1", x), w[f"{at}.attn.in_proj_weight"], w[f"{at}.attn.in_proj_bias"])
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in y.chunk(3, -1))
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)
        x = x + linear(w, f"{at}.attn.out_proj", seen)
        y = linear(w, f"{at}.mlp.c_fc", layer_norm(w, f"{at}.ln_2", x))
        x = x + linear(w, f"{at}.mlp.c_proj", y * torch.sigmoid(1.702 * y))
    return x


def image_vectors(w: Weights, images: Tensor) -> Tensor:
    x = F.conv2d(images, w["visual.conv1.weight"], stride=8).flatten(2).transpose(1, 2)
    x = torch.cat([w["visual.class_embedding"].expand(len(x), 1, -1), x], 1) + w["visual.positional_embedding"]
    x = transformer(w, "visual.", layer_norm(w, "visual.ln_pre", x), IMAGE_LAYERS, causal=False)
    return F.normalize(layer_norm(w, "visual.ln_post", x[:, 0]) @ w["visual.proj"], dim=-1)


def text_vectors(w: Weights, texts: list[str]) -> Tensor:
    tokens = tokenize(texts, 77)
    x = w["token_embedding.weight"][tokens] + w["positional_embedding"]
    x = layer_norm(w, "ln_final", transformer(w, "", x, TEXT_LAYERS, causal=True))
    return F.normalize(x[torch.arange(len(texts)), tokens.argmax(1)] @ w["text_projection"], dim=-1)


def test_san_is_made_of_clip() -> None:
    w, model = clip(), san()
    found = convert(model, w)
    assert found.format == "CLIPSAN"
    report = load_weights(model, found.weights, mode="finetune")
    own = ("decode_head.side_adapter_network.", "text_encoder.bg_embed")
    assert [name for name in report.fresh if not name.startswith(own)] == []
    assert (report.reshaped, set(found.weights) <= set(model.state_dict())) == ((), True)
    model.eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    last = model.image_encoder(images)[-1]
    no_bias = [torch.zeros(2, HEADS, MASKS, 4, 4)]
    masks = model.decode_head.rec_with_attnbias(no_bias, last)  # each sees the whole image, as CLIP's class token does
    theirs = image_vectors(w, images)
    torch.testing.assert_close(masks, theirs[:, None].expand_as(masks), rtol=1e-4, atol=1e-5)
    classes = model.text_encoder()
    theirs = text_vectors(w, ["a photo of a cat.", "a photo of a dog."]) * w["logit_scale"].exp()
    torch.testing.assert_close(classes[:2], theirs, rtol=1e-4, atol=1e-5)


def test_positions_of_another_image_size_are_resampled() -> None:
    w = clip()
    w["visual.positional_embedding"] = torch.randn(1 + 49, IMAGE_WIDTH)
    resized = fit_shapes(san(), convert(san(), w).weights)
    assert resized == [("image_encoder.pos_embed", (1, 50, IMAGE_WIDTH), (1, 17, IMAGE_WIDTH))]
