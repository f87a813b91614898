"""`FastEvaluationHook`: validation and test of a run by the fast paths of inference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from segkernel.hookspecs import Priority, hookimpl

if TYPE_CHECKING:
    from segkernel.hookspecs import Run
    from segkernel.interfaces.model import Output, Segmentor


class FastEvaluationHook:
    """Compute the labels of a validation or test without enlarged logits, and test with a faster model.

    The labels of given logits are the same, bit by bit. A test, whose weights do not change, runs a copy that
    `optimize_for_inference` makes, with logits that are equal up to rounding.

    Args:
        optimize: Whether a test uses the copy; it does in one process, in full precision, and if the model has no
            forward hooks.
    """

    priority = Priority.VERY_LOW  # after hooks that replace the weights

    def __init__(self, optimize: bool = True) -> None:
        self.optimize = optimize
        self._outputs: Mapping[str, Output] | None = None
        self._model: Segmentor | None = None

    @hookimpl
    def before_validation(self, run: Run) -> None:
        from segplug_deploy.labels import fast_outputs

        self._outputs = run.model.outputs
        run.model.outputs = fast_outputs(run.model.outputs)

    @hookimpl
    def validation_ended(self, run: Run) -> None:
        if self._outputs is not None:
            run.model.outputs, self._outputs = dict(self._outputs), None

    @hookimpl
    def before_test(self, run: Run) -> None:
        from segplug_deploy.inference import optimize_for_inference

        engine: Any = run.engine
        if self.optimize and _runs_as_it_is(engine, run.model):
            self._model = engine.segmentor
            engine.segmentor = optimize_for_inference(run.model, engine.device, memory=False)  # the engine has its own
        self.before_validation(run)

    @hookimpl
    def test_ended(self, run: Run) -> None:
        if self._model is not None:
            run.engine.segmentor, self._model = self._model, None  # type: ignore[attr-defined]
        self.validation_ended(run)


def _runs_as_it_is(engine: Any, model: Any) -> bool:
    """Whether an engine predicts with the model itself, in full precision, and nothing observes it."""
    is_own = getattr(engine, "segmentor", None) is model
    if engine.world_size > 1 or getattr(engine, "amp", None) or not is_own:
        return False
    modules = model.modules() if hasattr(model, "modules") else ()
    return not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
