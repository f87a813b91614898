"""What every family can do beyond its numbers: odd sizes, learning, compiling, exporting."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from representatives import FAMILIES, Representative
from torch import nn

from segkernel.config import Config, load_config
from segkernel.experiment import make_runner
from segkernel.loading import make_model
from segkernel.sample import Targets

CLASSES = 8
every_family = pytest.mark.parametrize("family", FAMILIES)
pytestmark = pytest.mark.slow


def config_of(entry: Representative, *more: str) -> Config:
    """Return the model with the embedded data set, at its small size and without weights to start from."""
    name = f"{entry.model}_4xb2-20k_streetscenes"
    # Half precision, which some experiments publish, is slower than full on a CPU.
    unwanted = ("model.pretrained", "model.backbone.pretrained", "engine.amp")
    removed = [f"~{key}" for key in unwanted if has(load_config(name), key)]
    height, width = entry.size
    size = (f"data.crop_size=[{height},{width}]", f"+data.train.size=[{height},{width}]")
    return load_config(name, [*entry.classes, *entry.edits, *removed, *size, "optim.batch_size=2", *more])


def has(config: Mapping[str, Any], path: str) -> bool:
    """Tell whether a config has a key."""
    value: Any = config
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return False
        value = value[key]
    return True


def model_of(entry: Representative) -> Any:
    torch.manual_seed(0)
    return make_model(config_of(entry), pretrained=False)


def images(height: int, width: int) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def targets(height: int, width: int) -> Targets:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, CLASSES, (2, height // 8 + 1, width // 8 + 1), generator=generator)
    labels = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :height, :width]
    return Targets({"seg": labels, "edge": (labels == 1).float()})


@every_family
def test_an_odd_size_passes_forward_and_backward(family: str) -> None:
    entry = FAMILIES[family]
    model = model_of(entry)
    losses = model.loss(images(65, 97), targets(65, 97))
    sum(value for name, value in losses.items() if "loss" in name).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    with torch.no_grad():
        assert torch.isfinite(model.eval().predict(images(65, 97))["seg"]).all()


@every_family
def test_twenty_iterations_lower_the_loss(family: str, tmp_path: Path) -> None:
    # The published optimisers warm up for longer than this, or start from pretrained weights.
    learn = ("optim.optimizer={type: AdamW, lr: 0.0005, _delete_: true}", "schedule.lr=[]", "schedule.iterations=20")
    config = config_of(FAMILIES[family], *learn, "+data.workers=0", "~data.val", "~data.test", f"+work_dir={tmp_path}")
    runner = make_runner(config)
    runner.run()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if record.get("kind") == "train"]
    assert len(losses) == 2  # each the mean of ten
    assert losses[1] < losses[0]


@every_family
@torch.no_grad()
def test_it_compiles(family: str) -> None:
    entry = FAMILIES[family]
    torch._dynamo.reset()
    model, x = model_of(entry).eval(), images(*entry.size)
    # The captured graphs are run as they are: what is asked is whether they can be captured, not a compiler's speed.
    compiled = torch.compile(model, backend="eager")
    torch.manual_seed(0)
    expected = model(x)
    torch.manual_seed(0)
    torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-4)


@every_family
@torch.no_grad()
def test_it_exports(family: str) -> None:
    entry = FAMILIES[family]

    class Predict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model_of(entry)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model.predict(x)["seg"]

    model, x = Predict().eval(), images(*entry.size)
    exported = torch.export.export(model, (x,), strict=False).module()
    torch.manual_seed(0)
    expected = model(x)
    torch.manual_seed(0)
    torch.testing.assert_close(exported(x), expected, rtol=1e-4, atol=1e-4)
