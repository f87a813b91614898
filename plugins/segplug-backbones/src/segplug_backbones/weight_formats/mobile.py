"""RepViT, FastViT, MobileOne and EdgeNeXt as their authors publish them."""

from __future__ import annotations

import re
from typing import ClassVar

from torch import nn

from segplug_backbones.edgenext import EdgeNeXt
from segplug_backbones.fastvit import FastViT
from segplug_backbones.mobileone import MobileOne
from segplug_backbones.repvit import RepViT
from segplug_backbones.weight_formats.renaming import Renaming, Rule, Weights, rename, without_prefix

BRANCHES: tuple[Rule, ...] = (
    (r"\.rbr_conv\.", ".conv_kxk."),
    (r"\.rbr_scale\.", ".conv_scale."),
    (r"\.rbr_skip\.", ".identity."),
    (r"\.se\.reduce\.", ".attn.fc1."),
    (r"\.se\.expand\.", ".attn.fc2."),
)
"""The branches of a block of MobileOne."""


class OfficialMobileOne(Renaming):
    """The authors' names."""

    mark = r"^stage0\.rbr_conv\.0\.conv\.weight$"
    rules: ClassVar = (
        (r"^stage0\.", "stem."),
        (r"^stage(\d)\.", lambda found: f"stages.{int(found[1]) - 1}."),
        *BRANCHES,
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, MobileOne)


class OfficialFastViT(Renaming):
    """The authors' names: stages, downsampling and position encodings in one sequence."""

    mark = r"^patch_embed\.0\.rbr_conv\.0\.conv\.weight$"
    rules: ClassVar = (
        (r"^patch_embed\.", "stem."),
        *BRANCHES,
        (r"\.lkb_origin\.", ".large_conv."),
        (r"\.convffn\.", ".mlp."),
        (r"(\.layer_scale(_\d)?)$", r"\1.gamma"),
        (r"\.pos_emb\.pe\.", ".pos_emb.pos_enc."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, FastViT)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        weights = without_prefix(weights)
        stage, numbers = 0, {}
        for number in sorted({int(found[1]) for key in weights if (found := re.match(r"network\.(\d+)\.", key))}):
            is_downsample = any(key.startswith(f"network.{number}.proj.") for key in weights)
            is_encoding = any(key.startswith(f"network.{number}.pe.") for key in weights)
            stage += is_downsample
            part = "downsample" if is_downsample else "pos_emb" if is_encoding else "blocks"
            numbers[str(number)] = f"stages.{stage}.{part}."
        placed = {re.sub(r"^network\.(\d+)\.", lambda found: numbers[found[1]], key): weights[key] for key in weights}
        return rename(placed, self.rules)


class OfficialEdgeNeXt(Renaming):
    """The authors' names."""

    mark = r"^stages\.0\.0\.pwconv1\.weight$"
    rules: ClassVar = (
        (r"^downsample_layers\.0\.", "stem."),
        (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
        (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
        (r"\.dwconv\.", ".conv_dw."),
        (r"\.pwconv([12])\.", r".mlp.fc\1."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, EdgeNeXt)


class OfficialRepViT(Renaming):
    """The authors' names: all blocks in one sequence. The last one of a stage is a part of our downsampling."""

    mark = r"^features\.1\.token_mixer\.0\.conv\.c\.weight$"
    rules: ClassVar = (
        (r"^features\.0\.0\.", "stem.conv1."),
        (r"^features\.0\.2\.", "stem.conv2."),
        (r"\.downsample\.token_mixer\.0\.", ".downsample.spatial_downsample."),
        (r"\.downsample\.token_mixer\.2\.", ".downsample.channel_downsample."),
        (r"\.downsample\.channel_mixer\.", ".downsample.ffn."),
        (r"\.token_mixer\.0\.", ".token_mixer."),
        (r"\.token_mixer\.1\.", ".se."),
        (r"\.conv_reduce\.", ".fc1."),
        (r"\.conv_expand\.", ".fc2."),
        (r"(ffn|channel_mixer)\.m\.0\.", r"\1.conv1."),
        (r"(ffn|channel_mixer)\.m\.2\.", r"\1.conv2."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, RepViT)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        weights = without_prefix(weights)
        strided = [
            int(found[1]) for key in weights if (found := re.match(r"features\.(\d+)\.token_mixer\.0\.c\.weight$", key))
        ]

        def place(found: re.Match[str]) -> str:
            number = int(found[1])
            if number == 0:
                return found[0]
            stage = sum(each <= number for each in strided)
            if number in strided:
                return f"stages.{stage}.downsample."
            if number + 1 in strided:
                return f"stages.{stage + 1}.downsample.pre_block."
            first = max((each for each in strided if each < number), default=0) + 1
            return f"stages.{stage}.blocks.{number - first}."

        placed = {re.sub(r"^features\.(\d+)\.", place, key): weights[key] for key in weights}
        return rename(placed, self.rules)
