"""Files of others are read without running what is inside."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segkernel import checkpoint
from segkernel.errors import CheckpointError


def test_arrays_of_jax_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{"Encoder/kernel": np.ones((2, 3), np.float32)})
    assert torch.equal(checkpoint.load(tmp_path / "a.npz")["state_dict"]["Encoder/kernel"], torch.ones(2, 3))


def test_objects_in_an_archive_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.array([{"x": 1}], dtype=object))
    with pytest.raises(CheckpointError, match="holds more than arrays"):
        checkpoint.load(tmp_path / "a.npz")


def test_a_pickle_of_arrays_is_read_without_running_anything(tmp_path: Path) -> None:
    content = {"model": {"conv1_w": np.ones((2, 3), np.float32)}, "__author__": "someone", "matching_heuristics": True}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    assert torch.equal(checkpoint.load(tmp_path / "a.pkl")["state_dict"]["conv1_w"], torch.ones(2, 3))


def test_code_in_a_pickle_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (open, (str(tmp_path / "written"), "w"))

    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(CheckpointError, match="refused"):
        checkpoint.load(tmp_path / "a.pkl")
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("suffix", [".npz", ".pkl"])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.load(tmp_path / f"a{suffix}")


def test_a_pickle_that_torch_wrote_is_read_by_torch(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "a.pkl")
    assert list(checkpoint.load(tmp_path / "a.pkl")["state_dict"]) == ["w"]


def test_a_zip_file_behind_a_pickle_is_no_way_round(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(tmp_path / "written"), "w"))

    torch.save({"w": torch.ones(1)}, tmp_path / "plain.pkl")
    both = pickle.dumps({"a": Evil()}) + (tmp_path / "plain.pkl").read_bytes()
    (tmp_path / "a.pkl").write_bytes(both)
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path / "a.pkl")
    assert not (tmp_path / "written").exists()


def test_safetensors_are_read_or_their_package_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"not safetensors at all")
    try:
        from safetensors.torch import save_file
    except ImportError:
        with pytest.raises(CheckpointError, match="pip install safetensors"):
            checkpoint.load(path)
        return
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.load(path)
    save_file({"w": torch.ones(2)}, path)
    assert torch.equal(checkpoint.load(path)["state_dict"]["w"], torch.ones(2))
