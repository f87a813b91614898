"""Learning-rate schedules, with names and arguments of MMSegmentation, or of torch where it has none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import MinLen
from typing_extensions import Unpack

from segkernel.annotations import NonNegative, NonNegativeInt, Positive, PositiveInt, Probability
from segkernel.errors import UsageError
from segkernel.schedules import Schedule, ScheduleArguments

if TYPE_CHECKING:
    from torch.optim import Optimizer


class PolyLR(Schedule):
    """Decay to ``eta_min`` as (1 - i / length) ** power.

    Args:
        power: Exponent; 1 is linear.
        eta_min: The final rate.
    """

    def __init__(
        self, power: NonNegative = 1.0, eta_min: NonNegative = 0.0, **kwargs: Unpack[ScheduleArguments]
    ) -> None:
        super().__init__(**kwargs)
        self.power, self.eta_min = power, eta_min

    def rate(self, lr: float, base: float, i: int) -> float:
        if i == 0:
            return lr
        return (lr - self.eta_min) * (1 - 1 / (self.length - i + 1)) ** self.power + self.eta_min


class PolyLRRatio(PolyLR):
    """`PolyLR` down to ``eta_min_ratio`` times the optimiser's rate, or to ``eta_min`` when that is None.

    Args:
        eta_min_ratio: The final rate as a share of the optimiser's; None takes ``eta_min``.
        power: Exponent; 1 is linear.
        eta_min: The final rate, when ``eta_min_ratio`` is None.
    """

    def __init__(
        self,
        eta_min_ratio: NonNegative | None = None,
        power: NonNegative = 1.0,
        eta_min: NonNegative = 0.0,
        **kwargs: Unpack[ScheduleArguments],
    ) -> None:
        super().__init__(power=power, eta_min=eta_min, **kwargs)
        self.eta_min_ratio = eta_min_ratio

    def rate(self, lr: float, base: float, i: int) -> float:
        if self.eta_min_ratio is not None:
            self.eta_min = base * self.eta_min_ratio
        return super().rate(lr, base, i)


class TwoStageWarmupPolyLR(Schedule):
    """Linear warm-up of the head, then of the backbone, and for both a decay to 0 as (1 - i / length) ** power.

    The backbone's rate is 0 until the head is warmed up. Your ViT is Secretly an Image Segmentation Model (EoMT),
    Kerssies et al., 2025. Parameter groups tell by ``backbone`` what they are: `Paramwise` with ``layer_decay`` does.

    Args:
        warmup: Iterations, or epochs, of the head's and of the backbone's warm-up.
        power: Exponent of the decay; 1 is linear.

    Raises:
        UsageError: No parameter group is a backbone's.
    """

    conformance: ClassVar = {"warmup": (1, 2)}
    conformance_exceptions: ClassVar = {"rates": "its optimiser has no group of a backbone"}

    def __init__(
        self,
        warmup: tuple[NonNegativeInt, NonNegativeInt] = (500, 1000),
        power: NonNegative = 0.9,
        **kwargs: Unpack[ScheduleArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.warmup, self.power = (warmup[0], warmup[1]), power

    def step(self, optimizer: Optimizer, iteration: int) -> None:
        if not any(group.get("backbone") for group in optimizer.param_groups):
            hint = "set optim.paramwise.layer_decay (rate: 1.0 changes no rate)"
            raise UsageError(f"TwoStageWarmupPolyLR: no parameter group is a backbone's: {hint}")
        super().step(optimizer, iteration)

    def update(self, group: dict[str, Any], i: int) -> None:
        head, backbone = self.warmup
        begin, warmup = (head, backbone) if group["backbone"] else (0, head)
        length = self.length + 1 - begin - warmup
        if i < begin + warmup:
            share = max(i - begin, 0) / warmup
        else:
            share = max(1 - (i - begin - warmup) / max(length, 1), 0.0) ** self.power
        group["lr"] = group["initial_lr"] * share


class LinearLR(Schedule):
    """Change linearly from ``start_factor`` to ``end_factor`` times the rate: the usual warm-up.

    Args:
        start_factor: Factor on the rate at ``begin``.
        end_factor: Factor on the rate at ``end``.
    """

    def __init__(
        self, start_factor: Positive = 1 / 3, end_factor: NonNegative = 1.0, **kwargs: Unpack[ScheduleArguments]
    ) -> None:
        super().__init__(**kwargs)
        self.start_factor, self.end_factor = start_factor, end_factor

    def rate(self, lr: float, base: float, i: int) -> float:
        if i == 0:
            return lr * self.start_factor
        rise = self.end_factor - self.start_factor
        return lr * (1 + rise / (self.length * self.start_factor + (i - 1) * rise))


class ConstantLR(Schedule):
    """Multiply the rate by ``factor`` until the last iteration, which restores it.

    Args:
        factor: Factor on the rate.
    """

    def __init__(self, factor: Positive = 1 / 3, **kwargs: Unpack[ScheduleArguments]) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def rate(self, lr: float, base: float, i: int) -> float:
        if i == 0:
            return lr * self.factor
        return lr / self.factor if i == self.length else lr


class StepLR(Schedule):
    """Multiply the rate by ``gamma`` every ``step_size`` iterations.

    Args:
        step_size: Iterations, or epochs, between two steps.
        gamma: Factor on the rate at each step.
    """

    conformance: ClassVar = {"step_size": 4}

    def __init__(self, step_size: PositiveInt, gamma: Positive = 0.1, **kwargs: Unpack[ScheduleArguments]) -> None:
        super().__init__(**kwargs)
        self.step_size, self.gamma = step_size, gamma

    def rate(self, lr: float, base: float, i: int) -> float:
        return lr * self.gamma if i and i % self.step_size == 0 else lr


class ExponentialLR(Schedule):
    """Multiply the rate by ``gamma`` in every iteration.

    Args:
        gamma: Factor on the rate in each iteration, or epoch.
    """

    conformance: ClassVar = {"gamma": 0.9}

    def __init__(self, gamma: Positive, **kwargs: Unpack[ScheduleArguments]) -> None:
        super().__init__(**kwargs)
        self.gamma = gamma

    def rate(self, lr: float, base: float, i: int) -> float:
        return lr * self.gamma if i else lr


class MultiStepLR(Schedule):
    """Multiply the rate by ``gamma`` at each of ``milestones`` (counted from ``begin``).

    Args:
        milestones: Iterations, or epochs, counted from ``begin``.
        gamma: Factor on the rate at each milestone.
    """

    conformance: ClassVar = {"milestones": (4, 8)}

    def __init__(
        self, milestones: Sequence[NonNegativeInt], gamma: Positive = 0.1, **kwargs: Unpack[ScheduleArguments]
    ) -> None:
        super().__init__(**kwargs)
        self.milestones, self.gamma = list(milestones), gamma

    def rate(self, lr: float, base: float, i: int) -> float:
        return lr * self.gamma ** self.milestones.count(i)


class _Cosine(Schedule):
    """Cosine annealing to ``eta_min``, or to ``eta_min_ratio`` times the optimiser's rate.

    Args:
        eta_min: The lowest rate; 0 when both are None.
        eta_min_ratio: The lowest rate as a share of the optimiser's, instead of ``eta_min``.
    """

    def __init__(
        self, eta_min: NonNegative | None, eta_min_ratio: NonNegative | None, **kwargs: Unpack[ScheduleArguments]
    ) -> None:
        super().__init__(**kwargs)
        if eta_min is not None and eta_min_ratio is not None:
            raise UsageError("give eta_min or eta_min_ratio, not both")
        self.eta_min, self.eta_min_ratio = eta_min or 0.0, eta_min_ratio

    def lowest(self, base: float) -> float:
        """Return the rate at the end of the cosine; ``base`` is the optimiser's rate."""
        return self.eta_min if self.eta_min_ratio is None else base * self.eta_min_ratio


