"""Mutation tests of the conformance kit: components with one fault each, nearly all of which it must find."""

from __future__ import annotations

import os
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("torch")

from segkernel.catalog import Catalog, Row
from segkernel.testing import CheckResult, plan_object
from segkernel.testing.core import CheckFailed, Subject, checks_of

SOURCE = (Path(__file__).parent / "examples.py").read_text("utf-8")
EXAMPLES = {
    "Trunk": "backbones", "Smooth": "necks", "Classifier": "heads", "WeightedCrossEntropy": "losses",
    "Model": "segmentors", "Files": "datasets", "Darken": "transforms", "MeanIoU": "metrics", "Best": "hooks",
    "Traced": "exporters", "Momentum": "optimizers", "Exponential": "schedules", "Shuffled": "samplers",
    "Prefixed": "weight_formats",
}  # fmt: skip


class Mutant(NamedTuple):
    """A fault, made by replacing a text of an example, and the check that must find it."""

    what: str
    example: str
    old: str
    new: str
    check: str


MUTANTS = [
    # Unsaved or untrained values.
    Mutant("modules in a plain list", "Trunk", "nn.ModuleList([nn.Conv2d(widths[0], widths[1], 3, 2, 1)])",
           "[nn.Conv2d(widths[0], widths[1], 3, 2, 1)]", "gradients"),
    Mutant("a neck's modules in a plain list", "Smooth", "nn.ModuleList(nn.Conv2d(width, 8, 3, padding=1) for width",
           "list(nn.Conv2d(width, 8, 3, padding=1) for width", "gradients"),
    Mutant("an unsaved random buffer", "Trunk", "torch.rand(widths[0], 1, 1))",
           "torch.rand(widths[0], 1, 1), persistent=False)", "state-dict"),
    Mutant("a plain tensor instead of a buffer", "Trunk", 'self.register_buffer("scale", torch.rand(widths[0], 1, 1))',
           "self.scale = torch.rand(widths[0], 1, 1)", "state-dict"),
    Mutant("a layer created in the first forward pass", "Trunk", "return first, self.stages[0](first)",
           "if not hasattr(self, 'late'):\n            self.late = nn.Conv2d(16, 16, 1)\n"
           "        return first, self.late(self.stages[0](first))", "state-dict"),
    Mutant("statistics outside the state dict", "Trunk", "return first, self.stages[0](first)",
           "if self.training:\n            self.mean = first.mean().detach() + 1\n"
           "        return first, self.stages[0](first) * getattr(self, 'mean', 1)", "state-dict"),
    Mutant("an unused parameter", "Trunk", 'self.register_buffer("scale"',
           'self.unused = nn.Parameter(torch.ones(1))\n        self.register_buffer("scale"', "gradients"),
    Mutant("a detached output", "Classifier", "self.dropout(features[0]))",
           "self.dropout(features[0])).detach()",
           "gradients"),
    Mutant("detached feature maps", "Smooth", "for conv, value in zip(self.convs, features,",
           "for conv, value in zip(self.convs, [value.detach() for value in features],", "trains-before"),
    Mutant("one detached feature map", "Smooth", "for conv, value in zip(self.convs, features,",
           "for conv, value in zip(self.convs, [features[0].detach(), *features[1:]],", "trains-before"),
    # Backbones.
    Mutant("wrong channels", "Trunk", "tuple(widths), (4, 8)", "(8, 8), (4, 8)", "outputs"),
    Mutant("wrong strides", "Trunk", "tuple(widths), (4, 8)", "tuple(widths), (4, 16)", "outputs"),
    Mutant("the coarsest map first", "Trunk", "(4, 8), pretrained", "(8, 4), pretrained", "order"),
    Mutant("a list instead of a tuple", "Trunk", "return first, self.stages[0](first)",
           "return [first, self.stages[0](first)]",
           "outputs"),
    Mutant("in_channels without effect", "Trunk", "nn.Conv2d(in_channels, widths[0]", "nn.Conv2d(3, widths[0]",
           "in-channels"),
    Mutant("sizes that must be divisible by 8", "Trunk", "first = self.stem(images)",
           "first = self.stem(images.reshape(*images.shape[:2], images.shape[2] // 8, 8, -1).flatten(2, 3))",
           "odd-size"),
    Mutant("a float64 buffer", "Trunk", "torch.rand(widths[0], 1, 1))", "torch.rand(widths[0], 1, 1).double())",
           "precision"),
    Mutant("dropout in eval mode", "Trunk", "self.stem(images).relu()", "nn.functional.dropout(self.stem(images), 0.5)",
           "deterministic"),
    Mutant("batch statistics in eval mode", "Trunk", "nn.BatchNorm2d(widths[0])",
           "nn.BatchNorm2d(widths[0], track_running_stats=False)", "batch-independent"),
    Mutant("an input modified in place", "Trunk", "first = self.stem(images)", "first = self.stem(images.mul_(0.5))",
           "input-kept"),
    Mutant("tensor values read in the constructor", "Trunk", "(4, 8), pretrained\n", "(4, 8), pretrained\n"
           "        float(torch.ones(1))\n", "meta"),
    Mutant("a random number drawn in eval mode", "Trunk", "return first, self",
           "torch.rand(1)\n        return first, self",
           "no-random"),
    Mutant("a constructor that loads pretrained weights", "Trunk", "        self.stem =",
           "        if pretrained:\n            self.load_state_dict(torch.load(pretrained))\n        self.stem =",
           "constructs"),
    Mutant("a constructor that always downloads weights", "Trunk", "        self.stem =",
           "        torch.hub.load_state_dict_from_url('https://example.org/a.pth')\n        self.stem =",
           "constructs"),
    Mutant("a constructor that sets the seed", "Trunk", "        self.stem =",
           "        torch.manual_seed(0)\n        self.stem =", "constructs"),
    Mutant("a constructor that prints", "Trunk", "        self.stem =", "        print('hello')\n        self.stem =",
           "constructs"),
    Mutant("a modified default", "Smooth", "in_channels: list[int]) -> None:\n        super().__init__()\n",
           "in_channels: list[int], seen: list[int] = [1]) -> None:\n        super().__init__()\n        seen.pop()\n",
           "own-defaults"),
    Mutant("a shared default", "Smooth", "in_channels: list[int]) -> None:\n        super().__init__()\n",
           "in_channels: list[int], seen: list[int] = []) -> None:\n        super().__init__()\n"
           "        self.seen = seen\n", "own-defaults"),
    Mutant("an argument without annotation", "Trunk", "in_channels: int = 3", "in_channels=3", "annotated"),
    Mutant("open keyword arguments", "Trunk", "pretrained: str | None = None)",
           "pretrained: str | None = None, **kwargs: Any)",
           "no-open-arguments"),
    Mutant("a default that YAML cannot express", "Trunk", "pretrained: str | None = None", "pretrained: Any = object()",
           "plain-defaults"),
    Mutant("no docstring", "Trunk", '    """Two maps, at strides 4 and 8."""\n', "", "documented"),
    # Heads and segmentors.
    Mutant("one class too many", "Classifier", "nn.Conv2d(in_channels, num_classes, 1)",
           "nn.Conv2d(in_channels, num_classes + 1, 1)", "classes"),
    Mutant("a loss that is a map", "Classifier", 'total / (labels != IGNORE).sum().clamp(min=1)', "logits.square()",
           "loss"),
    Mutant('a loss without "loss" in its name', "Classifier", '"loss_ce"', '"ce"', "loss"),
    Mutant("NaN for an unlabelled batch of a head", "Classifier", ".sum().clamp(min=1)}", ".sum()}", "all-ignored"),
    Mutant("an ignored value that counts", "Classifier", 'labels = targets["seg"]',
           'labels = targets["seg"].clamp(max=self.num_classes - 1)', "all-ignored"),
    Mutant("a segmentor with one class too many", "Model", "super().__init__()\n",
           "super().__init__()\n        num_classes += 1\n", "outputs"),
    Mutant("an undeclared output", "Model", 'return {"seg": self(images)}',
           'return {"seg": self(images), "edge": self(images)}', "outputs"),
    Mutant("probabilities from predict", "Model", 'return {"seg": self(images)}',
           'return {"seg": self(images).softmax(1)}',
           "logits"),
    Mutant("sigmoid outputs from predict", "Model", 'return {"seg": self(images)}',
           'return {"seg": self(images).sigmoid()}',
           "logits"),
    Mutant("log-probabilities from predict", "Model", 'return {"seg": self(images)}',
           'return {"seg": self(images).log_softmax(1)}', "logits"),
    Mutant("a predict that switches to training mode", "Model", 'return {"seg": self(images)}',
           'scores = self(images)\n        self.train()\n        return {"seg": scores}', "outputs"),
    # Losses.
    Mutant("loss_weight without effect", "WeightedCrossEntropy", "return self.loss_weight * values", "return values",
           "loss-weight"),
    Mutant("pixel weights without effect", "WeightedCrossEntropy", "values = values * weight", "pass", "pixel-weights"),
    Mutant("squared pixel weights", "WeightedCrossEntropy", "values = values * weight",
           "values = values * weight * weight", "pixel-weights"),
    Mutant("ignore_index without effect", "WeightedCrossEntropy", "ignore_index=ignore_index,", "ignore_index=255,",
           "ignore-index"),
    Mutant("ignored pixels that count", "WeightedCrossEntropy", "values = cross_entropy(logits, target,",
           "values = cross_entropy(logits, target.where(target != 255, 0),", "ignored-pixels"),
    Mutant("avg_factor without effect", "WeightedCrossEntropy", "(count if avg_factor is None else avg_factor)",
           "count", "avg-factor"),
    Mutant('a loss_name without "loss"', "WeightedCrossEntropy", '"loss_ce"', '"ce"', "scalar"),
    Mutant("a loss that is a plain module", "WeightedCrossEntropy", "Loss):", "nn.Module):", "interface"),
    Mutant("NaN for an unlabelled batch", "WeightedCrossEntropy", ".sum().clamp(min=1)", ".sum()", "all-ignored"),
    Mutant("a loss that is not a scalar", "WeightedCrossEntropy", "values.sum()", "values", "scalar"),
    Mutant("a wrong gradient", "WeightedCrossEntropy", "values.sum()", "(values + values.detach()).sum()",
           "gradient"),
    # Data.
    Mutant("BGR images", "Files", "image.read(path)", "cv2.imread(str(path))", "colours"),
    Mutant("no IndexError past the end", "Files", "self.paths[index]", "self.paths[index % 2]", "length"),
    Mutant("one colour too few", "Files", "((0, 0, 255), (0, 255, 0))", "((0, 0, 255),)", "classes"),
    Mutant("a label without a class", "Files", 'classes = ("sky", "ground")\n    palette = ((0, 0, 255), (0, 255, 0))',
           'classes = ("sky",)\n    palette = ((0, 0, 255),)', "samples"),
    Mutant("a data set that cannot be pickled", "Files", "self.paths = sorted(",
           "self.read = lambda: None\n        self.paths = sorted(", "pickle"),
    Mutant("an ignored value that becomes a class", "Darken", "return sample",
           'sample["seg"] = LabelMap(sample["seg"].array % 255)\n        return sample', "moves-together"),
    Mutant("an image that moves without its labels", "Darken", "return sample",
           "sample.image = sample.image[:, ::-1]\n        return sample",
           "moves-together"),
    Mutant("interpolated labels", "Darken", "return sample",
           'sample["seg"] = LabelMap(sample["seg"].array // 2)\n        return sample', "labels"),
    Mutant("another random generator", "Darken", "rng.uniform", "np.random.uniform", "reproducible"),
    Mutant("ignored pixels in a metric", "MeanIoU", "counted = truth != IGNORE", "truth = np.minimum(truth, 3)\n"
           "        counted = truth >= 0", "reference"),
    Mutant("a merge that drops one side", "MeanIoU", "self.matrix + other.matrix", "other.matrix", "merge"),
    Mutant("an unseeded order", "Shuffled", "np.random.default_rng([seed, epoch])", "np.random.default_rng()",
           "repeatable"),
    # Training and files.
    Mutant("a state that is not restored", "Best", 'self.best, self.seen = state["best"], list(state["seen"])', "pass",
           "state"),
    Mutant("a partly restored state", "Best", 'self.best, self.seen = state["best"], list(state["seen"])',
           'self.best = state["best"]', "state"),
    Mutant("a misspelt hook method", "Best", "def after_validation(", "def after_validations(", "moments"),
    Mutant("an unknown argument of a hook method", "Best", "run: Any, metrics", "run: Any, unknown: Any, metrics",
           "moments"),
    Mutant("an export in training mode", "Traced", "copy.deepcopy(segmentor).eval()", "copy.deepcopy(segmentor)",
           "round-trip"),
    Mutant("an export that leaves the model in eval mode", "Traced", "copy.deepcopy(segmentor).eval()",
           "segmentor.eval()", "round-trip"),
    Mutant("a missing file that does not raise ExportError", "Traced",
           "raise ExportError(f\"{path}: {error}\") from error",
           "raise",
           "missing-file"),
    Mutant("a step uphill", "Momentum", "parameter.sub_(group", "parameter.add_(group", "descends"),
    Mutant("a learning rate other than the group's", "Momentum", 'group["lr"] * speed', 'self.defaults["lr"] * speed',
           "descends"),
    Mutant("unsaved momentum", "Momentum", 'self.state[parameter].setdefault("speed"',
           'self.__dict__.setdefault("speeds", {}).setdefault(parameter', "resume"),
    Mutant("a constant rate", "Exponential", "max(base * 0.8**i, self.floor)", "base", "rates"),
    Mutant("a negative rate", "Exponential", "max(base * 0.8**i, self.floor)", "base * (1 - i)", "rates"),
    Mutant("dropped weights", "Prefixed", "for name, value in weights.items()}",
           'for name, value in weights.items() if "bias" not in name}', "complete"),
    Mutant("a format that claims everything", "Prefixed", 'return all(key.startswith("theirs.") for key in keys)',
           "return True",
           "modest"),
    Mutant("a reader that runs code", "Prefixed", "dict(np.load(path, allow_pickle=False))",
           "torch.load(path, weights_only=False)", "no-code"),
]  # fmt: skip

