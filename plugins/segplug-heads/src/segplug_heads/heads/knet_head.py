"""K-Net: the logits of another head, refined in stages by kernels that are updated with the features under their masks.

K-Net: Towards Unified Image Segmentation, Zhang et al., 2021 (https://arxiv.org/abs/2106.14855).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.geometry import Size
from segkernel.interfaces.model import Features, Head
from segkernel.nn import DecodeHead
from segkernel.sample import Targets
from segplug_heads.parts.kernel_update import KernelUpdateHead


class IterativeDecodeHead(Head):
    """Feature maps -> logits (N, K, h, w) at the size of ``kernel_generate_head``'s.

    The weights of that head's classifier are the initial kernels, one for each class. The losses are that head's, of
    its own logits (``loss_ce.s0``) and of each stage's (``loss_ce.s1`` and so on).

    Args:
        num_stages: Number of stages.
        kernel_generate_head: Predicts the initial logits; a `DecodeHead` with ``forward_feature``.
        kernel_update_head: One for each stage.

    Raises:
        ConfigError: There are not ``num_stages`` of them, or their kernels do not fit the head.
    """

    conformance: ClassVar = {
        "num_stages": 2,
        "kernel_generate_head": {"type": "FCNHead", "in_channels": 16, "channels": 8, "num_classes": 4},
        "kernel_update_head": [
            {
                "type": "KernelUpdateHead", "num_classes": 4, "in_channels": 8, "out_channels": 8, "num_heads": 2,
                "feedforward_channels": 8,
                "kernel_updator_cfg": {"type": "KernelUpdator", "in_channels": 4, "feat_channels": 4},
            }
        ] * 2,
    }  # fmt: skip
    conformance_inputs: ClassVar = {"features": [(16, 8)]}
    conformance_exceptions: ClassVar = {"classes": "num_classes is an argument of the parts"}

    def __init__(
        self, num_stages: PositiveInt, kernel_generate_head: DecodeHead, kernel_update_head: Sequence[KernelUpdateHead]
    ) -> None:
        super().__init__()
        if len(kernel_update_head) != num_stages:
            message = f"{len(kernel_update_head)} heads for {num_stages} stages"
            raise ConfigError(Problem(message, "kernel_update_head"))
        for i, stage in enumerate(kernel_update_head):
            _check_stage(f"kernel_update_head[{i}]", stage, kernel_generate_head)
        self.kernel_generate_head = kernel_generate_head
        self.kernel_update_head = nn.ModuleList(kernel_update_head)
        self.output = kernel_generate_head.output

    def forward(self, features: Features) -> Tensor:
        return self.stages(features)[-1]

    def stages(self, features: Features) -> list[Tensor]:
        """Return the initial logits and those after each stage."""
        head = self.kernel_generate_head
        x = head.forward_feature(features)
        logits = [head.cls_seg(x)]
        # The static kernels K_0 of the paper predict M_0 by convolution, which is what this classifier does: row k of
        # its weight is the kernel of class k. Its bias stays behind; the stages have none.
        kernels = head.conv_seg.weight.expand(x.shape[0], -1, -1, -1, -1)
        for stage in self.kernel_update_head:
            refined, kernels = stage(x, kernels, logits[-1])
            logits.append(refined)
        return logits

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        return self.single_pass(features, targets)[1]

    def single_pass(
        self, features: Features, targets: Targets, size: Size | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        stages = self.stages(features)
        losses: dict[str, Tensor] = {}
        for i, logits in enumerate(stages):
            named = self.kernel_generate_head.loss_by_logits(logits, targets["seg"], targets.get("weight"))
            losses |= {f"{key}.s{i}": value for key, value in named.items()}
        return stages[-1], losses


def _check_stage(path: str, stage: KernelUpdateHead, head: DecodeHead) -> None:
    if stage.in_channels != head.channels:
        raise ConfigError(Problem(f"{stage.in_channels}, but the kernels have {head.channels}", f"{path}.in_channels"))
    if stage.conv_kernel_size != 1:
        message = f"{stage.conv_kernel_size}, but the first kernels are those of a 1x1 convolution"
        raise ConfigError(Problem(message, f"{path}.conv_kernel_size"))
