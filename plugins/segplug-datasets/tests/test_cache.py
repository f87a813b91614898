"""The shared-memory cache."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkernel.errors import DataError, UsageError
from segkernel.sample import LabelMap, Sample
from segplug_datasets.cache import CachedDataset

pytest.importorskip("fcntl")


class Counted:
    """Samples of 30,000 bytes and a bit, which leave a mark in a folder when they are made."""

    classes = ("a", "b")
    palette = ((0, 0, 0), (1, 2, 3))

    def __init__(self, folder: Path, count: int = 6) -> None:
        self.folder, self.count = folder, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        with open(self.folder / f"made-{index}", "a") as file:
            file.write("x")
        rng = np.random.default_rng(index)
        seg = LabelMap(rng.integers(0, 2, (75, 100), np.uint8))
        return Sample({"seg": seg}, {"name": str(index)}, rng.integers(0, 256, (75, 100, 3), np.uint8))

    def made(self) -> int:
        return sum(len(path.read_text()) for path in self.folder.glob("made-*"))


def read_all(dataset: Any, expected: int, results: Any) -> None:
    found = [dataset[i] for i in range(len(dataset))]
    right = all((s.image == Counted.__getitem__(dataset.dataset, i).image).all() for i, s in enumerate(found))
    results.put((right, dataset.kept()[0] == expected))


@pytest.fixture
def counted(tmp_path: Path) -> Counted:
    folder = tmp_path / "source"
    folder.mkdir()
    return Counted(folder)


def test_a_sample_is_made_once(counted: Counted, tmp_path: Path) -> None:
    cached = CachedDataset(counted, 1e6, tmp_path)
    before = counted.made()
    for _ in range(3):
        for index in range(6):
            cached[index]
    assert counted.made() == before + 6
    assert cached.kept()[0] == 6
    assert cached[-1].meta == {"name": "5"}
    with pytest.raises(IndexError):
        cached[6]


def test_kept_samples_are_the_originals_and_may_be_changed(counted: Counted, tmp_path: Path) -> None:
    cached = CachedDataset(counted, 1e6, tmp_path)
    for _ in range(3):
        sample = cached[2]
        assert (sample.image == counted[2].image).all()
        assert (sample["seg"].array == counted[2]["seg"].array).all()
        sample.image[...] = 0


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_share_one_copy(counted: Counted, tmp_path: Path, method: str) -> None:
    cached = CachedDataset(counted, 1e6, tmp_path)
    for index in range(6):
        cached[index]
    before = counted.made()
    context = multiprocessing.get_context(method)
    results = context.Queue()
    workers = [context.Process(target=read_all, args=(cached, 6, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=60) for _ in workers] == [(True, True)] * 2
    for worker in workers:
        worker.join()
    assert counted.made() == before + 12  # the 12 are those that the workers made to compare with
    assert cached.kept()[0] == 6  # and they did not take the memory with them


def test_what_one_process_reads_another_finds(counted: Counted, tmp_path: Path) -> None:
    cached = CachedDataset(counted, 1e6, tmp_path)
    other = pickle.loads(pickle.dumps(cached))
    before = counted.made()
    other[3]
    cached[3]
    assert counted.made() == before + 1
    other.close()
    del other
    assert cached.kept()[0] == 1


def test_the_limit_is_kept_and_reported(counted: Counted, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        cached = CachedDataset(counted, 100_000, tmp_path)
    assert caplog.messages == [
        "the 6 samples need about 0.00 GB, the cache has 0.00 GB: about 50 % of them are cached, the others are read "
        "every time. Raise max_bytes, or pack the data set: seg-kernel data pack"
    ]
    for _ in range(2):
        for index in range(6):
            assert (cached[index].image == counted[index].image).all()
    count, size = cached.kept()
    assert count == 3
    assert size <= 100_000


def test_more_memory_than_available_is_refused(
    counted: Counted, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segplug_datasets.cache._free", lambda home: 3_000_000_000)
    with caplog.at_level(logging.WARNING):
        cached = CachedDataset(counted, 8e9, tmp_path)
    assert caplog.messages == [f"max_bytes of the cache is 8.00 GB, but only 3.00 GB are free in {tmp_path}"]
    assert cached.max_bytes == 3_000_000_000
    assert CachedDataset(counted, None, tmp_path).max_bytes == 1_500_000_000


def test_the_memory_is_given_back(counted: Counted, tmp_path: Path) -> None:
    first, second = CachedDataset(counted, 1e6, tmp_path), CachedDataset(counted, 1e6, tmp_path)
    assert first.folder != second.folder
    first[0]
    first.close()
    assert not first.folder.exists()
    assert (first[0].image == counted[0].image).all()  # goes on without
    assert first.kept() == (0, 0)
    folder = second.folder
    del second
    assert not folder.exists()


def test_ranks_of_one_machine_share_a_cache(counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    numbers = iter((7, 7))
    monkeypatch.setattr("segplug_datasets.cache._made", numbers)
    first, second = CachedDataset(counted, 1e6, tmp_path), CachedDataset(counted, 1e6, tmp_path)
    assert first.folder == second.folder
    first[0]
    first.close()
    assert second.kept()[0] == 1  # the last one closes the door
    second.close()
    assert not second.folder.exists()


def test_what_a_killed_process_left_is_removed(counted: Counted, tmp_path: Path) -> None:
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from test_cache import Counted; from segplug_datasets.cache import CachedDataset\n"
        "cached = CachedDataset(Counted(Path(sys.argv[2])), 1e6, sys.argv[3]); cached[0]\n"
        "print(cached.folder, flush=True); time.sleep(60)"
    )
    arguments = [sys.executable, "-c", code, str(Path(__file__).parent), str(counted.folder), str(tmp_path)]
    running = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    folder = Path(running.stdout.readline().strip())
    alive = CachedDataset(counted, 1e6, tmp_path)
    assert folder.exists()
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert folder.exists()
    CachedDataset(counted, 1e6, tmp_path)
    assert not folder.exists()
    assert alive.folder.exists()


def test_wrong_arguments(counted: Counted, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="max_bytes must be above 0, not 0"):
        CachedDataset(counted, 0, tmp_path)
    with pytest.raises(DataError, match="cannot be used for a cache: No such file"):
        CachedDataset(counted, 1e6, tmp_path / "none")
