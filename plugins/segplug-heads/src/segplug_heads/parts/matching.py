"""Which query learns which object: the assignment of lowest total cost.

Carion et al., End-to-End Object Detection with Transformers (DETR), 2020; the costs of masks are those of Cheng et al.,
Per-Pixel Classification is Not All You Need for Semantic Segmentation (MaskFormer), 2021.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from segkernel.errors import ConfigError, Problem, SegKernelError


@dataclass(frozen=True)
class Queries:
    """What an image's Q queries predict.

    Args:
        scores: Class scores (Q, K + 1), before the softmax; the last class is "no object".
        masks: Scores (Q, ...) of pixels or points, before the sigmoid.
    """

    scores: Tensor
    masks: Tensor


@dataclass(frozen=True)
class Objects:
    """What is in the image.

    Args:
        labels: Class ids (G,).
        masks: 0 or 1, or shares in between, (G, ...), over the same pixels or points as the queries' masks.
    """

    labels: Tensor
    masks: Tensor


Matches = tuple[Tensor, Tensor]
"""Indices of queries, ascending, and of the objects they stand for."""


class MatchCost(ABC):
    """What it costs to match a query with an object."""

    component_group = "parts"

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, queries: Queries, objects: Objects) -> Tensor:
        """Return (Q, G)."""
        return self.weight * self.cost(queries, objects)

    @abstractmethod
    def cost(self, queries: Queries, objects: Objects) -> Tensor:
        """Return the unweighted cost (Q, G)."""


class ClassificationCost(MatchCost):
    """Minus the probability of the object's class.

    Args:
        weight: Factor of the cost.
    """

    def cost(self, queries: Queries, objects: Objects) -> Tensor:
        return -queries.scores.softmax(-1)[:, objects.labels]


class CrossEntropyLossCost(MatchCost):
    """Binary cross-entropy of the masks, a mean over pixels.

    Args:
        use_sigmoid: Must be true.
        weight: Factor of the cost.
    """

    def __init__(self, use_sigmoid: bool = True, weight: float = 1.0) -> None:
        super().__init__(weight)
        if not use_sigmoid:
            raise ConfigError(Problem("masks have one channel: there is no softmax of it", "use_sigmoid"))

    def cost(self, queries: Queries, objects: Objects) -> Tensor:
        masks = queries.masks.flatten(1).float()
        return _pairwise(F.softplus(-masks), F.softplus(masks), objects)


class FocalLossCost(MatchCost):
    """Focal loss of the masks, a mean over pixels, or of the classes, where each has a sigmoid.

    Lin et al., Focal Loss for Dense Object Detection, 2017.

    Args:
        alpha: Weight of a yes, that of a no being 1 - alpha.
        gamma: How much easy pixels are held back.
        eps: Keeps logarithms finite.
        binary_input: Of the masks; else of the classes.
        weight: Factor of the cost.
    """

    def __init__(
        self,
        alpha: float = 0.25,
        gamma: float = 2.0,
        eps: float = 1e-12,
        binary_input: bool = False,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        self.alpha, self.gamma, self.eps, self.binary_input = alpha, gamma, eps, binary_input

    def cost(self, queries: Queries, objects: Objects) -> Tensor:
        if self.binary_input:
            return _pairwise(*self._yes_and_no(queries.masks.flatten(1).float()), objects)
        yes, no = self._yes_and_no(queries.scores)
        return (yes - no)[:, objects.labels]

    def _yes_and_no(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of each entry if the truth is a yes, and if it is a no."""
        chance = scores.sigmoid()
        yes = -(chance + self.eps).log() * self.alpha * (1 - chance).pow(self.gamma)
        no = -(1 - chance + self.eps).log() * (1 - self.alpha) * chance.pow(self.gamma)
        return yes, no


class DiceCost(MatchCost):
    """One minus the overlap of the masks.

    Milletari et al., V-Net, 2016.

    Args:
        pred_act: Whether the predicted masks need a sigmoid.
        eps: Keeps the denominator from 0.
        naive_dice: The denominator sums values, not their squares.
        weight: Factor of the cost.
    """

    def __init__(self, pred_act: bool = False, eps: float = 1e-3, naive_dice: bool = True, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.pred_act, self.eps, self.naive_dice = pred_act, eps, naive_dice

    def cost(self, queries: Queries, objects: Objects) -> Tensor:
        predicted, true = queries.masks.flatten(1), objects.masks.flatten(1)
        predicted = (predicted.sigmoid() if self.pred_act else predicted).float()
        true = true.float()
        power = 1 if self.naive_dice else 2
        total = predicted.pow(power).sum(1)[:, None] + true.pow(power).sum(1)
        return 1 - (2 * predicted @ true.T + self.eps) / (total + self.eps)


class Assigner(ABC):
    """Matches queries with objects."""

    component_group = "parts"

    @abstractmethod
    def assign(self, queries: Queries, objects: Objects) -> Matches:
        """Return which query stands for which object."""


class HungarianAssigner(Assigner):
    """Matches every object with a query of its own, so that the costs sum to the least.

    Kuhn, The Hungarian Method for the Assignment Problem, 1955. Needs scipy.

    Args:
        match_costs: What is summed.
    """

    conformance: ClassVar = {"match_costs": {"type": "ClassificationCost"}}

    def __init__(self, match_costs: Sequence[MatchCost] | MatchCost) -> None:
        costs = [match_costs] if isinstance(match_costs, MatchCost) else list(match_costs)
        if not costs:
            raise ConfigError(Problem("without a cost all matches are alike", "match_costs"))
        self.match_costs = costs

    @torch.no_grad()
    def assign(self, queries: Queries, objects: Objects) -> Matches:
        """Return as many matches as there are objects, or queries if those are fewer.

        Raises:
            MissingScipyError: scipy is not installed.
        """
        if not len(objects.labels):
            nothing = objects.labels.new_zeros(0, dtype=torch.long)
            return nothing, nothing
        total = torch.stack([cost(queries, objects).float() for cost in self.match_costs]).sum(0)
        rows, columns = _linear_sum_assignment(total.nan_to_num(1e6, 1e6, -1e6).cpu())
        device = objects.labels.device
        return torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device)


class MatchSampler(ABC):
    """Chooses among matches."""

    component_group = "parts"

    @abstractmethod
    def sample(self, matches: Matches) -> Matches:
        """Return the matches to learn from."""


class MaskPseudoSampler(MatchSampler):
    """Keeps every match: all matched queries learn masks, all others that they are no object."""

    def sample(self, matches: Matches) -> Matches:
        return matches


class MissingScipyError(SegKernelError):
    """scipy, which matches queries with objects, is not installed."""

    exit_code = 3

    def __init__(self) -> None:
        super().__init__("matching queries with objects needs scipy\n    pip install 'segplug-heads[matching]'")


def _linear_sum_assignment(cost: Tensor) -> tuple[object, object]:
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise MissingScipyError from error
    return linear_sum_assignment(cost.numpy())


def _pairwise(yes: Tensor, no: Tensor, objects: Objects) -> Tensor:
    """Return the mean over pixels (Q, G) of ``yes`` (Q, P) where the object is and ``no`` where it is not."""
    true = objects.masks.flatten(1).float()
    return (yes @ true.T + no @ (1 - true).T) / yes.shape[1]
