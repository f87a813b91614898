"""The processes of a run, and their communication other than gradients: small values, flags, failure alerts.

Started by ``torchrun``, by SLURM's ``srun``, or by anything else that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR
and MASTER_PORT.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from segkernel.errors import PeerError, UsageError

T = TypeVar("T")
ALERT_KEY = "alert"
"""Key in the store of the alert of the first rank that failed."""
PARTS_KEY = "parts"
"""Key in the store of the number of parts of a micro-batch, after one did not fit into memory."""
PATIENCE = 5.0
"""Seconds to wait for an alert after a connection is lost: it may arrive later than the disconnect."""
_LOST = re.compile(
    r"gloo|NCCL|Connection (closed|reset|refused)|Broken pipe|[Ss]ocket|[Tt]imed out|\bstore\b", re.DOTALL
)


def is_launched() -> bool:
    """Whether this process is one of several ranks."""
    if "WORLD_SIZE" not in os.environ:
        os.environ.update(slurm_ranks(os.environ))
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def slurm_ranks(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that torchrun would set, from those of SLURM's ``srun``; empty outside a job step."""
    if int(variables.get("SLURM_STEP_NUM_TASKS", "1")) < 2:  # SLURM_NTASKS is also set in the batch script
        return {}
    nodes = variables.get("SLURM_STEP_NODELIST") or variables["SLURM_JOB_NODELIST"]
    job, step = int(variables["SLURM_JOB_ID"]), int(variables.get("SLURM_STEP_ID", "0"))
    found = {
        "RANK": variables["SLURM_PROCID"],
        "WORLD_SIZE": variables["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": variables["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(_tasks_of_node(variables)),
        "MASTER_ADDR": first_host(nodes),
        "MASTER_PORT": str(20000 + (job + 101 * step) % 10000),  # same for all ranks, different between steps
    }
    return {name: variables.get(name, value) for name, value in found.items()}


def first_host(nodes: str) -> str:
    """Return the first host of SLURM's list: ``gpu003`` of ``gpu[003-005,9],big1``."""
    prefix, first, suffix = re.match(r"([^,\[]+)(?:\[([^],-]+)[^]]*\])?([^,\[]*)", nodes).groups()  # type: ignore[union-attr]
    return f"{prefix}{first or ''}{suffix}"


def _tasks_of_node(variables: Mapping[str, str]) -> int:
    """Return the number of tasks on this node, from a list like ``4(x2),3``."""
    counts: list[int] = []
    for part in variables.get("SLURM_STEP_TASKS_PER_NODE", "1").split(","):
        count, _, times = part.rstrip(")").partition("(x")
        counts += [int(count)] * int(times or 1)
    return counts[min(int(variables.get("SLURM_NODEID", "0")), len(counts) - 1)]


def local_rank() -> int:
    """Return the rank of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def gpu_index() -> int:
    """Return the GPU of this rank among those that it sees: only one where SLURM binds one to each task."""
    bound = "SLURM_LOCALID" in os.environ and torch.cuda.device_count() == 1
    return 0 if bound else local_rank()


class Ranks:
    """The process group of a run, as seen by this rank.

    Args:
        backend: ``nccl`` or ``gloo``, for tensors; small values always use gloo.
        timeout: Seconds that a rank waits for the others before it fails.

    Raises:
        UsageError: When the environment is incomplete, or the other ranks do not connect.
    """

    def __init__(self, backend: str, timeout: float) -> None:
        wait = timedelta(seconds=timeout)
        try:
            store, self.rank, self.size = next(dist.rendezvous("env://", timeout=wait))
            self.launch = launch_store(store)
            self.store = dist.PrefixStore(f"segkernel/{meet(store, self.rank, self.size, timeout)}", store)
            if not dist.is_initialized():
                dist.init_process_group(backend, store=self.store, rank=self.rank, world_size=self.size, timeout=wait)
                atexit.register(_leave)
            self.group = dist.group.WORLD if backend == "gloo" else dist.new_group(backend="gloo", timeout=wait)
        except (ValueError, RuntimeError) as error:
            message = str(error).splitlines()[0]
            raise UsageError(
                f"the processes of this run cannot connect to each other: {message}\n    start them with torchrun"
            ) from error
        self.store.set(f"rank{self.rank}", f"{socket.gethostname()}:{os.getpid()}")
        # Read now: without torchrun the store is in rank 0's process, and ends with it.
        self.places = [self.store.get(f"rank{rank}").decode() for rank in range(self.size)]

    def gather(self, value: T) -> list[T]:
        """Return the value of every rank, in rank order."""
        values: list[T | None] = [None] * self.size
        with self.watching():
            dist.all_gather_object(values, value, group=self.group)
        return values  # type: ignore[return-value]

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""
        answer = torch.tensor([flag], dtype=torch.uint8)
        with self.watching():
            dist.all_reduce(answer, dist.ReduceOp.MAX, group=self.group)
        return bool(answer)

    def barrier(self) -> None:
        """Wait until every rank has reached this point."""
        with self.watching():
            dist.barrier(group=self.group)

    # ------------------------------------------------------------ what the next attempt has to know

    def set_parts(self, parts: int) -> None:
        """Tell all ranks of the next attempt into how many parts to split micro-batches."""
        with contextlib.suppress(RuntimeError):
            self.launch.set(PARTS_KEY, str(parts))

    def parts(self) -> int:
        """Return the number that a rank of an earlier attempt has set, else 1."""
        return int(self.launch.get(PARTS_KEY)) if self.launch.check([PARTS_KEY]) else 1

    # ------------------------------------------------------------ failures

    def alert(self, reason: str) -> None:
        """Post an alert that this rank has failed; the first alert counts."""
        with contextlib.suppress(RuntimeError):
            self.store.compare_set(ALERT_KEY, "", f"{self.rank}:{reason}")

    @property
    def alerted(self) -> bool:
        """Whether any rank has raised an alert."""
        try:
            return self.store.check([ALERT_KEY])
        except RuntimeError:  # the process that hosts the store has exited
            return True

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Name the failed rank when a lost connection interrupts a collective operation.

        Raises:
            PeerError: Instead of torch's error.
        """
        try:
            yield
        except RuntimeError as error:
            if not (isinstance(error, dist.DistError) or _LOST.search(str(error))):
                raise
            raise self._why(error) from error

    def _why(self, error: RuntimeError) -> PeerError:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if (alert := self._alert()) and not alert.startswith(f"{self.rank}:"):
                rank, _, reason = alert.partition(":")
                return PeerError(f"rank {rank}: {reason}")
            if gone := [rank for rank in range(self.size) if not self._is_running(rank)]:
                # The lowest remaining rank reports, since those that were killed could not.
                reporter = min(set(range(self.size)) - set(gone))
                message = f"rank {gone[0]} was killed without an error message, perhaps by the out-of-memory killer"
                hint = "continue from the last checkpoint with --resume"
                return PeerError(f"{message}\n    {hint}", reported=self.rank != reporter)
            time.sleep(0.1)
        return PeerError(f"another rank has exited or is unreachable: {str(error).splitlines()[0]}", reported=False)

    def _alert(self) -> str:
        with contextlib.suppress(RuntimeError):
            return self.store.get(ALERT_KEY).decode() if self.store.check([ALERT_KEY]) else ""
        return ""

    def _is_running(self, rank: int) -> bool:
        """Whether a rank's process is running; assumed where it cannot be checked from this host."""
        try:
            host, _, process = self.places[rank].rpartition(":")
            if host == socket.gethostname() and os.name == "posix":
                os.kill(int(process), 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass
        return True


def launch_store(store: dist.Store) -> dist.Store:
    """Return the store of a launch, where what an attempt has set is still there for the next one.

    It is that of torchrun's agent, without the prefix of the attempt. Started by others, ranks have one for each.
    """
    while isinstance(store, dist.PrefixStore):
        store = store.underlying_store
    return dist.PrefixStore(f"segkernel/{os.environ.get('TORCHELASTIC_RUN_ID', '')}", store)


def meet(store: dist.Store, rank: int, size: int, timeout: float) -> str:
    """Return a name shared by these processes and by none of an earlier attempt.

    The store of torchrun's agent outlives the processes that it restarts, and still has their predecessors' addresses
    and alerts. The agent's count of restarts cannot tell them apart, since each node counts its own failures only.
    So rank 0 chooses the name and answers the requests of the others until each has confirmed it.

    Raises:
        RuntimeError: When some ranks do not connect in time.
    """
    own, end, answered = uuid.uuid4().hex, time.monotonic() + timeout, set()
    if rank:
        store.set(f"segkernel/ask{rank}", own)
        name = store.get(f"segkernel/answer/{own}").decode()
        store.add(f"segkernel/met/{name}", 1)
        return name
    while store.add(f"segkernel/met/{own}", 0) < size - 1:
        for key in [f"segkernel/ask{other}" for other in range(1, size)]:
            if store.check([key]) and (asked := store.get(key).decode()) not in answered:
                store.set(f"segkernel/answer/{asked}", own)
                answered.add(asked)
        if time.monotonic() > end:
            raise RuntimeError(f"not all of {size} came within {timeout:g} seconds")
        time.sleep(0.01)
    return own


def _leave() -> None:
    with contextlib.suppress(RuntimeError, AssertionError, ValueError):
        dist.destroy_process_group()
