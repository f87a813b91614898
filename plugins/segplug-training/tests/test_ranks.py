"""Environment variables of launchers, and how they are read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from segkernel.errors import UsageError
from segplug_training.cuda import CUDAEngine
from segplug_training.ddp import DDPEngine
from segplug_training.ranks import Ranks, first_host, gpu_index, launch_store, meet, slurm_ranks

TASK = {
    "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "11", "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1", "SLURM_NODEID": "2", "SLURM_STEP_TASKS_PER_NODE": "4(x2),3",
    "SLURM_JOB_NODELIST": "gpu[007-008,12]",
}  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu[003-005,9],big1", "gpu003"),
        ("gpu[7,9]", "gpu7"),
        ("a,b", "a"),
        ("one", "one"),
        ("n-1[02-04]-ib", "n-102-ib"),
    ],
)
def test_the_first_host_of_a_list(nodes, first):
    assert first_host(nodes) == first


def test_a_task_of_slurm_is_a_rank():
    found = slurm_ranks(TASK)
    assert found.pop("MASTER_PORT") != slurm_ranks({**TASK, "SLURM_STEP_ID": "1"})["MASTER_PORT"]
    assert found == {
        "RANK": "9", "WORLD_SIZE": "11", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3", "MASTER_ADDR": "gpu007"
    }  # fmt: skip
    assert slurm_ranks({**TASK, "MASTER_ADDR": "10.0.0.1"})["MASTER_ADDR"] == "10.0.0.1"
    nodes = TASK["SLURM_JOB_NODELIST"]
    renamed = {key: value for key, value in TASK.items() if value != nodes} | {"SLURM_STEP_NODELIST": nodes}
    assert slurm_ranks(renamed)["MASTER_ADDR"] == "gpu007"


@pytest.mark.parametrize(("visible", "index"), [(1, 0), (4, 2)])
def test_a_task_with_a_gpu_bound_to_it_sees_only_that_one(monkeypatch, visible, index):
    monkeypatch.setattr("torch.cuda.device_count", lambda: visible)
    for name in ("SLURM_LOCALID", "LOCAL_RANK"):
        monkeypatch.setenv(name, "2")
    assert gpu_index() == index


def test_a_batch_script_is_not_a_rank():
    assert slurm_ranks({"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) == {}


def test_an_engine_of_one_process_says_so_among_several(monkeypatch, caplog):
    CUDAEngine("cpu")
    assert caplog.text == ""
    monkeypatch.setenv("WORLD_SIZE", "2")
    CUDAEngine("cpu")
    assert "DDPEngine" in caplog.text


def test_ranks_that_are_started_again_share_a_name_that_none_had_before():
    store = dist.HashStore()
    store.set_timeout(timedelta(seconds=20))
    store.set("segkernel/ask2", "a rank that was killed while it asked")
    names = []
    with ThreadPoolExecutor(3) as threads:
        for _ in range(3):
            names.append(set(threads.map(lambda rank: meet(store, rank, 3, 20.0), (2, 0, 1))))
    assert [len(name) for name in names] == [1, 1, 1]
    assert len(set.union(*names)) == 3


def test_what_an_attempt_says_is_there_for_the_next_one_of_the_same_launch(monkeypatch):
    agent = dist.HashStore()
    ranks = [Ranks.__new__(Ranks) for _ in range(3)]
    for number, (rank, launch) in enumerate(zip(ranks, ("a", "a", "b"), strict=True)):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", launch)
        rank.launch = launch_store(dist.PrefixStore(f"/worker/attempt_{number}", agent))
    ranks[0].set_parts(2)
    assert [rank.parts() for rank in ranks] == [2, 2, 1]


def test_waiting_for_a_missing_rank_times_out():
    with pytest.raises(RuntimeError, match="not all of 2 came"):
        meet(dist.HashStore(), 0, 2, 0.1)


def test_buckets_that_cannot_be_compiled_are_refused():
    with pytest.raises(UsageError, match=r"bucket_cap_mb 0.5: torch.compile needs"):
        DDPEngine(device="cpu", compile=True, bucket_cap_mb=0.5)
