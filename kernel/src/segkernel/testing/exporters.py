"""Checks of exporters: the file has the outputs of the model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from segkernel.errors import ExportError
from segkernel.interfaces.model import Segmentor
from segkernel.testing.core import Subject, check, require
from segkernel.testing.toys import ToySegmentor

METADATA = {"classes": ["a", "b", "c", "d"], "palette": [[0, 0, 0]] * 4}


@check("exporters", name="round-trip")
def round_trip(subject: Subject) -> None:
    """The file of a model in training mode predicts the same as the model in eval mode, at an odd size."""
    model, path, example = _export(subject)
    require(model.training, "export left the given model in eval mode; export a copy")
    loaded = subject.build().load(path, "cpu")
    require(isinstance(loaded, Segmentor), f"load() returned a {type(loaded).__name__}, not a Segmentor")
    require(set(loaded.outputs) == set(model.outputs), f"outputs are {sorted(loaded.outputs)}")
    with torch.no_grad():
        expected, found = model.eval().predict(example)["seg"], loaded.predict(example)["seg"]
    require(found.shape == expected.shape, f"logits have the shape {tuple(found.shape)}, not {tuple(expected.shape)}")
    worst = float((found - expected).abs().max())
    require(worst < 1e-3, f"logits differ by {worst:.1e}")


@check("exporters", name="missing-file")
def missing_file(subject: Subject) -> None:
    """A file that does not exist, or is not a model, raises `ExportError`."""
    exporter = subject.build()
    require(exporter.suffix.startswith("."), f"the suffix is {exporter.suffix!r}; it must begin with a dot")
    missing, rubbish = (subject.folder / f"{name}{exporter.suffix}" for name in ("none", "rubbish"))
    rubbish.write_bytes(b"no model")
    for path in (missing, rubbish):
        try:
            exporter.load(path)
        except ExportError:
            continue
        require(False, f"loading {path.name} raised no ExportError")


def _export(subject: Subject) -> tuple[ToySegmentor, Path, torch.Tensor]:
    torch.manual_seed(0)
    model = ToySegmentor().train()
    # Layers that behave differently in training.
    model.backbone.stages[0] = nn.Sequential(*model.backbone.stages[0:1], nn.BatchNorm2d(8), nn.Dropout(0.5))
    exporter = subject.build()
    path = subject.folder / f"toy{exporter.suffix}"
    example = torch.randn(1, 3, 65, 97, generator=torch.Generator().manual_seed(1))
    exporter.export(model, path, example, METADATA)
    require(path.exists(), f"export wrote no {path.name}")
    return model, path, example
