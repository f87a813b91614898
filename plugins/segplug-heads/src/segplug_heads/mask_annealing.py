"""`MaskAnnealingHook`: trains an EoMT with masked attention first and without it at the end.

hooks:
  - {type: MaskAnnealingHook}
  - {type: MaskAnnealingHook, begin: [6520, 13040, 19560, 26080], end: [13040, 19560, 26080, 32600]}

Your ViT is Secretly an Image Segmentation Model, Kerssies et al., 2025, section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from segkernel.annotations import NonNegativeInt, Positive, PositiveInt
from segkernel.errors import UsageError
from segkernel.hookspecs import Priority, hookimpl

if TYPE_CHECKING:
    from segkernel.hookspecs import Run


class MaskAnnealingHook:
    """Lower the probability of masked attention from 1 to 0, in each block over iterations of its own.

    The probability is computed from the iteration: a resumed run continues exactly.

    Args:
        begin: For each block that queries pass through, the iteration until which it always masks; None divides the run
            evenly, as published: of a run of 6 parts, 4 blocks begin after the first, second, third and fourth.
        end: For each block, the iteration from which on it never does; None is one such part later.
        power: Exponent of the decay, (1 - progress) ** power.

    Raises:
        UsageError: The lists do not fit together; when training starts, the model has no `EoMTHead` with masked
            attention, or one with another number of blocks.
    """

    priority = Priority.HIGH

    def __init__(
        self,
        begin: Sequence[NonNegativeInt] | None = None,
        end: Sequence[PositiveInt] | None = None,
        power: Positive = 0.9,
    ) -> None:
        if len(begin or ()) != len(end or ()):
            message = f"{len(begin or ())} iterations in begin, {len(end or ())} in end: give one for each block"
            raise UsageError(f"MaskAnnealingHook: {message}")
        for first, last in zip(begin or (), end or (), strict=True):
            if last <= first:
                raise UsageError(f"MaskAnnealingHook: end {last} must be greater than begin {first}")
        self.windows = list(zip(begin, end, strict=True)) if begin and end else None
        self.power = power

    @hookimpl
    def before_train(self, run: Run) -> None:
        from segplug_heads.heads.eomt_head import EoMTHead

        heads = [module for module in run.model.modules() if isinstance(module, EoMTHead) and module.masked_attention]
        if not heads:
            raise UsageError("MaskAnnealingHook: the model has no EoMTHead with masked_attention")
        for head in heads:
            if self.windows is not None and head.num_blocks != len(self.windows):
                message = (
                    f"begin and end are for {len(self.windows)} blocks, but queries pass through {head.num_blocks}"
                )
                raise UsageError(f"MaskAnnealingHook: {message}")
        self._heads: list[Any] = heads

    @hookimpl
    def before_train_iteration(self, run: Run) -> None:
        for head in self._heads:
            windows = self.windows or even_windows(head.num_blocks, run.max_iterations)
            head.set_mask_probabilities(self.probabilities(run.iteration, windows))

    def probabilities(self, iteration: int, windows: Sequence[tuple[float, float]]) -> list[float]:
        """Return the probability of masked attention in each block at an iteration."""
        left = (min(max((end - iteration) / (end - begin), 0.0), 1.0) for begin, end in windows)
        return [share**self.power for share in left]


def even_windows(blocks: int, iterations: int) -> list[tuple[float, float]]:
    """Return first and last iteration of the decay in each block: one part of the run, after one part per block."""
    part = iterations / (blocks + 2)
    return [(part * (i + 1), part * (i + 2)) for i in range(blocks)]
