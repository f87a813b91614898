"""Contracts of the model side: what a backbone, neck, head, loss, segmentor, engine and exporter offer.

N is the batch, C channels, K classes, H and W the image's height and width in pixels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from segkernel.config.sections import TestConfig as TestConfig
from segkernel.errors import ConfigError, Problem
from segkernel.geometry import Size
from segkernel.interfaces.output import Output as Output
from segkernel.interfaces.output import PixelClasses as PixelClasses
from segkernel.interfaces.output import PixelMap as PixelMap
from segkernel.interfaces.output import output_of as output_of
from segkernel.labels import Task

if TYPE_CHECKING:
    from segkernel.sample import Batch, Targets

T = TypeVar("T")
Features = Sequence[Tensor]


class Backbone(nn.Module):
    """Images (N, C, H, W) to feature maps, finest first.

    Map i is (N, channels[i], about H / strides[i], about W / strides[i]).
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def layer_of(self, parameter: str, num_layers: int, stage_wise: bool = False) -> int | None:
        """Return the depth of a parameter, from 0 for the embeddings to ``num_layers``, or None for the undecayed
        learning rate of a head. Used by the option ``layer_decay``; ``parameter`` is its name in the backbone."""
        kind = "stages" if stage_wise else "layers"
        raise ConfigError(Problem(f"{type(self).__name__} has no {kind} to tell apart", "optim.paramwise.layer_decay"))


class Neck(nn.Module):
    """Feature maps to feature maps."""

    def forward(self, features: Features) -> tuple[Tensor, ...]:
        raise NotImplementedError


class Loss(nn.Module):
    """Logits (N, K, H, W) and class ids (N, H, W) to a scalar. Logged under ``name`` (``loss_ce``).

    Pixels with ``ignore_index`` do not count; when all are ignored the result is a finite zero with a gradient.
    A loss whose attribute ``use_sigmoid`` is true also takes 1 or 0 for each channel, (N, K, H, W).
    """

    name: str
    at_stride: ClassVar[bool] = False
    """Whether it takes logits (N, K, h, w) at the model's own stride with labels (N, H, W), and the keyword
    ``align_corners`` (bool, how to enlarge them); a head enlarges them for other losses."""

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        ignore_index: int = 255,
        avg_factor: float | None = None,
    ) -> Tensor:
        raise NotImplementedError


class _SinglePass(nn.Module):
    """A module that predicts and has losses, and may have `single_pass`: both from one run."""

    @property
    def one_pass(self) -> bool:
        """Whether prediction and loss come from one run, so that a validation has the loss at little cost."""
        return self._has_single_pass()

    def _has_single_pass(self) -> bool:
        """Tell whether `single_pass` is written for the ``predict`` and ``loss`` that the class has."""
        classes, names = type(self).__mro__, ("single_pass", "predict", "loss")
        depth = [next(i for i, cls in enumerate(classes) if name in vars(cls)) for name in names]
        return depth[0] == min(depth)  # no class below it overrides one of the others

    def single_pass(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Tensor]]:
        """Return what `predict` and `loss` return, from one run; it takes the arguments of both.

        A subclass that overrides ``predict`` or ``loss`` but not this is run twice instead.
        """
        raise NotImplementedError

    def predict_with_loss(self: Any, *inputs: Any, **options: Any) -> tuple[Any, dict[str, Tensor]]:
        """Return what `predict` and `loss` return, by running the model once where it has `single_pass`, else twice.

        Args:
            inputs: Those of `loss`, the targets last.
            options: Further ones of `predict`, by keyword.
        """
        if self._has_single_pass():
            return self.single_pass(*inputs, **options)
        return self.predict(*inputs[:-1], **options), self.loss(*inputs)


class Head(_SinglePass):
    """Feature maps to class logits."""

    output: Output
    """How the logits are to be interpreted."""
    tasks: ClassVar[tuple[Task, ...]] = ("multiclass",)
    """Supported tasks; a head that supports more than one takes the argument ``task``."""

    def forward(self, features: Features) -> Tensor:
        """Return logits (N, K, h, w) at the head's own stride."""
        raise NotImplementedError

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        """Return named scalars; those whose key holds ``loss`` are summed and minimised, others are logged."""
        raise NotImplementedError

    def predict(self, features: Features, size: Size | None = None) -> Tensor:
        """Return logits for inference; as `forward` unless the head predicts in another way than it trains.

        ``size``, the image's (height, width), is for heads that resize before they activate.
        """
        return self(features)


