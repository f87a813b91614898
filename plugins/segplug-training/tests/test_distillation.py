"""A model learns from a trained one beside its labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from segkernel.errors import UsageError
from segkernel.experiment import run
from segplug_training.distillation import distillation_loss

CONFIG = {
    "model": {"type": "segkernel.testing.toys:ToySegmentor"},
    "data": {"train": {"type": "command_toys:Squares"}, "workers": 0},
    "optim": {"optimizer": {"type": "AdamW", "lr": 0.01}, "batch_size": 4},
    "schedule": {"iterations": 4},
    "engine": {"type": "CUDAEngine", "device": "cpu"},
    "hooks": [{"type": "MeterHook", "interval": 1}],
}


@pytest.fixture
def teacher(tmp_path, monkeypatch) -> Path:
    """A trained run of the same classes."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    run({**CONFIG, "seed": 5, "work_dir": str(tmp_path / "teacher")})
    return tmp_path / "teacher"


def distilled(teacher: Path, folder: Path, **changes):
    weights = changes.pop("weights", teacher / "checkpoints" / "iter_0000004.pt")
    hook = {"type": "DistillationHook", "teacher": str(teacher / "config.yaml"), "weights": str(weights)}
    hook |= {"over": "pixels", **changes.pop("hook", {})}
    return run({**CONFIG, "hooks": [*CONFIG["hooks"], hook], "work_dir": str(folder), **changes})


@pytest.mark.parametrize("over", ["channels", "pixels"])
def test_the_loss_is_the_divergence_of_the_definition(over):
    torch.manual_seed(0)
    student, wanted = torch.randn(2, 3, 4, 5, requires_grad=True), torch.randn(2, 3, 4, 5)
    total = 0.0
    for image in range(2):
        p, q = (each[image].flatten(1) / 2.0 for each in (wanted, student))
        rows = zip(p, q) if over == "channels" else zip(p.T, q.T)
        terms = [(a.softmax(0) * (a.softmax(0) / b.softmax(0)).log()).sum() for a, b in rows]
        total += float(torch.stack(terms).detach().mean()) * 4 / 2
    loss = distillation_loss(student, wanted, 2.0, over)
    assert float(loss.detach()) == pytest.approx(total, rel=1e-5)
    assert distillation_loss(wanted, wanted, 2.0, over) == 0
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.abs().sum() > 0
    assert distillation_loss(student, wanted.repeat_interleave(2, 2).repeat_interleave(2, 3), over=over).isfinite()


def test_a_run_learns_from_its_teacher_and_saves_the_student_only(teacher, tmp_path):
    runner = distilled(teacher, tmp_path / "run", hook={"weight": 100.0}, schedule={"iterations": 15})
    assert "loss" not in vars(runner.model)
    saved = torch.load(runner.work_dir / "checkpoints" / "iter_0000015.pt")["state_dict"]
    assert saved.keys() == runner.model.state_dict().keys()
    records = [json.loads(line) for line in (runner.work_dir / "metrics.jsonl").read_text().splitlines()]
    assert len(records) == 15
    assert 0 <= records[-1]["distill.loss_kl"] < records[0]["distill.loss_kl"] / 3


def test_a_teacher_that_does_not_fit_is_refused(teacher, tmp_path):
    normalised = {**CONFIG["data"], "preprocess": {"mean": [0.0, 0.0, 0.0]}}
    with pytest.raises(UsageError, match=r"needs other images, data.preprocess mean: \[123"):
        distilled(teacher, tmp_path / "a", data=normalised)
    state = torch.load(teacher / "checkpoints" / "iter_0000004.pt")
    torch.save({**state, "meta": {**state["meta"], "classes": ["x", "b", "c", "d"]}}, tmp_path / "other.pt")
    with pytest.raises(UsageError, match="has other classes: x, b"):
        distilled(teacher, tmp_path / "b", weights=tmp_path / "other.pt")
    with pytest.raises(UsageError, match="has no weights to learn from"):
        distilled(teacher, tmp_path / "c", hook={"weights": None})
