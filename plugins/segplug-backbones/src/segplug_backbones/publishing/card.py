"""The model card: a page in Markdown with figures, data, schedule and versions, and a header that hubs read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LIBRARY, OWN = "seg-kernel", "segplug-backbones"
UNUSED = (OWN, "segplug-training", "segplug-deploy")
"""Packages that predicting does not need as such."""


@dataclass
class Card:
    """What a card states.

    Args:
        name: Of the model.
        file: Name of the weights file.
        sha256: Of the weights file.
        meta: Metadata of the checkpoint: classes, config, preprocess, plugins, torch, iteration.
        parameters: Number of parameters.
        averaged: Whether the weights are an average over training.
        figures: Metrics by name, in percent.
        figures_of: What they were measured on, such as ``test set``.
        samples: Number of samples of each data set, by ``train``, ``val`` and ``test``.
        environment: What the run recorded, such as ``gpu`` and ``ranks``.
        licence: Identifier of the licence; empty if none was given.
        address: Where others load it from; by default the file.
    """

    name: str
    file: str
    sha256: str
    meta: Mapping[str, Any]
    parameters: int
    averaged: bool
    figures: Mapping[str, float] = field(default_factory=dict)
    figures_of: str = ""
    samples: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""
    address: str = ""

    def __str__(self) -> str:
        parts = [self._header(), f"# {self.name}", self._summary(), self._usage(), self._figures(), self._classes()]
        parts += [self._training(), self._file()]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _header(self) -> str:
        lines = ["---", f"license: {_quoted(self.licence.lower() or 'unknown')}", f"library_name: {LIBRARY}"]
        lines += ["pipeline_tag: image-segmentation", "tags:", f"- {LIBRARY}", "- semantic-segmentation"]
        means = {name: value for name, value in self.figures.items() if "." not in name}
        if means:
            data = _quoted(self._data("test") or "unknown")
            lines += ["model-index:", f"- name: {_quoted(self.name)}", "  results:", "  - task:"]
            lines += ["      type: image-segmentation", "    dataset:", f"      name: {data}", f"      type: {data}"]
            lines += ["    metrics:"]
            for name, value in means.items():
                lines += [f"    - type: {_quoted(name)}", f"      value: {value:.2f}"]
        return "\n".join([*lines, "---"])

    def _summary(self) -> str:
        config, model = self.meta["config"], self.meta["config"]["model"]
        heads = _list(model.get("decode_head"))
        names = [model.get("type"), (model.get("backbone") or {}).get("type"), *(head.get("type") for head in heads)]
        rows = [("model", ", ".join(str(name) for name in names if name)), ("classes", len(self.meta["classes"]))]
        rows += [("parameters", f"{self.parameters / 1e6:.2f} M")]
        if data := config.get("data"):
            rows += [("input", _pairs(data.get("preprocess") or self.meta.get("preprocess") or {}))]
        rows += [("weights", "averaged over training (EMA)")] if self.averaged else []
        rows += [("licence", self.licence or "not stated")]
        return _table(("", ""), rows)

    def _usage(self) -> str:
        source = self.address or self.file
        command = f"seg-kernel predict {source} photos/ --out predictions"
        code = f'from segkernel import Predictor\n\nlabels = Predictor("{source}")("photo.jpg").labels'
        packages = {LIBRARY: None, **(self.meta.get("plugins") or {}), f"{OWN}[safetensors]": None}
        needs = "pip install " + " ".join(
            f"'{name}'" if "[" in name else name for name in packages if name not in UNUSED
        )
        return f"## Usage\n\n```bash\n{needs}\n{command}\n```\n\n```python\n{code}\n```"

    def _figures(self) -> str:
        means = [(name, f"{value:.2f}") for name, value in self.figures.items() if "." not in name]
        if not means:
            return "## Results\n\nNo figures were recorded."
        return f"## Results\n\nOf the {self.figures_of}, in percent.\n\n{_table(('metric', 'value'), means)}"

    def _classes(self) -> str:
        kinds = list(dict.fromkeys(name.partition(".")[0] for name in self.figures if "." in name))
        kinds = [kind for kind in kinds if any(f"{kind}.{name}" in self.figures for name in self.meta["classes"])]
        palette = self.meta.get("palette") or []
        rows = []
        for number, name in enumerate(self.meta["classes"]):
            values = [self.figures.get(f"{kind}.{name}") for kind in kinds]
            color = "#{:02x}{:02x}{:02x}".format(*palette[number]) if number < len(palette) else ""
            rows.append((number, name, color, *("-" if value is None else f"{value:.2f}" for value in values)))
        return f"## Classes\n\n{_table(('id', 'class', 'colour', *kinds), rows)}"

    def _training(self) -> str:
        config = self.meta["config"]
        rows: list[Sequence[Any]] = []
        for part in ("train", "val", "test"):
            if name := self._data(part):
                count = f", {self.samples[part]} images" if part in self.samples else ""
                rows.append((f"data, {part}", name + count))
        optim, schedule = config.get("optim") or {}, config.get("schedule") or {}
        rows += [("optimiser", _pairs(optim.get("optimizer") or {})), ("batch size", optim.get("batch_size", ""))]
        rows += [("length", _pairs({key: schedule[key] for key in ("iterations", "epochs") if schedule.get(key)}))]
        rows += [("learning rate", "; ".join(_pairs(each) for each in _list(schedule.get("lr"))))]
        rows += [("iteration of the weights", self.meta.get("iteration", "")), ("seed", config.get("seed", ""))]
        rows += [("devices", f"{self.environment.get('ranks', 1)} x {self.environment.get('gpu') or 'CPU'}")] * bool(
            self.environment
        )
        versions = {**(self.meta.get("plugins") or {}), "torch": self.meta.get("torch", "")}
        rows += [("versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version))]
        rows = [row for row in rows if row[1] not in ("", None)]
        note = "The complete config is in `config.yaml`, and in the weights file."
        return f"## Training\n\n{_table(('', ''), rows)}\n\n{note}"

    def _file(self) -> str:
        return f"## File\n\n`{self.file}`, SHA-256 `{self.sha256}`"

    def _data(self, part: str) -> str:
        spec = (self.meta["config"].get("data") or {}).get(part)
        return str(spec.get("type", "")) if isinstance(spec, Mapping) else ""


def _list(value: Any) -> list[Mapping[str, Any]]:
    values = value if isinstance(value, list | tuple) else [value]
    return [each for each in values if isinstance(each, Mapping)]


def _pairs(values: Mapping[str, Any]) -> str:
    """Return plain entries on one line, the type first: ``SGD, lr 0.01, momentum 0.9``."""
    rest = [f"{key} {value}" for key, value in values.items() if key != "type" and value is not None]
    return ", ".join([*([str(values["type"])] if "type" in values else []), *rest])


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") + '"'


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table in Markdown."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