class CascadeHead(Head):
    """A head that refines ``previous``, the logits (N, K, h, w) of the one before it."""

    def forward(self, features: Features, previous: Tensor) -> Tensor:  # type: ignore[override]
        raise NotImplementedError

    def loss(self, features: Features, previous: Tensor, targets: Targets) -> dict[str, Tensor]:  # type: ignore[override]
        raise NotImplementedError

    def predict(  # type: ignore[override]
        self, features: Features, previous: Tensor, size: Size | None = None
    ) -> Tensor:
        return self(features, previous)

    def configure(self, train_cfg: Mapping[str, Any], test_cfg: Mapping[str, Any]) -> None:
        """Take what the segmentor's ``train_cfg`` and ``test_cfg`` say about this head."""


class Segmentor(_SinglePass):
    """A whole model: normalised images in, logits out; a plain torch model to everyone else."""

    outputs: dict[str, Output]
    """By name; one is called ``seg``, the main output."""
    test_cfg: TestConfig

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, K, h, w) of the main output for normalised images (N, C, H, W)."""
        raise NotImplementedError

    def loss(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Return named scalars, ``{"decode.loss_ce": ...}``; keys that hold ``loss`` are summed."""
        raise NotImplementedError

    def predict(self, images: Tensor) -> dict[str, Any]:
        """Return the raw values of each output, as its `Output` has them: logits at any size for `PixelClasses`."""
        raise NotImplementedError


