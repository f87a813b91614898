"""One experiment: train, validate, test; from a config or around your own objects.

    run("quickstart")                                               # a packaged config: train, validate, test

    optimizer = torch.optim.AdamW(model.parameters())
    runner = Runner(model, train=my_dataset, val=my_val, optimizer=optimizer, iterations=1000)
    runner.run()

One iteration is `Runner._step`; everything else in a run happens in hooks. What must be the same on all ranks (run
directory, seed, stop, signal, error) is agreed on through the engine.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from segkernel import rundir
from segkernel.catalog import Catalog
from segkernel.config.sections import Evaluation, ScheduleSection, check_views
from segkernel.data import Loader
from segkernel.engine import LocalEngine, blame_batch, together
from segkernel.errors import CheckpointError, Interrupted, PeerError, UsageError, worker_crash_of
from segkernel.evaluation import evaluate
from segkernel.hooks.checkpoint import CheckpointHook
from segkernel.hookspecs import HookCaller
from segkernel.inference import Preprocessor
from segkernel.interfaces.data import Dataset
from segkernel.interfaces.model import Engine, Segmentor
from segkernel.labels import Labels
from segkernel.plain import PlainModule
from segkernel.randomness import random_state, seed_everything, set_random_state
from segkernel.sample import Batch
from segkernel.schedules import RunSchedules, Schedule
from segkernel.weights import LoadReport, load_into

log = logging.getLogger(__name__)


class Runner:
    """Trains, validates and tests a model.

    Args:
        model: A `Segmentor`, or any module with its ``loss``, ``predict`` and ``outputs``. Or a plain module that
            returns logits (N, K, h, w), which is trained with cross-entropy.
        train: A `Loader`, or a data set, of which each device gets its share of ``batch_size`` at once, without
            transforms. With segplug-datasets also torch's: a ``Dataset`` of pairs (image, mask) or dicts, see its
            `TorchDataset`, or a ``DataLoader``.
        val: The same, to validate on; a data set is evaluated one sample at a time.
        test: The same, to test on.
        optimizer: Over the model's parameters, or a function that makes one from the model.
        iterations: Number of optimiser steps; or
        epochs: passes over the training set.
        val_interval: Iterations, or epochs when ``epochs`` is given, between validations; there is one at the end, too.
        val_begin: The iteration before which there is no validation.
        batch_size: Samples per optimiser step over all devices; None is one micro-batch per device.
        lr: Learning-rate schedules, ours or torch's.
        clip_grad: ``{"max_norm": 1.0, "norm_type": 2.0}``.
        evaluation: Metrics and inference settings.
        hooks: Objects with `hookimpl` methods; one of a default hook's class, or derived from it, replaces that one.
        engine: Runs the steps; None is a `LocalEngine`.
        preprocessor: Normalises batches on the device.
        seed: Seed of all random numbers; rank 0's is used.
        work_dir: The run directory; None creates ``work_dirs/NAME/TIME`` when the run starts.
        name: Name of the run, for its directory.
        config: The resolved config as plain values, saved with checkpoints.

    Raises:
        UsageError: When the parts do not fit together.
    """

    def __init__(
        self,
        model: Segmentor | nn.Module,
        *,
        train: Any = None,
        val: Any = None,
        test: Any = None,
        optimizer: torch.optim.Optimizer | Callable[[Segmentor], torch.optim.Optimizer] | None = None,
        iterations: int | None = None,
        epochs: float | None = None,
        val_interval: float | None = None,
        val_begin: int = 0,
        batch_size: int | None = None,
        lr: Sequence[Schedule | torch.optim.lr_scheduler.LRScheduler] = (),
        clip_grad: Mapping[str, float] | None = None,
        evaluation: Evaluation | None = None,
        hooks: Sequence[Any] = (),
        engine: Engine | None = None,
        preprocessor: Preprocessor | None = None,
        seed: int = 0,
        work_dir: str | Path | None = None,
        name: str = "run",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.engine = engine or LocalEngine()
        self.seed = self.engine.agree(seed)
        seed_everything(self.seed)
        self.preprocessor = preprocessor or Preprocessor()
        self.train_set = _loader(train, self.seed, model, max((batch_size or 1) // self.engine.world_size, 1))
        self.val_set, self.test_set = (_loader(part, self.seed, model) for part in (val, test))
        plain = not (hasattr(model, "loss") or hasattr(model, "outputs"))
        self.model: Segmentor = PlainModule(model, len(self.labels.classes)) if plain else model  # type: ignore[assignment]
        self.evaluation = evaluation or Evaluation()
        check_views(getattr(model, "test_cfg", None))
        self.val_begin, self.config = val_begin, dict(config or {})
        self.name, self._wanted_dir = name, None if work_dir is None else Path(work_dir)
        self.engine.prepare_model(self.model, self.preprocessor)
        # An optimiser that is created here gets the parameters as the engine prepared them.
        optimizer = optimizer(self.model) if not isinstance(optimizer, torch.optim.Optimizer | None) else optimizer
        self.optimizer = self.engine.prepare_optimizer(optimizer, clip_grad) if optimizer else None
        self._plan(iterations, epochs, val_interval, batch_size)
        seed_everything(self.seed + self.engine.rank)  # the model is the same on all ranks, dropout is not
        # A schedule may have a state and hook methods, like any hook.
        self.hooks = HookCaller(_with_defaults([*hooks, *lr], [self.train_set, self.val_set, self.test_set]))
        self.iteration, self.position, self.data_wait = 0, 0, 0.0
        self.metrics: dict[str, float] = {}
        self.mode, self.settled, self._open = "idle", True, ExitStack()
        self._started = self._holds_directory = self._validation_pending = False
        self._stop_reason: str | None = None
        self.received = self.signal = 0  # the signal to this rank, and the one all ranks agreed on
        self._saved: Path | None = None
        self._random: Mapping[str, Any] | None = None
        epoch = Fraction(len(self.train_set.dataset) if self.train_set is not None else 1, self.batch_size)
        self._schedules = RunSchedules(lr, self.optimizer, self.max_iterations, epoch)

    # ------------------------------------------------------------ for hooks, see `segkernel.hookspecs.Run`

    @property
    def is_main(self) -> bool:
        return self.engine.rank == 0

    @property
    def epoch(self) -> float:
        return self.position / len(self.train_set.dataset) if self.train_set is not None else 0.0

    @property
    def stopping(self) -> bool:
        return self._stop_reason is not None

    @property
    def labels(self) -> Labels:
        part = next((s.dataset for s in (self.train_set, self.val_set, self.test_set) if s is not None), None)
        if part is None:
            raise UsageError("the run has no data set")
        return getattr(part, "labels", None) or Labels(tuple(part.classes), tuple(part.palette))

    def stop(self, reason: str) -> None:
        if not self.stopping:
            log.info("stopping after iteration %d: %s", self.iteration, reason)
        self._stop_reason = reason

    def emit(self, record: Mapping[str, Any]) -> None:
        self.hooks.on_record(run=self, record=record)

    # ------------------------------------------------------------ the run

    def run(self) -> dict[str, float]:
        """Train if there is a training set, test if there is a test set; return the last metrics."""
        if self.train_set is None and self.test_set is None:
            raise UsageError("nothing to do: there is neither a training set (data.train) nor a test set (data.test)")
        if self.train_set is not None:
            self.train()
        if self.test_set is not None:
            self.test("best" if self.train_set is not None else None)
        self.close()
        return self.metrics

    def train(self) -> None:
        """Train from the current iteration to the last.

        Raises:
            Interrupted: After SIGINT or SIGTERM on any rank, when the step is finished and a checkpoint saved.
            TrainingError: When the model fails on a batch; the message names its files.
            PeerError: When another rank has failed.
        """
        if self.train_set is None or self.optimizer is None:
            missing = "a training set (data.train)" if self.train_set is None else "an optimizer (optim.optimizer)"
            raise UsageError(f"training needs {missing}")
        with self._signals(), self._running():
            with self._mode("train"), self.hooks.during("train", self):
                batches = self.train_set.train_batches(self.position, self.engine.rank, self.engine.world_size)
                with closing(self.engine.transfer(batches)) as ready:  # stops its workers
                    if self._random is not None:  # last, so that start-up does not affect the generators
                        set_random_state(self._random)
                        self._random = None
                    if self._validation_pending:
                        self._end_iteration(validate=True)
                    while self.iteration < self.max_iterations and not self.stopping:
                        self._step(ready)
                self.agree_on_stop()
            if self.signal:
                raise Interrupted(self.signal, self._saved, reported=not self.is_main)

    def _step(self, batches: Iterator[Batch]) -> None:
        """Run one iteration: an optimiser step, its hooks, and validation if due."""
        waiting = time.perf_counter()
        with together(self.engine):
            micro_batches = [next(batches) for _ in range(self.accumulate)]
        self.data_wait = time.perf_counter() - waiting
        with self.hooks.during("train_iteration", self, batches=micro_batches):
            epochs_before = int(self.epoch)
            self.settled = False
            with blame_batch(micro_batches):
                losses = self.engine.train_step(micro_batches)
            self.iteration += 1
            self.position += self.batch_size
            self.hooks.after_train_iteration(run=self, batches=micro_batches, losses=losses)
            self._schedules.step(self.iteration)
            self.settled = True
        if int(self.epoch) > epochs_before:
            self.hooks.after_train_epoch(run=self, epoch=int(self.epoch))
        self._end_iteration(validate=self._validation_due())

    def _end_iteration(self, validate: bool) -> None:
        if validate and self.val_set is not None:
            self._validation_pending = True
            self.agree_on_stop()
            if not self.signal:
                self._validate(self.val_set)
        self.agree_on_stop()
        self.hooks.after_iteration(run=self)

    def agree_on_stop(self) -> None:
        """Stop if any rank received a signal or called `stop`; a collective call."""
        if self.engine.any(bool(self.received) or self.stopping):
            signals, reasons = zip(*self.engine.gather((self.received, self._stop_reason)))
            self.signal = max(signals)
            self.stop(f"signal {self.signal}" if self.signal else next(filter(None, reasons)))

    def validate(self) -> dict[str, float]:
        """Evaluate the validation set; return its metrics, empty when a signal interrupted it."""
        if self.val_set is None:
            raise UsageError("the run has no validation set")
        with self._running():
            return self._validate(self.val_set)

    def _validate(self, part: Loader) -> dict[str, float]:
        with self._mode("val"), self.hooks.during("validation", self):
            metrics = evaluate(self, part, "val")
            if metrics is not None:
                self._validation_pending = False
                self.hooks.after_validation(run=self, metrics=metrics)
        return metrics or {}

    def test(self, weights: str | Path | None = None) -> dict[str, float]:
        """Evaluate the test set; return its metrics.

        Args:
            weights: A checkpoint; ``"best"`` is the run's best, or last, one; None tests the current model.
        """
        if self.test_set is None:
            raise UsageError("the run has no test set")
        with self._running():
            path, trained = self.best_checkpoint() if weights == "best" else weights, self.iteration
            if path is not None:
                found = self._load_weights(path, "strict")[0].get("iteration")
                self.iteration = found if type(found) is int else trained  # that of the tested weights, for its records
            if not (self.evaluation.metrics or self.evaluation.format_only):
                log.warning("no metrics configured (evaluate.metrics): the test reports none")
            with self._mode("test"), self.hooks.during("test", self):
                metrics = evaluate(self, self.test_set, "test") or {}
                self.hooks.after_test(run=self, metrics=metrics)
            self.iteration = trained
        return metrics

    def close(self) -> None:
        """Let hooks close their files and release the run directory; called by `run`, and after an error."""
        self._started = self._holds_directory = False
        self._open.close()
        for part in (self.val_set, self.test_set):
            if part is not None:
                part.close()

    @contextmanager
    def _mode(self, mode: str) -> Iterator[None]:
        """Run a block in a mode, with the model in training or evaluation mode accordingly."""
        before = self.mode
        try:
            self._enter(mode)
            yield
        finally:
            self._enter(before)

    def _enter(self, mode: str) -> None:
        self.mode = mode
        self.model.train(mode == "train")
        self.preprocessor.train(mode == "train")

    # ------------------------------------------------------------ checkpoints

    def save(self, path: str | Path) -> Path:
        """Write everything that `resume` needs, atomically; a collective call.

        It returns on all ranks after the file was written.
        """
        state: dict[str, Any] = {
            "state_dict": self.engine.model_state(),
            "meta": rundir.metadata(self),
            "optimizer": self.engine.optimizer_state() if self.optimizer else None,
            "engine": self.engine.state_dict(),
            "hooks": {name: hook.state_dict() for name, hook in self.hooks.stateful().items()},
            "random": self.engine.gather(random_state()),
            "iteration": self.iteration,
            "position": self.position,
            "validation_pending": self._validation_pending,
        }
        self.hooks.save_checkpoint(run=self, checkpoint=state)
        with together(self.engine):
            if not any(self.hooks.write_checkpoint(run=self, path=Path(path), checkpoint=state)):
                self.engine.write(Path(path), state)
        self._saved = Path(path)
        return self._saved

    def resume(self, path: str | Path) -> None:
        """Restore everything from a checkpoint of a run like this one; training then continues as if uninterrupted.

        Raises:
            CheckpointError: When it is not a checkpoint of a run like this one.
            UsageError: When it holds weights only.
        """
        self._start(resuming=True)
        with together(self.engine):
            state, _ = load_into(self.model, self.engine.read(Path(path)), "strict", load=self.engine.load_model_state)
        if not {"optimizer", "random", "position"} <= state.keys():
            raise UsageError(f"{path} holds weights only, not a run to resume; start from them with load_from: {path}")
        try:
            self._restore(state)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            hint = f"to start from its weights only: load_from: {path}"
            raise CheckpointError(f"{path}: does not match this run: {reason}\n    {hint}") from error
        self.hooks.load_checkpoint(run=self, checkpoint=state)
        log.info("resumed %s at iteration %d of %d", path, self.iteration, self.max_iterations)

    def _restore(self, state: Mapping[str, Any]) -> None:
        if self.optimizer is not None and state["optimizer"]:
            self.engine.load_optimizer_state(state["optimizer"])
            groups = self.optimizer.param_groups
            missing = {key for group in groups for key in self.optimizer.defaults.keys() - group.keys()}
            if missing:
                raise ValueError(f"its optimizer was a different one, without {', '.join(sorted(missing))}")
        self.engine.load_state_dict(state["engine"])
        for name, hook in self.hooks.stateful().items():
            if name in state["hooks"]:
                hook.load_state_dict(state["hooks"][name])
        self.iteration, self.position = int(state["iteration"]), int(state["position"])
        self._schedules.resume(self.iteration)
        self._validation_pending = bool(state["validation_pending"])
        states = state["random"] if isinstance(state["random"], list) else [state["random"]]  # a dict before 0.3
        if len(states) == self.engine.world_size:
            self._random = states[self.engine.rank]
            set_random_state(self._random)  # fails now if it is invalid; restored again later
        else:
            now = self.engine.world_size
            log.warning("saved by %d processes, resumed by %d: random numbers differ", len(states), now)

    def load_weights(self, path: str | Path, mode: Literal["strict", "finetune"] = "finetune") -> LoadReport:
        """Load the model's weights only and log a report; ``strict`` refuses anything that does not fit."""
        return self._load_weights(path, mode)[1]

    def _load_weights(self, path: str | Path, mode: Literal["strict", "finetune"]) -> tuple[dict[str, Any], LoadReport]:
        with together(self.engine):
            load = self.engine.load_model_state
            state, report = load_into(self.model, path, mode, classes=self.labels.classes, load=load)
        log.info("%s\n%s", path, report)
        return state, report

    def best_checkpoint(self) -> Path | None:
        """Return the best checkpoint of this run, else the last one saved."""
        found = [hook.best_path(self) for hook in self.hooks.hooks if isinstance(hook, CheckpointHook)]
        return next(filter(None, found), self._saved)

    # ------------------------------------------------------------ inner workings

    def _plan(
        self, iterations: int | None, epochs: float | None, val_interval: float | None, batch_size: int | None
    ) -> None:
        """Convert lengths to iterations; one is an optimiser step on ``accumulate`` micro-batches per device."""
        lengths = {"iterations": iterations, "epochs": epochs, "val_interval": val_interval, "batch_size": batch_size}
        for name, value in lengths.items():
            if value is not None and not value > 0:
                raise UsageError(f"{name} {value}: must be above 0")
        part = self.train_set
        step = (part.micro_batch if part is not None else 1) * self.engine.world_size
        self.batch_size = batch_size or step
        self.accumulate, rest = divmod(self.batch_size, step)
        if rest or not self.accumulate:
            raise UsageError(f"optim.batch_size {self.batch_size} is not a multiple of micro_batch x devices = {step}")
        if part is not None and ScheduleSection(iterations, epochs) == ScheduleSection():
            raise UsageError("set iterations or epochs, neither is set")
        unit = self.batch_size if epochs is None or part is None else len(part.dataset)
        self.max_iterations = math.ceil((epochs or iterations or 0) * unit / self.batch_size)
        self._samples_per_validation = val_interval * unit if val_interval else math.inf

    def _validation_due(self) -> bool:
        every = self._samples_per_validation
        passed = int(self.position / every) > int((self.position - self.batch_size) / every)
        return self.iteration >= self.max_iterations or (passed and self.iteration >= self.val_begin)

    def _start(self, resuming: bool = False) -> None:
        """Claim the run directory and start the run, each once; ``resuming`` leaves the start to the next call.

        Rank 0 chooses the directory and keeps other runs out of it until the end.
        """
        if not self._holds_directory:
            with together(self.engine):
                path = rundir.claim(self, self._open, self._wanted_dir, resuming) if self.is_main else None
            self.work_dir = Path(self.engine.agree(str(path)))
            self._holds_directory = True
        if not (self._started or resuming):
            self._started = True
            self._open.enter_context(self.hooks.during("run", self))

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Start the run if needed; on an error, notify the other ranks and the hooks, then close it."""
        try:
            self._start()
            yield
        except BaseException as error:
            known = worker_crash_of(error) or error
            if not isinstance(known, PeerError | Interrupted):
                self.engine.alert(str(known) or type(known).__name__)
                if self.engine.world_size > 1 and not getattr(known, "on_all_ranks", True):
                    known.args = (f"rank {self.engine.rank}: {known}", *known.args[1:])
            self.hooks.on_exception(run=self, error=known)
            self.close()
            if known is not error:
                raise known from error
            raise

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn SIGINT and SIGTERM into a stop after this iteration; a second one is not caught."""
        catchable = threading.current_thread() is threading.main_thread()
        with ExitStack() as restoring:

            def note(number: int, frame: Any) -> None:
                self.received = number
                restoring.close()

            for number in (signal.SIGINT, signal.SIGTERM) if catchable else ():
                restoring.callback(signal.signal, number, signal.signal(number, note))
            yield


