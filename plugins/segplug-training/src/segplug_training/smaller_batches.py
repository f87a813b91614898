"""Recovery from out-of-memory errors: repeats the optimiser step with smaller micro-batches."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from segkernel.sample import Batch

log = logging.getLogger("segkernel.memory")

Step = Callable[[Sequence[Batch]], dict[str, Tensor]]

_WORDS = (
    *("out of memory", "can't allocate memory", "ALLOC_FAILED"),  # torch
    *("bad_alloc", "Cannot allocate memory", "could not create"),  # C++, the system, oneDNN
)


class SmallerBatches:
    """Runs steps, and repeats one that runs out of memory with each micro-batch split into twice as many parts.

    The accumulated batch is the same, so the step is, too, except for what depends on the micro-batch: the statistics
    of batch norm, and the number of valid pixels that a loss is averaged over. Running statistics also include some
    samples of the failed attempt.

    One of several ranks cannot repeat a step, since the others are in the middle of it: in their collective operations
    of the forward or backward pass. There, the next attempt of the run, if it gets one, uses smaller micro-batches.

    Args:
        announce: Tells the next attempt of all ranks into how many parts to split; None repeats the step here.
        parts: The number of parts to begin with.
    """

    def __init__(self, announce: Callable[[int], None] | None = None, parts: int = 1) -> None:
        self.announce, self.parts = announce, parts
        self.is_updating = False
        """Whether the step is updating parameters, after which it cannot be repeated."""

    def step(self, make: Step, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Return the result of ``make`` for the micro-batches, split until they fit into memory."""
        while True:
            self.is_updating = False
            try:
                return make([part for batch in batches for part in split(batch, self._parts_of(batch))])
            except (RuntimeError, MemoryError) as error:
                more = self._more(batches)
                if self.is_updating or more is None or not is_out_of_memory(error):
                    raise
                if self.announce is not None:
                    self.announce(more)
                    log.warning("out of memory: %s", _ADVICE % (len(batches[0]) // more))
                    raise
            # Tensors held by the frames of the error are released only here.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.parts = more
            sizes = sorted({len(batch) // self._parts_of(batch) for batch in batches})
            log.warning(
                "out of memory: micro-batches of %d samples from now on; the batch of a step stays the same\n"
                "    set data.micro_batch=%d to start with it\n"
                "    help: seg-kernel explain out-of-memory (docs: troubleshooting/out-of-memory/)",
                *(sizes[-1], sizes[-1]),
            )

    def _parts_of(self, batch: Batch) -> int:
        """Return the number of parts of a micro-batch; they are equal, since all have the same weight."""
        return next(parts for parts in range(min(self.parts, len(batch)), 0, -1) if len(batch) % parts == 0)

    def _more(self, batches: Sequence[Batch]) -> int | None:
        """Return the next number of parts that divides all micro-batches; None when there is none."""
        size = math.gcd(*map(len, batches))
        return next((parts for parts in range(self.parts + 1, size + 1) if size % parts == 0), None)


_ADVICE = """several ranks cannot repeat a step
    if torchrun starts them again (--max-restarts), they use micro-batches of %d samples; else set data.micro_batch"""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of a GPU or of the system."""
    known = (MemoryError, torch.cuda.OutOfMemoryError)
    return isinstance(error, known) or any(words in str(error) for words in _WORDS)


def split(batch: Batch, parts: int) -> list[Batch]:
    """Split a batch into equal parts."""
    if parts == 1:
        return [batch]
    size = len(batch) // parts
    return [_rows(batch, slice(start, start + size)) for start in range(0, len(batch), size)]


def _rows(batch: Batch, rows: slice) -> Batch:
    fields = {name: value[rows] for name, value in batch.targets.fields.items()}
    lists = ("sizes", "meta", "truths", "original_sizes", "device_steps")
    own = {name: getattr(batch, name)[rows] for name in lists}
    return replace(batch, images=batch.images[rows], targets=replace(batch.targets, fields=fields), **own)
