"""SCTNet as its authors publish it."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from segplug_backbones.sctnet import SCTNet
from segplug_backbones.weight_formats.renaming import Renaming

PARTS = {"0": "conv", "1": "bn"}


class OfficialSCTNet(Renaming):
    """The authors' names: convolutions and norms are counted in plain sequences, and scales are named."""

    mark = r"^layer3_2\.attn_l\.kv$"
    rules: ClassVar = (
        (r"^conv1\.([0134])\.", lambda found: f"conv1.{int(found[1]) // 3}.{PARTS[str(int(found[1]) % 3)]}."),
        (r"^(convdown4|layer\d\.\d\.downsample)\.([01])\.", lambda found: f"{found[1]}.{PARTS[found[2]]}."),
        (r"^(layer[123]\.\d)\.conv([12])\.", r"\1.conv\2.conv."),
        (r"^(layer[123]\.\d)\.bn([12])\.", r"\1.conv\2.bn."),
        (r"^spp\.scale0\.0\.", "spp.scales.0.bn."),
        (r"^spp\.scale0\.2\.", "spp.scales.0.conv."),
        (r"^spp\.scale([1-4])\.1\.", r"spp.scales.\1.1.bn."),
        (r"^spp\.scale([1-4])\.3\.", r"spp.scales.\1.1.conv."),
        (r"^spp\.process([1-4])\.", lambda found: f"spp.processes.{int(found[1]) - 1}."),
        (r"^spp\.(processes\.\d|compression|shortcut)\.0\.", r"spp.\1.bn."),
        (r"^spp\.(processes\.\d|compression|shortcut)\.2\.", r"spp.\1.conv."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, SCTNet)
