"""ConvNeXt as its authors, timm and torchvision publish it."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from segplug_backbones.convnext import ConvNeXt
from segplug_backbones.weight_formats.renaming import Renaming, Rule, Weights

BLOCK: tuple[tuple[str, str], ...] = (
    (r"\.(dwconv|conv_dw)\.", ".depthwise_conv."),
    (r"\.(pwconv1|mlp\.fc1)\.", ".pointwise_conv1."),
    (r"\.(pwconv2|mlp\.fc2)\.", ".pointwise_conv2."),
)


class OfficialConvNeXt(Renaming):
    """The authors' names."""

    mark = r"^stages\.0\.0\.dwconv\.weight$"
    rules: ClassVar = BLOCK

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, ConvNeXt)


class TimmConvNeXt(Renaming):
    """timm's names."""

    mark = r"^stages\.0\.blocks\.0\.conv_dw\.weight$"
    rules: ClassVar = (
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"^stages\.(\d)\.blocks\.", r"stages.\1."),
        *BLOCK,
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, ConvNeXt)


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


class TransformersConvNeXt(Renaming):
    """transformers' names, of ConvNeXt and ConvNeXt V2."""

    mark = r"^(convnext(v2)?\.)?(encoder\.)?stages\.0\.layers\.0\.dwconv\.weight$"
    rules: ClassVar[tuple[Rule, ...]] = (
        (r"^convnext(v2)?\.", ""),
        (r"^encoder\.", ""),
        (r"^embeddings\.patch_embeddings\.", "downsample_layers.0.0."),
        (r"^embeddings\.layernorm\.", "downsample_layers.0.1."),
        (r"^hidden_states_norms\.stage(\d)\.", lambda found: f"norm{int(found[1]) - 1}."),
        (r"^layernorm\.", "norm3."),  # of a classifier
        (r"^stages\.(\d)\.downsampling_layer\.", r"downsample_layers.\1."),
        (r"^stages\.(\d)\.layers\.", r"stages.\1."),
        (r"\.layer_scale_parameter$", ".gamma"),
        (r"\.dwconv\.", ".depthwise_conv."),
        (r"\.layernorm\.", ".norm."),
        (r"\.pwconv(\d)\.", r".pointwise_conv\1."),
        (r"\.grn\.weight$", ".grn.gamma"),
        (r"\.grn\.bias$", ".grn.beta"),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, ConvNeXt)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        converted = super().convert(module, weights)
        return {key: value.flatten() if ".grn." in key else value for key, value in converted.items()}
