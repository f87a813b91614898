"""EfficientFormerV2 as its authors publish it, and as the authors of CGRSeg do."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from segplug_backbones.efficientformer_v2 import EfficientFormerV2
from segplug_backbones.weight_formats.renaming import Renaming, Weights


class OfficialEfficientFormer(Renaming):
    """The authors' names. CGRSeg adds biases for images of 512 pixels, which replace those of classification."""

    mark = r"^network\.0\.0\.mlp\.mid_norm\.weight$"
    rules: ClassVar = (
        (r"^patch_embed\.([03])\.", lambda found: f"stem.conv{int(found[1]) // 3 + 1}.conv."),
        (r"^patch_embed\.([14])\.", lambda found: f"stem.conv{int(found[1]) // 3 + 1}.bn."),
        (r"^network\.([0246])\.(\d+)\.", lambda found: f"stages.{int(found[1]) // 2}.blocks.{found[2]}."),
        (r"^network\.([135])\.", lambda found: f"stages.{int(found[1]) // 2 + 1}.downsample."),
        (r"\.downsample\.(proj|conv)\.(weight|bias)$", r".downsample.conv.conv.\2"),
        (r"\.downsample\.(norm|bn)\.", ".downsample.conv.bn."),
        (r"\.layer_scale_([12])$", r".ls\1.gamma"),
        (r"\.mlp\.(fc[12]|mid)\.", r".mlp.\1.conv."),
        (r"\.mlp\.norm([12])\.", r".mlp.fc\1.bn."),
        (r"\.mlp\.mid_norm\.", ".mlp.mid.bn."),
        (r"\.(q|k|v|v_local|stride_conv)\.0\.", r".\1.conv."),
        (r"\.(q|k|v|v_local|stride_conv)\.1\.", r".\1.bn."),
        (r"\.q\.local\.0\.", ".q.local."),
        (r"\.q\.proj\.0\.", ".q.proj.conv."),
        (r"\.q\.proj\.1\.", ".q.proj.bn."),
        (r"(token_mixer|attn)\.proj\.1\.", r"\1.proj.conv."),
        (r"(token_mixer|attn)\.proj\.2\.", r"\1.proj.bn."),
        (r"\.attention_biases_seg$", ".attention_biases"),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, EfficientFormerV2)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        has_larger = any(key.endswith(".attention_biases_seg") for key in weights)
        kept = {
            key: value
            for key, value in weights.items()
            if ".attention_bias_idxs" not in key and not (has_larger and key.endswith(".attention_biases"))
        }
        converted = super().convert(module, kept)
        return {key: value.flatten() if key.endswith(".gamma") else value for key, value in converted.items()}