UNSEEN = [
    # Faults that depend on the data, the paper or the files; listed in docs/conformance.md.
    Mutant("BGR images without a file path", "Files", '"path": str(path)}, pixels)', '}, pixels[..., ::-1])',
           "colours"),
    Mutant("an ignored value lost by a data set", "Files", "LabelMap(labels)", "LabelMap(labels % 255)", "samples"),
    Mutant("classes in another order", "Files", '("sky", "ground")', '("ground", "sky")', "classes"),
    Mutant("a loss of twice the value", "WeightedCrossEntropy", "values.sum()", "(2 * values).sum()", "scalar"),
    Mutant("a rate that falls too fast", "Exponential", "0.8**i", "0.5**i", "rates"),
]  # fmt: skip


@pytest.fixture
def variant(tmp_path: Path) -> Iterator[types.ModuleType]:
    """A module for the examples, whose text a test may change before executing it."""
    module = types.ModuleType("segkernel_mutant")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


def mutated(module: types.ModuleType, example: str, old: str = "", new: str = "") -> type:
    """Execute the examples with one replacement in one class; return that class."""
    head = f"\nclass {example}(" if f"\nclass {example}(" in SOURCE else f"\nclass {example}:"
    rest = SOURCE.partition(head)[2]
    own, separator, after = rest.partition("\n\n\n")
    assert old in own, f"{example} does not hold {old!r}"
    text = SOURCE[: len(SOURCE) - len(rest)] + own.replace(old, new) + separator + after
    exec(compile(text, f"<{example}>", "exec"), module.__dict__)
    return getattr(module, example)


