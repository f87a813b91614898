"""ConvNeXt, its second version and DINOv3's, as the authors, timm, transformers and torchvision publish them."""

from __future__ import annotations

import re
from typing import ClassVar

from torch import nn

from segplug_backbones.convnext import ConvNeXt
from segplug_backbones.weight_formats.renaming import Renaming, Weights

BLOCK: tuple[tuple[str, str], ...] = (
    (r"\.(dwconv|conv_dw)\.", ".depthwise_conv."),
    (r"\.(pwconv1|mlp\.fc1)\.", ".pointwise_conv1."),
    (r"\.(pwconv2|mlp\.fc2)\.", ".pointwise_conv2."),
    (r"\.(mlp\.)?grn\.weight$", ".grn.gamma"),
    (r"\.(mlp\.)?grn\.bias$", ".grn.beta"),
)
RESHAPED = re.compile(r"\.(pointwise_conv[12]\.weight|grn\.(gamma|beta))$")


class _ConvNeXtFormat(Renaming):
    """Names of a ConvNeXt; pointwise convolutions may be linear layers, and the parameters of GRN (1, 1, 1, C)."""

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, ConvNeXt)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        own, converted = module.state_dict(), super().convert(module, weights)
        for key in [key for key in converted if RESHAPED.search(key) and key in own]:
            if converted[key].numel() == own[key].numel():
                converted[key] = converted[key].reshape(own[key].shape)
        return converted


class OfficialConvNeXt(_ConvNeXtFormat):
    """The authors' names."""

    mark = r"^stages\.0\.0\.dwconv\.weight$"
    rules: ClassVar = BLOCK


class TransformersConvNeXt(_ConvNeXtFormat):
    """transformers' names, also those of DINOv3's ConvNeXt, in memory and in files."""

    mark = r"^(convnext(v2)?\.encoder\.)?stages\.0\.layers\.0\.(dwconv|depthwise_conv)\.weight$"
    rules: ClassVar = (
        (r"^convnext(v2)?\.(encoder\.)?", ""),
        (r"^embeddings\.patch_embeddings\.", "downsample_layers.0.0."),
        (r"^embeddings\.layernorm\.", "downsample_layers.0.1."),
        (r"^stages\.(\d)\.(downsampling_layer|downsample_layers)\.", r"downsample_layers.\1."),
        (r"^stages\.(\d)\.layers\.", r"stages.\1."),
        (r"^hidden_states_norms\.stage(\d)\.", lambda found: f"norm{int(found[1]) - 1}."),
        (r"^(layernorm|layer_norm)\.", "norm3."),  # of a classifier
        (r"\.(layernorm|layer_norm)\.", ".norm."),
        (r"\.layer_scale_parameter$", ".gamma"),
        *BLOCK,
    )


class TimmConvNeXt(_ConvNeXtFormat):
    """timm's names, also those of its ``features_only`` models, ``stages_0``."""

    mark = r"^stages[._]0\.blocks\.0\.conv_dw\.weight$"
    rules: ClassVar = (
        (r"^(stem|stages)_(\d)\.", r"\1.\2."),
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"^stages\.(\d)\.blocks\.", r"stages.\1."),
        *BLOCK,
    )


class TorchvisionConvNeXt(Renaming):
    """torchvision's names: stages and what comes between them in one sequence."""

    mark = r"^features\.1\.0\.layer_scale$"
    rules: ClassVar = (
        (r"^features\.([0246])\.", lambda found: f"downsample_layers.{int(found[1]) // 2}."),
        (r"^features\.([1357])\.(\d+)\.", lambda found: f"stages.{int(found[1]) // 2}.{found[2]}."),
        (r"\.layer_scale$", ".gamma"),
        (r"\.block\.0\.", ".depthwise_conv."),
        (r"\.block\.2\.", ".norm."),
        (r"\.block\.3\.", ".pointwise_conv1."),
        (r"\.block\.5\.", ".pointwise_conv2."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, ConvNeXt)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        converted = super().convert(module, weights)
        return {key: value.flatten() if key.endswith(".gamma") else value for key, value in converted.items()}
