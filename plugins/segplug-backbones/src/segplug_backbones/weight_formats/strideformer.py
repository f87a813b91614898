"""StrideFormer as MMSegmentation's project ``pp_mobileseg`` publishes it."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from segplug_backbones.strideformer import StrideFormer
from segplug_backbones.weight_formats.renaming import Renaming


class MMSegmentationStrideFormer(Renaming):
    """The project's names: modules of convolution, norm and activation in the blocks with attention, too."""

    mark = r"^trans1\.transformer_blocks\.0\.attn\.to_q\.conv\.weight$"
    rules: ClassVar = (
        (r"\.mid_se\.conv_act([12])\.", r".mid_se.conv\1."),
        (r"\.attn\.(to_[qkv]|dwconv|pwconv)\.conv\.", r".attn.\1.c."),
        (r"\.attn\.(proj\w*)\.conv\.", r".attn.\1.1.c."),
        (r"\.attn\.(proj\w*)\.bn\.", r".attn.\1.1.bn."),
        (r"\.mlp\.(fc[12])\.conv\.", r".mlp.\1.c."),
        (r"\.mlp\.dwconv\.conv\.", ".mlp.dwconv."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, StrideFormer)