def results(group: str, target: type, *checks: str) -> list[CheckResult]:
    cases = plan_object(group, target, catalog=Catalog())
    return [case.run() for case in cases if not checks or case.check in checks]


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_are_right(variant: types.ModuleType, example: str) -> None:
    found = results(EXAMPLES[example], mutated(variant, example))
    assert [str(result) for result in found if not result.ok] == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: each.what)
@pytest.mark.filterwarnings("ignore")
def test_a_mutant_is_caught(variant: types.ModuleType, mutant: Mutant) -> None:
    target = mutated(variant, mutant.example, mutant.old, mutant.new)
    failed = {result.check for result in results(EXAMPLES[mutant.example], target, mutant.check) if not result.ok}
    assert failed == {mutant.check}


@pytest.mark.parametrize("mutant", UNSEEN, ids=lambda each: each.what)
def test_undetectable_faults_pass(variant: types.ModuleType, mutant: Mutant) -> None:
    target = mutated(variant, mutant.example, mutant.old, mutant.new)
    assert not [str(result) for result in results(EXAMPLES[mutant.example], target) if not result.ok]


def package(*rows: Row) -> dict[str, str]:
    """Return the failed checks of a package with these entry points."""
    failed = {}
    for name in ("kernel-bounds", "names", "light-import"):
        try:
            checks_of("package")[name].function(Subject("package", "segplug-mutant", rows, Path()))
        except CheckFailed as error:
            failed[name] = str(error)
    return failed


