"""Bipartite matching of queries with ground-truth objects by the lowest total cost.

End-to-End Object Detection with Transformers (DETR), Carion et al., 2020 (https://arxiv.org/abs/2005.12872); the costs
of masks are those of Per-Pixel Classification is Not All You Need for Semantic Segmentation (MaskFormer), Cheng,
Schwing and Kirillov, 2021 (https://arxiv.org/abs/2107.06278).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from segkernel.annotations import NonNegative
from segkernel.errors import ConfigError, Problem


@dataclass(frozen=True)
class Queries:
    """The predictions of an image's Q queries.

    Args:
        class_logits: (Q, K + 1); the last class is "no object".
        mask_logits: (Q, ...), of pixels or points.
    """

    class_logits: Tensor
    mask_logits: Tensor


@dataclass(frozen=True)
class Objects:
    """The ground truth of an image, G objects.

    Args:
        labels: Class ids (G,).
        masks: 0 to 1, (G, ...), at the same pixels or points as the queries' masks.
    """

    labels: Tensor
    masks: Tensor


Matches = tuple[Tensor, Tensor]
"""Indices of the matched queries, ascending, and of their objects, (M,) each."""


class MatchCost(ABC):
    """The cost of matching each query with each object.

    Args:
        weight: Factor of the cost.
    """

    component_group = "parts"

    def __init__(self, weight: NonNegative = 1.0) -> None:
        self.weight = weight

    def __call__(self, queries: Queries, objects: Objects) -> Tensor:
        """Return the weighted cost (Q, G)."""
        return self.weight * self.cost(queries, objects)

    @abstractmethod
    def cost(self, queries: Queries, objects: Objects) -> Tensor:
        """Return the unweighted cost (Q, G)."""


class ClassificationCost(MatchCost):
    """Minus the predicted probability of the object's class."""

    def cost(self, queries: Queries, objects: Objects) -> Tensor:
        # DETR: probabilities, not their logarithms, so that the costs of class and mask are commensurable.
        return -queries.class_logits.softmax(-1)[:, objects.labels]


class CrossEntropyLossCost(MatchCost):
    """Binary cross-entropy of the masks, averaged over pixels.

    Args:
        use_sigmoid: Must be true.
        weight: Factor of the cost.

    Raises:
        ConfigError: ``use_sigmoid`` is false.
    """

    def __init__(self, use_sigmoid: bool = True, weight: NonNegative = 1.0) -> None:
        super().__init__(weight)
        if not use_sigmoid:
            raise ConfigError(Problem("must be true: a softmax over the one channel of a mask is 1", "use_sigmoid"))

    def cost(self, queries: Queries, objects: Objects) -> Tensor:
        logits = queries.mask_logits.flatten(1).float()
        return _pairwise_mean(positive=F.softplus(-logits), negative=F.softplus(logits), objects=objects)


