"""Sharded checkpoints of `FSDPEngine`: the same as full ones, on any number of ranks, whole or not at all."""

from __future__ import annotations

import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.fsdp

from segkernel import checkpoint
from segkernel.errors import CheckpointError

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import equivalence  # noqa: E402
from forked import Forked  # noqa: E402
from test_ddp import CONFIG, LAUNCH, PATHS, assert_same_weights  # noqa: E402

pytestmark = pytest.mark.skipif(not hasattr(torch.distributed.fsdp, "FSDPModule"), reason="before torch 2.6")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks have written."""
    folder = tmp_path_factory.mktemp("written")
    process = Forked([LAUNCH, 2, HERE / "sharded.py", folder], folder, PATHS)
    assert process.wait() == 0, process.err()[-3000:]
    return folder


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint; its file."""
    shutil.copytree(written, tmp_path / "copy")
    return tmp_path / "copy" / "iter_0000002.pt"


def shards_of(path: Path) -> Path:
    (folder,) = path.parent.glob(f"{path.stem}.*.shards")
    return folder


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, torch.Tensor):
        assert type(found) is torch.Tensor
        assert torch.equal(found, expected)
    else:
        assert found == expected


def test_one_process_and_both_ranks_read_what_two_have_written(written: Path) -> None:
    full = torch.load(written / "full.pt")
    found = checkpoint.load(written / "iter_0000002.pt")
    assert found["state_dict"]._metadata == full["state_dict"]._metadata
    assert_same({key: found[key] for key in full}, full)
    assert_same(torch.load(written / "again.pt"), full)


def test_the_shards_of_a_removed_checkpoint_go_with_the_next_save(written: Path) -> None:
    assert [path.name[:12] for path in sorted(written.glob("*.shards"))] == ["iter_0000002", "iter_0000003"]
    assert not list(written.glob("*.partial"))


def test_a_merged_checkpoint_needs_no_folder(copied: Path, tmp_path: Path) -> None:
    from segplug_training.merge_checkpoint import merge_checkpoint

    whole = merge_checkpoint(copied, tmp_path / "whole.pt")
    full = torch.load(copied.with_name("full.pt"))
    shutil.rmtree(copied.parent)
    found = checkpoint.load(whole)
    assert_same({key: found[key] for key in full}, full)


@pytest.mark.parametrize("lost", ["", ".metadata", "__1_0.distcp"])
def test_a_checkpoint_without_a_part_of_its_shards_is_refused(copied: Path, lost: str) -> None:
    path = shards_of(copied) / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(CheckpointError, match=r"copy the folder together|is damaged"):
        checkpoint.load(copied)


def test_a_table_of_contents_that_would_run_code_is_refused(copied: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return open, (str(tmp_path / "ran"), "w")

    (shards_of(copied) / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match="is damaged or has no shards"):
        checkpoint.load(copied)
    assert not (tmp_path / "ran").exists()


def test_the_predicted_share_of_a_rank_is_what_it_has(written: Path) -> None:
    from segplug_training.fsdp import FSDPEngine
    from segplug_training.predicted_memory import StepMemory
    from segplug_training.sharded_memory import memory_per_rank

    model = equivalence.make_model(equivalence.CASES["fsdp"])
    engine = FSDPEngine(device="cpu")
    engine.world_size = 2
    full = sum(parameter.nbytes for parameter in model.parameters())
    found = memory_per_rank(StepMemory(weights=full, optimizer=full), model, engine)
    assert max(torch.load(written / "bytes.pt")) == [found.weights, found.optimizer]


@pytest.mark.slow
def test_a_run_of_two_ranks_goes_on_with_three_and_ends_as_one_does(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    hooks = "hooks: [{type: AsyncCheckpointHook, interval: 1, keep: 2}, {type: EMAHook, momentum: 0.1}]"
    text = CONFIG.replace("hooks: [{type: CheckpointHook, interval: 1, keep: 2}]", hooks)
    config.write_text(text.replace("batch_size: 4", "batch_size: 12"))
    sharded = ["engine.type=FSDPEngine", "+engine.checkpoint=sharded"]
    for launched, work_dir, more in [
        ([], "one", ["data.micro_batch=12"]),
        ([LAUNCH, 2], "half", [*sharded, "data.micro_batch=6", "schedule.iterations=3"]),
        ([LAUNCH, 3], "two", [*sharded, "data.micro_batch=4", f"--resume={tmp_path}/half/checkpoints/iter_0000003.pt"]),
    ]:
        command = [*launched, "run", config, f"--work-dir={tmp_path / work_dir}", *more]
        process = Forked(command, tmp_path, PATHS)
        assert process.wait() == 0, process.err()[-3000:]
    assert_same_weights(tmp_path, "iter_0000006.pt")
    (best,) = (tmp_path / "two" / "checkpoints").glob("best_*.pt")
    assert checkpoint.load(best)["iteration"] in (3, 6)
