"""Untrusted weights files are only data: their config can only use installed plugins."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from segkernel.catalog import GROUPS, Catalog
from segkernel.signature import MAPPINGS, UNIONS, bare, is_file, is_record, signature, unwrap

torch = pytest.importorskip("torch")

CODE = "from pathlib import Path\nPath('executed').touch()\n\ndef Thing(**arguments):\n    Path('executed').touch()\n"
HEAD = ("model", "decode_head")
ASKS = {
    "a loss": (*HEAD, "loss_decode", {"type": "stranger:Thing"}),
    "a system call": (*HEAD, "loss_decode", {"type": "os:popen", "cmd": "touch executed"}),
    "one of several losses": (*HEAD, "loss_decode", [{"type": "CrossEntropyLoss"}, {"type": "stranger:Thing"}]),
    "a layer": ("model", "backbone", "norm_cfg", {"type": "stranger:Thing"}),
    "the model": ("model", {"type": "stranger:Thing"}),
    "a transform": ("data", "eval_transforms", [{"type": "stranger:Thing"}]),
    "weights": ("model", "backbone", {"type": "TIMMBackbone", "model_name": "resnet18", "checkpoint_path": "x.pth"}),
    "a folder of weights": ("model", "backbone", {"type": "TIMMBackbone", "model_name": "local-dir:/elsewhere"}),
    "a file": (*HEAD, "loss_decode", {"type": "CrossEntropyLoss", "class_weight": "secret.json"}),
    "a base": ("_base_", "secret.json"),
}
FOR_TESTS_ALONE = {
    "a data set": ("data", "test", {"type": "stranger:Thing"}),
    "a metric": ("evaluate", "metrics", [{"type": "stranger:Thing"}]),
    "a folder to write to": ("evaluate", "metrics", [{"type": "IoUMetric", "output_dir": "/elsewhere"}]),
    "a hook": ("hooks", [{"type": "stranger:Thing"}]),
    "a hook's folder": ("hooks", [{"type": "PicturesHook", "labels_dir": "/elsewhere"}]),
    "a report's file": ("hooks", [{"type": "EvaluationReport", "slice_file": "/etc/passwd"}]),
    "an engine's folder": ("engine", {"type": "CUDAEngine", "compile_cache": "/elsewhere"}),
}
FOR_TRAINING_ALONE = {
    "training data": ("data", "train", {"type": "stranger:Thing"}),
    "a schedule": ("schedule", "lr", [{"type": "stranger:Thing"}]),
    "an optimizer": ("optim", "optimizer", {"type": "stranger:Thing"}),
}
COMMANDS = {
    "predict": ["predict", "x.pt", "images", "--out", "out"],
    "test": ["test", "x.pt", "--work-dir", "tested"],
    "export": ["export", "x.pt", "--image", "images/0.png"],
}


@pytest.fixture
def stranger(trained, monkeypatch):
    """Write the trained checkpoint to ``x.pt`` with one more entry in its config."""
    Path("stranger.py").write_text(CODE)
    Path("secret.json").write_text(json.dumps([1.0, 2.0, 3.0]))
    monkeypatch.delitem(sys.modules, "stranger", raising=False)

    def make(*wish):
        state = torch.load(trained, weights_only=True)
        node = state["meta"]["config"]
        *path, key, value = wish
        for step in path:
            node = node.setdefault(step, {})
        node[key] = value
        torch.save(state, "x.pt")

    return make


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("wish", ASKS)
def test_code_and_files_that_a_checkpoint_names_are_refused(stranger, seg_kernel, command, wish):
    stranger(*ASKS[wish])
    seg_kernel(*COMMANDS[command]).must_fail(1, "the config in this weights file names", "--trust")
    assert not Path("executed").exists()
    assert "stranger" not in sys.modules


@pytest.mark.parametrize("wish", FOR_TESTS_ALONE)
def test_entries_that_only_a_test_needs_are_ignored_by_predict_and_refused_by_test(stranger, seg_kernel, wish):
    stranger(*FOR_TESTS_ALONE[wish])
    assert seg_kernel(*COMMANDS["predict"]).code == 0
    seg_kernel(*COMMANDS["test"]).must_fail(1, "the config in this weights file names", "--trust")
    assert not Path("executed").exists()


@pytest.mark.parametrize("wish", FOR_TRAINING_ALONE)
def test_training_parts_are_not_built_for_a_test(stranger, seg_kernel, wish):
    stranger(*FOR_TRAINING_ALONE[wish])
    assert seg_kernel(*COMMANDS["test"]).code == 0
    assert not Path("executed").exists()


def test_the_message_names_the_key(stranger, seg_kernel):
    stranger(*HEAD, "loss_decode", {"type": "stranger:Thing"})
    seg_kernel(*COMMANDS["predict"]).must_fail(1, "stranger:Thing (model.decode_head.loss_decode.type)")
    stranger("model", "backbone", "norm_cfg", {"type": "stranger:Thing"})
    seg_kernel(*COMMANDS["predict"]).must_fail(1, "stranger:Thing (norm_cfg.type)")
    seg_kernel(*COMMANDS["test"]).must_fail(1, "weights file names")


def test_an_untrusted_work_dir_is_not_used(project, tiny):
    from segkernel.config import load_config
    from segkernel.experiment import make_runner

    config = load_config({"model": tiny.config()["model"], "data": {"num_classes": 3}, "work_dir": "elsewhere"})
    config.trusted = False
    with make_runner(config, training=False)._running():
        pass
    assert not Path("elsewhere").exists()


PATH_LIKE = re.compile(
    r"(^|_)(annotations|cache|checkpoint|depth|dir|file|folder|images|masks|path|root|split|url)\d?(_path)?$"
)


def test_every_argument_that_names_a_file_is_marked():
    catalog, marked, unmarked = Catalog.discover(), set(), set()
    for group in GROUPS.keys() - {
        "zoo",
        "former_names",
        "commands",
        "config_checks",
        "predictors",
        "quick_checks",
        "config_sources",
        "adapters",
        "displays",
        "optimizations",
    }:
        for _, target in catalog.load_all(group):
            for owner, name, annotation in arguments(target, {target}):
                if PATH_LIKE.search(name) and (found := list(texts(annotation))):
                    (marked if all(found) else unmarked).add(f"{owner.__name__}.{name}")
    assert unmarked == {"YoloSegDataset.split"}  # one of the splits that its file lists
    assert {"TIMMBackbone.checkpoint_path", "PicturesHook.show_dir", "DSDLSegDataset.ann_file"} <= marked


def arguments(target, seen):
    """Yield owner, name and annotation of the arguments of a class, and of the records in them."""
    for name, parameter in signature(target).items():
        yield parameter.owner, name, parameter.annotation
        for record in {kind for kind in parts(parameter.annotation) if is_record(kind)} - seen:
            yield from arguments(record, seen | {record})


def parts(annotation):
    """Yield the types in an annotation."""
    kind = bare(annotation)
    yield kind
    for part in () if get_origin(kind) is Literal else get_args(kind):
        yield from parts(part)


def texts(annotation, file=False):
    """Yield for each str in an annotation whether it is marked as a file."""
    kind, constraints = unwrap(annotation)
    file = file or is_file(kind, constraints)
    if kind is str:
        yield file
    values = get_args(kind)[1:] if get_origin(kind) in MAPPINGS else get_args(kind)
    for part in () if get_origin(kind) is Literal else values:
        yield from texts(part, file and get_origin(kind) in UNIONS)


def test_trust_allows_what_a_checkpoint_names(stranger, seg_kernel):
    pytest.importorskip("segplug_deploy")  # one of the commands exports
    Path("stranger.py").write_text(f"{CODE}\nfrom segkernel.nn import CrossEntropyLoss\n")
    stranger(*HEAD, "loss_decode", {"type": "stranger:CrossEntropyLoss"})
    for command in COMMANDS.values():
        seg_kernel(*command).must_fail(1, "stranger:CrossEntropyLoss")
    assert seg_kernel(*COMMANDS["predict"], "--trust").code == 0


def test_your_own_config_can_name_any_import_path(stranger, trained, seg_kernel):
    Path("stranger.py").write_text("from segkernel.nn import CrossEntropyLoss\n")
    loss = "model.decode_head.loss_decode={type: 'stranger:CrossEntropyLoss'}"
    assert seg_kernel("test", "tiny.yaml", trained, loss).code == 0


def test_the_config_of_an_exported_file_is_not_trusted(stranger, trained, seg_kernel):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("segplug_deploy")
    exported = seg_kernel("export", trained, "--out", "x.onnx")
    assert (exported.code, "noise" in exported.err) == (0, False)  # an image of the validation set
    model = onnx.load("x.onnx")
    entries = {entry.key: entry for entry in model.metadata_props}
    config = json.loads(entries["segkernel.config"].value)
    config["data"]["eval_transforms"] = [{"type": "stranger:Thing"}]
    entries["segkernel.config"].value = json.dumps(config)
    onnx.save(model, "y.onnx")
    seg_kernel("predict", "y.onnx", "images").must_fail(1, "the import path stranger:Thing", "--trust")
    outputs = json.loads(entries["segkernel.outputs"].value)
    entries["segkernel.outputs"].value = json.dumps({"seg": {**outputs["seg"], "type": "stranger:Thing"}})
    onnx.save(model, "z.onnx")
    seg_kernel("predict", "z.onnx", "images").must_fail(1, "the import path stranger:Thing")
    assert not Path("executed").exists()


def test_names_in_a_file_cannot_escape_the_output_folder(tmp_path):
    from segplug_datasets.label_files import write_labels

    masks = torch.ones(2, 3, 4, dtype=torch.uint8).numpy()
    folder = tmp_path / "out"
    write_labels(folder, "../../name", masks, ["../../evil", "/elsewhere/evil"])
    write_labels(folder, "/abs/olute", masks[0], [])
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")}
    assert written == {"out/.._.._evil/name.png", "out/_elsewhere_evil/name.png", "out/abs/olute.png"}
