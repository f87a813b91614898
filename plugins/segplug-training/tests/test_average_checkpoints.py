"""The mean of several checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from segkernel import checkpoint
from segkernel.errors import CheckpointError, UsageError
from segkernel.testing.toys import ToySegmentor
from segplug_training.average_checkpoints import average_checkpoints, command


def written(path: Path, seed: int, **changes: torch.Tensor) -> Path:
    torch.manual_seed(seed)
    weights = {**ToySegmentor().state_dict(), "norm.num_batches_tracked": torch.tensor(seed), **changes}
    checkpoint.save(path, {"state_dict": weights, "meta": {"classes": ["a", "b"], "metrics": {"mIoU": 1.0}}})
    return path


def test_weights_are_the_mean_and_the_rest_is_the_first_s(tmp_path: Path) -> None:
    sources = [written(tmp_path / f"{seed}.pt", seed) for seed in range(3)]
    done = CliRunner().invoke(command, [*map(str, sources), "--out", str(tmp_path / "soup.pt")])
    assert done.exception is None
    soup, *states = (checkpoint.load(path) for path in (tmp_path / "soup.pt", *sources))
    assert soup["meta"]["classes"] == ["a", "b"]
    assert "metrics" not in soup["meta"]
    assert soup["state_dict"].keys() == states[0]["state_dict"].keys()
    for name, value in soup["state_dict"].items():
        given = [state["state_dict"][name] for state in states]
        mean = torch.stack(given).double().mean(0).to(value.dtype) if value.is_floating_point() else given[0]
        assert value.dtype == given[0].dtype
        assert torch.equal(value, mean), name


def test_checkpoints_of_other_models_are_refused_by_name(tmp_path: Path) -> None:
    first, other = written(tmp_path / "a.pt", 0), written(tmp_path / "b.pt", 1, extra=torch.zeros(1))
    with pytest.raises(CheckpointError, match=r"b.pt: is not of the model in .*a.pt: extra differ"):
        average_checkpoints([first, other], tmp_path / "soup.pt")
    with pytest.raises(UsageError, match="two or more"):
        average_checkpoints([first], tmp_path / "soup.pt")
    assert not (tmp_path / "soup.pt").exists()