class CosineAnnealingLR(_Cosine):
    """Cosine annealing to ``eta_min``, or to ``eta_min_ratio`` times the optimiser's rate.

    Args:
        T_max: Iterations, or epochs, of half a period; None is the schedule's length.
        eta_min: The lowest rate; 0 when both are None.
        eta_min_ratio: The lowest rate as a share of the optimiser's, instead of ``eta_min``.
    """

    def __init__(
        self,
        T_max: PositiveInt | None = None,
        eta_min: NonNegative | None = None,
        eta_min_ratio: NonNegative | None = None,
        **kwargs: Unpack[ScheduleArguments],
    ) -> None:
        super().__init__(eta_min, eta_min_ratio, **kwargs)
        self.period = T_max

    def rate(self, lr: float, base: float, i: int) -> float:
        period = self.period or self.length + 1
        low = self.lowest(base)
        if i == 0:
            return lr
        if (i - 1 - period) % (2 * period) == 0:
            return lr + (base - low) * (1 - math.cos(math.pi / period)) / 2
        return (1 + math.cos(math.pi * i / period)) / (1 + math.cos(math.pi * (i - 1) / period)) * (lr - low) + low


class CosineRestartLR(_Cosine):
    """Cosine annealing with warm restarts (SGDR, Loshchilov and Hutter, 2017).

    A cycle ends at ``eta_min``, or at ``eta_min_ratio`` times the optimiser's rate; the rate stays there after the last
    cycle.

    Args:
        periods: Iterations, or epochs, of each cycle.
        restart_weights: Each cycle starts at this factor times the optimiser's rate; a single one holds for all.
        eta_min: The lowest rate; 0 when both are None.
        eta_min_ratio: The lowest rate as a share of the optimiser's, instead of ``eta_min``.
    """

    conformance: ClassVar = {"periods": (4, 8)}

    def __init__(
        self,
        periods: Annotated[Sequence[PositiveInt], MinLen(1)],
        restart_weights: Sequence[NonNegative] = (1.0,),
        eta_min: NonNegative | None = None,
        eta_min_ratio: NonNegative | None = None,
        **kwargs: Unpack[ScheduleArguments],
    ) -> None:
        super().__init__(eta_min, eta_min_ratio, **kwargs)
        weights = list(restart_weights) * (len(periods) if len(restart_weights) == 1 else 1)
        if len(weights) != len(periods):
            raise UsageError(
                f"{len(periods)} periods have {len(weights)} restart_weights; give one for each, or a single one"
            )
        self.cycles = list(zip(accumulate(periods), periods, weights))

    def rate(self, lr: float, base: float, i: int) -> float:
        low = self.lowest(base)
        for end, period, weight in self.cycles:
            if i < end:
                return low + (weight * base - low) * (1 + math.cos(math.pi * (i - end + period) / period)) / 2
        return low