class FocalLossCost(MatchCost):
    """Focal loss of the masks, averaged over pixels, or of the classes, each with a sigmoid.

    Focal Loss for Dense Object Detection, Lin et al., 2017 (https://arxiv.org/abs/1708.02002).

    Args:
        alpha: Weight of positives; negatives have 1 - alpha.
        gamma: Exponent of the modulating factor, which reduces the loss of easy pixels.
        eps: Added to the argument of logarithms.
        binary_input: Compare the masks; otherwise the classes.
        weight: Factor of the cost.
    """

    def __init__(
        self,
        alpha: NonNegative = 0.25,
        gamma: NonNegative = 2.0,
        eps: NonNegative = 1e-12,
        binary_input: bool = False,
        weight: NonNegative = 1.0,
    ) -> None:
        super().__init__(weight)
        self.alpha, self.gamma, self.eps, self.binary_input = alpha, gamma, eps, binary_input

    def cost(self, queries: Queries, objects: Objects) -> Tensor:
        if self.binary_input:
            positive, negative = self._losses(queries.mask_logits.flatten(1).float())
            return _pairwise_mean(positive, negative, objects)
        positive, negative = self._losses(queries.class_logits)
        # The constant sum of the negative losses is left out, as in Deformable DETR.
        return (positive - negative)[:, objects.labels]

    def _losses(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of each logit for a positive and for a negative target."""
        probability = logits.sigmoid()
        positive = -(probability + self.eps).log() * self.alpha * (1 - probability).pow(self.gamma)
        negative = -(1 - probability + self.eps).log() * (1 - self.alpha) * probability.pow(self.gamma)
        return positive, negative


class DiceCost(MatchCost):
    """One minus the Dice coefficient of the masks.

    V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation, Milletari et al., 2016
    (https://arxiv.org/abs/1606.04797).

    Args:
        pred_act: Apply a sigmoid to the predicted masks.
        eps: Added to numerator and denominator.
        naive_dice: The denominator sums values; otherwise their squares, as in the paper.
        weight: Factor of the cost.
    """

    def __init__(
        self, pred_act: bool = False, eps: NonNegative = 1e-3, naive_dice: bool = True, weight: NonNegative = 1.0
    ) -> None:
        super().__init__(weight)
        self.pred_act, self.eps, self.naive_dice = pred_act, eps, naive_dice

    def cost(self, queries: Queries, objects: Objects) -> Tensor:
        predicted, true = queries.mask_logits.flatten(1), objects.masks.flatten(1)
        predicted = (predicted.sigmoid() if self.pred_act else predicted).float()
        true = true.float()
        power = 1 if self.naive_dice else 2
        denominator = predicted.pow(power).sum(1)[:, None] + true.pow(power).sum(1)
        return 1 - (2 * predicted @ true.T + self.eps) / (denominator + self.eps)


class Assigner(ABC):
    """Matches queries with objects."""

    component_group = "parts"

    @abstractmethod
    def assign(self, queries: Queries, objects: Objects) -> Matches:
        """Return the matched queries and their objects."""


class HungarianAssigner(Assigner):
    """One-to-one matching with the lowest sum of costs, by the Hungarian algorithm (Kuhn, 1955).

    Args:
        match_costs: Costs that are summed.

    Raises:
        ConfigError: ``match_costs`` is empty.
    """

    conformance: ClassVar = {"match_costs": {"type": "ClassificationCost"}}

    def __init__(self, match_costs: Sequence[MatchCost] | MatchCost) -> None:
        costs = [match_costs] if isinstance(match_costs, MatchCost) else list(match_costs)
        if not costs:
            raise ConfigError(Problem("at least one cost is needed", "match_costs"))
        self.match_costs = costs

    @torch.no_grad()
    def assign(self, queries: Queries, objects: Objects) -> Matches:
        """Return as many matches as there are objects, or queries if those are fewer."""
        from scipy.optimize import linear_sum_assignment

        if not len(objects.labels):
            empty = objects.labels.new_zeros(0, dtype=torch.long)
            return empty, empty
        cost = torch.stack([cost(queries, objects).float() for cost in self.match_costs]).sum(0)
        # A diverging model must not crash in scipy, which refuses NaN; the loss will show it.
        rows, columns = linear_sum_assignment(cost.nan_to_num(1e6, 1e6, -1e6).cpu().numpy())
        device = objects.labels.device
        return torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device)


class MatchSampler(ABC):
    """Selects matches to train on."""

    component_group = "parts"

    @abstractmethod
    def sample(self, matches: Matches) -> Matches:
        """Return the matches to train on."""


class MaskPseudoSampler(MatchSampler):
    """Keeps every match: matched queries learn a mask, all others learn "no object"."""

    def sample(self, matches: Matches) -> Matches:
        return matches


def _pairwise_mean(positive: Tensor, negative: Tensor, objects: Objects) -> Tensor:
    """Return (Q, G), averages over P pixels of ``positive`` (Q, P) inside each object and ``negative`` outside it.

    Two matrix products: the losses of all pairs, (Q, G, P), would not fit in memory.
    """
    true = objects.masks.flatten(1).float()
    return (positive @ true.T + negative @ (1 - true).T) / positive.shape[1]
