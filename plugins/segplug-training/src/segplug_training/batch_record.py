"""`BatchRecord`: everything needed to reproduce the batch of one optimiser step, with crops and augmentation.

A sample's randomness follows from the seed and its position in the draw order, so these and the config are enough.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkernel.engine import sample_names
from segkernel.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from segkernel.data import Loader
    from segkernel.hookspecs import Run
    from segkernel.sample import Batch

FOLDER = "replay"


@dataclass
class BatchRecord:
    """The batch of one rank in one step.

    Args:
        iteration: Number of the step, counted from 1.
        position: Samples that all ranks had drawn before it.
        seed: Seed of the run; with a sample's position it determines crop and augmentation.
        rank: Rank of the batch.
        world_size: Number of ranks.
        micro_batch: Samples of a micro-batch on one rank.
        names: Names of the samples, usually file paths, one list per micro-batch.
        loss: Value of the loss, a string because JSON has no nan.
        digest: Hash of the images and annotations; None if they had been freed.
        config: Resolved config of the run.
    """

    iteration: int
    position: int
    seed: int
    rank: int
    world_size: int
    micro_batch: int
    names: list[list[str]]
    loss: str = ""
    digest: str | None = None
    config: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run, batches: Sequence[Batch]) -> BatchRecord:
        """Return the record of the last step, without config and digest, which are slow to compute."""
        length = len(run.train_set.dataset) if run.train_set is not None else 1
        drawn = sum(map(len, batches)) * run.engine.world_size
        return cls(
            iteration=run.iteration,
            position=round(run.epoch * length) - drawn,
            seed=run.seed,
            rank=run.engine.rank,
            world_size=run.engine.world_size,
            micro_batch=len(batches[0]),
            names=[sample_names([batch]) for batch in batches],
        )

    def save(self, run: Run) -> Path:
        """Write the record into the run directory; return its path."""
        self.config = json.loads(json.dumps(run.config, default=str))
        path = run.work_dir / FOLDER / f"iter_{self.iteration:07d}_rank{self.rank}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2), "utf-8")
        return path

    @classmethod
    def load(cls, path: Path) -> BatchRecord:
        """Read a record, or the newest one of a run directory.

        Raises:
            DataError: When there is none, or the file is not a batch record.
        """
        if path.is_dir():
            found = sorted((path / FOLDER).glob("iter_*.json"))
            if not found:
                raise DataError("no batch was recorded in this run", path)
            path = found[-1]
        try:
            return cls(**json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"is not a batch record: {error}", path) from error

    def rebuild(self, loader: Loader) -> list[Batch]:
        """Reproduce the micro-batches, from a loader with the settings of the run's.

        Raises:
            DataError: When they differ: the data or the transforms have changed.
        """
        drawn = loader.train_batches(self.position, self.rank, self.world_size)
        batches = list(islice(drawn, len(self.names)))
        names = [sample_names([batch]) for batch in batches]
        if names != self.names:
            raise DataError(f"the data set has changed: its samples are {names}, the run had {self.names}")
        if self.digest not in (None, digest(batches)):
            raise DataError("the data or the transforms have changed: the values of the samples differ from the run's")
        return batches


def digest(batches: Sequence[Batch]) -> str:
    """Return a checksum of all values of the batches."""
    hasher = hashlib.sha256()

    def take(tensor: Tensor) -> Tensor:
        hasher.update(repr((tuple(tensor.shape), tensor.dtype)).encode())
        hasher.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return tensor

    for batch in batches:
        batch.map(take)
    return hasher.hexdigest()