class Engine(ABC):
    """Where and how a step runs: device, precision, parallelism. The runner accesses devices only through it.

    A process of a run is a rank. Collective operations must be called by every rank, equally often and in the same
    order; a multi-process engine implements `gather`, on which the others are built, and may override those with
    something faster. When a rank has failed or exited, they raise `PeerError` on the others.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1

    # ------------------------------------------------------------ one rank's work

    @abstractmethod
    def prepare_model(self, segmentor: Segmentor, preprocessor: nn.Module) -> None:
        """Move the model and the preprocessor to the device and wrap what has to be wrapped."""

    @abstractmethod
    def prepare_optimizer(
        self, optimizer: torch.optim.Optimizer, clip_grad: Mapping[str, float] | None = None
    ) -> torch.optim.Optimizer:
        """Take the optimiser that `train_step` will drive; ``clip_grad`` is {max_norm, norm_type}."""

    def transfer(self, batches: Iterable[Batch]) -> Generator[Batch, None, None]:
        """Yield batches on the device, without prefetching; those in pinned memory are copied asynchronously."""
        for batch in batches:
            yield batch.to(self.device, non_blocking=True)

    @abstractmethod
    def train_step(self, micro_batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Make one optimiser step; return the mean of each named scalar, and ``loss``, detached and on the device.

        The values are local to this rank; average them over the ranks before reporting.
        """

    @abstractmethod
    def predict(self, images: Tensor) -> dict[str, Any]:
        """Return `Segmentor.predict` of normalised images that are on the device, without gradients."""

    @abstractmethod
    def predict_with_loss(self, images: Tensor, targets: Targets) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return `Segmentor.predict_with_loss`, and ``loss``, the sum of the losses, without gradients.

        Images and targets are on the device; the model stays in the mode it is in.
        """

    # ------------------------------------------------------------ what all ranks do together

    def gather(self, value: T) -> list[T]:
        """Return the value of every rank, in their order, on every rank; it is small and can be pickled."""
        return [value]

    def agree(self, value: T) -> T:
        """Return rank 0's value on every rank."""
        return self.gather(value)[0]

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""
        return any(self.gather(flag))

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.gather(None)

    def sum(self, terms: Mapping[str, Sequence[float]]) -> dict[str, float]:
        """Return the sum of all terms of all ranks by name; a rank may lack a name.

        It is rounded once, at the end, so that it does not depend on how the terms are spread over the ranks.
        """
        parts = self.gather(terms)
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: math.fsum(chain.from_iterable(part.get(name, ()) for part in parts)) for name in names}

    def merge(self, metric: Any) -> Any:
        """Return a `Metric` that has seen what those of all ranks have."""
        whole, *others = self.gather(metric)
        for other in others:
            whole.merge(other)
        return whole

    def alert(self, reason: str) -> None:  # noqa: B027 (a single rank has no peers)
        """Tell the other ranks, without waiting for them, that this one cannot go on."""

    @property
    def alerted(self) -> bool:
        """Whether another rank has said so: a loop that calls nothing together may end early."""
        return False

    # ------------------------------------------------------------ state

    def evaluating(self) -> AbstractContextManager[Any]:
        """Return the context of an evaluation: buffers, such as running statistics, are the same on all ranks, which
        call `predict` for different numbers of images."""
        return nullcontext()

    @abstractmethod
    def model_state(self) -> dict[str, Tensor]:
        """Return the model's whole state dict with the keys it has on one process; called by all ranks together, and
        the same on all."""

    @abstractmethod
    def load_model_state(self, state: Mapping[str, Tensor]) -> Any:
        """Copy values under the names that `model_state` has into the model; others stay as they are.

        Return what ``load_state_dict(state, strict=False)`` does: ``missing_keys`` and ``unexpected_keys``.
        """

    @abstractmethod
    def optimizer_state(self) -> dict[str, Any]:
        """Return the optimiser's whole state dict, as on one process; called by all ranks together."""

    @abstractmethod
    def load_optimizer_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `optimizer_state` returned."""

    def state_dict(self) -> dict[str, Any]:
        """Return what else has to be restored on resume (a gradient scaler's state, say)."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 (most engines have no state)
        """Restore what `state_dict` returned."""


class Exporter(ABC):
    """A file format, and the runtime that loads it back."""

    suffix: ClassVar[str]
    """With the dot: ``.onnx``."""

    @abstractmethod
    def export(
        self, segmentor: Segmentor, path: Path, example: Tensor, metadata: Mapping[str, Any] | None = None
    ) -> str:
        """Write ``segmentor`` to ``path``, prove the file against it on ``example`` (N, C, H, W), raise `ExportError`
        when the numbers differ. ``metadata`` (classes, palette, preprocess) goes into the file, and comes back as the
        attribute ``metadata`` of what `load` returns. Return the proof, text to print."""

    @abstractmethod
    def load(self, path: Path, device: str | None = None) -> Segmentor:
        """Return the file as a segmentor that only predicts: it runs through the same test loop as a model.

        ``device`` is where it is asked to run, as torch writes it; a runtime that cannot raises `ExportError`. None
        leaves the choice to the runtime, whose attribute ``device`` tells it.
        """


class WeightFormat:
    """Weights as others publish them: where they are, how their file is read, what the tensors are called.

    A format is made without arguments and does one or more of three things: it locates names and addresses
    (`locates`, `locate`), reads files (`suffixes`, `read`), or converts weights (`matches`, `convert`).
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    """Suffixes of the files it reads, in lower case with the dot: ``.npz``."""
    values_only: ClassVar[tuple[type[nn.Module], ...]] = ()
    """Modules whose names its weights have already: only values change, such as the order of channels. It is asked for
    these even where all names fit; where the names do not tell, the report says that it was considered."""

    def locates(self, source: str) -> bool:
        """Tell whether `locate` is for this name or address."""
        return False

    def locate(self, source: str) -> Path:
        """Return the local file of a name or an address; raise `CheckpointError` when it cannot be obtained."""
        return Path(source)

    def read(self, path: Path) -> Mapping[str, Any]:
        """Return the content of a file that `torch.load` with ``weights_only`` does not read: tensors by name, or the
        entries of a checkpoint, on the CPU. Never runs code of it; raises `CheckpointError` if it is damaged."""
        raise NotImplementedError

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        """Tell whether weights of these names are of this format and for such a ``module``."""
        return False

    def convert(self, module: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights under the names and in the shapes of ``module``; what it has no place for may stay."""
        return weights