class CyclicLR(Schedule):
    """Cycle between ``base_lr`` and ``max_lr`` (Smith, 2017), the same for all groups, as in MMEngine.

    Args:
        base_lr: The lowest rate.
        max_lr: The highest rate, of the first cycle.
        step_size_up: Iterations, or epochs, in which the rate rises.
        step_size_down: Those in which it falls; None is ``step_size_up``.
        mode: ``triangular2`` halves the amplitude with each cycle, ``exp_range`` multiplies it by ``gamma`` in each
            iteration.
        gamma: Factor on the amplitude for ``exp_range``.
    """

    conformance: ClassVar = {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 4}

    def __init__(
        self,
        base_lr: NonNegative,
        max_lr: Positive,
        step_size_up: PositiveInt = 2000,
        step_size_down: PositiveInt | None = None,
        mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
        gamma: Positive = 1.0,
        **kwargs: Unpack[ScheduleArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.base_lr, self.max_lr, self.mode, self.gamma = base_lr, max_lr, mode, gamma
        self.up, self.down = step_size_up, step_size_down or step_size_up

    def rate(self, lr: float, base: float, i: int) -> float:
        cycle, position = divmod(i, self.up + self.down)
        height = position / self.up if position <= self.up else (self.up + self.down - position) / self.down
        scale = {"triangular": 1.0, "triangular2": 0.5**cycle, "exp_range": self.gamma**i}[self.mode]
        return self.base_lr + (self.max_lr - self.base_lr) * height * scale


class OneCycleLR(Schedule):
    """1cycle policy (Super-Convergence, Smith and Topin, 2018).

    Args:
        eta_max: The peak of all groups, as in MMEngine; None takes each group's own rate, with its ``lr_mult`` and the
            scaling by ``base_batch_size``.
        total_steps: Iterations of the cycle; None is the schedule's length.
        pct_start: Share of the steps in which the rate rises.
        anneal_strategy: ``cos`` or ``linear``.
        div_factor: The rate starts at the peak divided by this.
        final_div_factor: The rate ends at its start divided by this.
        three_phase: First fall back to the start, then to the end.
    """

    conformance: ClassVar = {"eta_max": 0.5}

    def __init__(
        self,
        eta_max: Positive | None = None,
        total_steps: PositiveInt | None = None,
        pct_start: Probability = 0.3,
        anneal_strategy: str = "cos",
        div_factor: Positive = 25.0,
        final_div_factor: Positive = 1e4,
        three_phase: bool = False,
        **kwargs: Unpack[ScheduleArguments],
    ) -> None:
        super().__init__(**kwargs)
        if anneal_strategy not in ("cos", "linear"):
            raise UsageError(f"anneal_strategy: expected 'cos' or 'linear', not {anneal_strategy!r}")
        self.eta_max, self.steps, self.peak = eta_max, total_steps, pct_start
        self.cosine, self.three_phase = anneal_strategy == "cos", three_phase
        self.div_factor, self.final_div_factor = div_factor, final_div_factor

    def rate(self, lr: float, base: float, i: int) -> float:
        highest = base if self.eta_max is None else self.eta_max
        start = highest / self.div_factor
        final = start / self.final_div_factor
        steps = self.steps or self.length + 1
        rise = self.peak * steps - 1
        points = [(0.0, start), (rise, highest), (steps - 1.0, final)]
        if self.three_phase:
            points.insert(2, (2 * rise, start))
        for (left, low), (right, high) in pairwise(points):
            if i <= right:
                # In a run of a few iterations a phase may have no length.
                return self._between(low, high, (i - left) / (right - left) if right > left else 1.0)
        return final

    def _between(self, start: float, end: float, share: float) -> float:
        if self.cosine:
            return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
        return start + (end - start) * share