def _with_defaults(hooks: Sequence[Any], parts: Sequence[Loader | None]) -> list[Any]:
    """Return hooks by priority, with the default ones and those of data sets unless one of ``hooks`` replaces them."""
    of_data = (kind for part in parts if part for kind in getattr(part.dataset, "run_hooks", ()))
    kinds = dict.fromkeys([*(kind for _, kind in Catalog.current().load_all("default_hooks")), *of_data])
    kept = [kind() for kind in kinds if not any(isinstance(hook, kind) for hook in hooks)]
    return sorted([*kept, *hooks], key=lambda hook: getattr(hook, "priority", 50))


def _loader(part: Any, seed: int, model: Any, micro_batch: int = 1) -> Loader | None:
    """Return a loader for what a `Runner` takes; plugins (``adapters``) convert the objects of other libraries."""
    if not isinstance(part, Loader | Dataset | None):
        catalog, given = Catalog.current(), type(part).__name__
        part = next(filter(None, (adapt(part, model, seed) for _, adapt in catalog.load_all("adapters"))), None)
        if part is None:
            why = f"a {given} is no data set: it needs classes, palette, a length, and a Sample for each index"
            raise catalog.why_none("adapters", given) or UsageError(why)
    return part if isinstance(part, Loader | None) else Loader(part, micro_batch=micro_batch, seed=seed)
