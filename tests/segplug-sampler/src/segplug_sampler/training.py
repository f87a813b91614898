"""An engine, an optimiser, a schedule and a hook."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import Unpack

from segkernel.hookspecs import Priority, hookimpl
from segkernel.interfaces.model import Engine, Segmentor
from segkernel.sample import Batch, Targets
from segkernel.schedules import Schedule, ScheduleArguments

if TYPE_CHECKING:
    from segkernel.hookspecs import Run

log = logging.getLogger(__name__)


class PlainEngine(Engine):
    """One process on the CPU, in float32.

    Args:
        greeting: Logged when the model is prepared.
    """

    device = torch.device("cpu")

    def __init__(self, greeting: str = "plain") -> None:
        self.greeting, self.steps = greeting, 0

    def prepare_model(self, segmentor: Segmentor, preprocessor: nn.Module) -> None:
        """Store both."""
        log.info("%s engine", self.greeting)
        self.segmentor, self.preprocessor = segmentor, preprocessor

    def prepare_optimizer(self, optimizer: Optimizer, clip_grad: Mapping[str, float] | None = None) -> Optimizer:
        """Store and return it."""
        self.optimizer = optimizer
        return optimizer

    def train_step(self, micro_batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Accumulate gradients, step, and return the mean losses."""
        self.optimizer.zero_grad()
        share = 1 / len(micro_batches)
        sums: dict[str, Tensor] = {}
        for batch in micro_batches:
            losses = _with_total(self.segmentor.loss(*self.preprocessor(batch)))
            (losses["loss"] * share).backward()
            sums = {name: sums.get(name, 0) + value.detach() * share for name, value in losses.items()}
        self.optimizer.step()
        self.steps += 1
        return sums

    @torch.no_grad()
    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """Return the segmentor's prediction."""
        return self.segmentor.predict(images)

    @torch.no_grad()
    def predict_with_loss(self, images: Tensor, targets: Targets) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the segmentor's prediction and losses."""
        prediction, losses = self.segmentor.predict_with_loss(images, targets)
        return prediction, _with_total(losses)

    def model_state(self) -> dict[str, Tensor]:
        """Return the model's state."""
        return self.segmentor.state_dict()

    def load_model_state(self, state: Mapping[str, Tensor]) -> Any:
        """Load the model's state."""
        return self.segmentor.load_state_dict(state, strict=False)

    def optimizer_state(self) -> dict[str, Any]:
        """Return the optimiser's state."""
        return self.optimizer.state_dict()

    def load_optimizer_state(self, state: Mapping[str, Any]) -> None:
        """Load the optimiser's state."""
        self.optimizer.load_state_dict(dict(state))

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps."""
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the number of steps."""
        self.steps = state["steps"]


def _with_total(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    total = torch.stack([value for name, value in losses.items() if "loss" in name]).sum()
    return {**losses, "loss": total}


class SignSGD(Optimizer):
    """Step by ``lr`` against the sign of each gradient (Bernstein et al., 2018).

    Args:
        params: Parameters, or groups of them.
        lr: Step size.
        weight_decay: Decoupled weight decay; each step subtracts ``lr * weight_decay`` times the weight.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(parameter.grad.sign(), alpha=group["lr"])


class Halving(Schedule):
    """Halve the learning rate at regular intervals.

    Args:
        every: Iterations between two cuts.
    """

    def __init__(self, every: int = 2, **kwargs: Unpack[ScheduleArguments]) -> None:
        super().__init__(**kwargs)
        self.every = every

    def rate(self, lr: float, base: float, i: int) -> float:
        """Return the rate at iteration ``i`` from the previous one."""
        return lr / 2 if i and i % self.every == 0 else lr


class StopEarly:
    """Stop the run after some iterations.

    Args:
        iterations: Number of iterations after which to stop.
    """

    priority: ClassVar = Priority.LOW

    def __init__(self, iterations: int = 3) -> None:
        self.iterations = iterations

    @hookimpl
    def after_train_iteration(self, run: Run) -> None:
        """Stop the run."""
        if run.iteration + 1 >= self.iterations:
            run.stop(f"StopEarly: {self.iterations} iterations are enough")