def test_faulty_packages_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "light_mutant.py").write_text("import numpy")
    (tmp_path / "heavy_mutant.py").write_text("import torch")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def row(name: str, module: str, requires: str, group: str = "datasets") -> Row:
        return Row(group, name, "segplug-mutant", "1", f"{module}:Files", requires=requires)

    assert package(row("Files", "light_mutant", "<1,>=0.3")) == {}
    assert package(row("Files", "light_mutant", ">=0.3")).keys() == {"kernel-bounds"}
    assert package(row("my files", "light_mutant", "<1,>=0.3")).keys() == {"names"}
    assert package(row("Files", "light_mutant", "<1,>=0.3", "dataset")).keys() == {"names"}
    heavy = package(row("Files", "heavy_mutant", "<1,>=0.3"))
    assert heavy == {"light-import": "importing heavy_mutant imports torch"}


def test_the_first_failure_explains_itself(variant: types.ModuleType) -> None:
    misspelt = mutated(variant, "Best", "def after_validation(", "def after_validations(")
    assert "did you mean after_validation" in next(r.message for r in results("hooks", misspelt) if not r.ok)
    double = mutated(variant, "Trunk", "torch.rand(widths[0], 1, 1))", "torch.rand(widths[0], 1, 1).double())")
    first, *_ = [result for result in results("backbones", double) if not result.ok]
    assert first.message.startswith("float64")
    wrong = mutated(variant, "Trunk", "tuple(widths), (4, 8)", "(8, 8), (4, 8)")
    found = results("backbones", wrong)
    assert [result.check for result in found if not result.ok] == ["outputs"]
    folded = {result.check for result in found if result.message == "it fails like 'outputs'"}
    assert folded == {"odd-size", "in-channels"}
    counts_all = "truth = truth.clip(max=3)\n        counted = truth >= 0"
    metric = mutated(variant, "MeanIoU", "counted = truth != IGNORE", counts_all)
    (message,) = [result.message for result in results("metrics", metric) if not result.ok]
    value, expected = (float(number) for number in re.findall(r"\d+\.\d+", message))
    assert 0.5 < value / expected < 2  # the same unit


def test_packaged_configs_whose_parts_do_not_fit_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = "{type: FCNHead, in_channels: 512, channels: 8, num_classes: 2}"
    backbone = "{type: ResNetV1c, depth: 50}"
    config = f"model: {{type: EncoderDecoder, backbone: {backbone}, decode_head: {head}}}\n"
    row = Row("zoo", "configs", "segplug-mutant", "1", "zoo_mutant:zoo")
    catalog = Catalog((*(each for each in Catalog.discover().rows if each.group != "zoo"), row))
    monkeypatch.setattr(Catalog, "discover", lambda: catalog)
    (tmp_path / "zoo_mutant" / "zoo").mkdir(parents=True)
    (tmp_path / "zoo_mutant" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    check = checks_of("zoo")["configs"].function
    messages = []
    for channels in (2048, 512):
        text = config.replace("512", str(channels))
        (tmp_path / "zoo_mutant" / "zoo" / "mine.yaml").write_text(text)
        try:
            check(Subject("zoo", "configs", row, tmp_path))
        except CheckFailed as error:
            messages.append(str(error))
    (message,) = messages
    assert "in_channels 512 at in_index -1 does not fit the backbone" in message
