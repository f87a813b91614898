"""Invalid configs: files, keys and values."""

from __future__ import annotations

from pathlib import Path

import pytest

FILES = {
    "missing": (None, "x.yaml: no such file"),
    "not YAML": ("a: [1", "x.yaml:2:1 not valid YAML"),
    "a tab": ("a:\n\tb: 1", "x.yaml:2:1", "use spaces"),
    "a key twice": ("model: 1\nmodel: 2", "x.yaml:2:1 duplicate key 'model'"),
    "a list": ("- 1", "x.yaml holds a list"),
    "empty": ("", "x.yaml is empty"),
    "not text": (b"\xff\xfe\x00", "x.yaml is not UTF-8"),
    "code": ('a: !!python/object/apply:os.system ["touch executed"]', "x.yaml:1:4 the tag"),
    "two documents": ("seed: 1\n---\nseed: 2", "x.yaml:2:1 a second document"),
    "a base that is missing": ("_base_: nope.yaml", "x.yaml:1:1 _base_: nope.yaml: no such file"),
    "a base that is no path": ("_base_: 7", "x.yaml:1:1 _base_"),
    "itself as its base": ("_base_: x.yaml", "x.yaml:1:1 _base_: a base includes itself"),
    "a base that has it as its base": ("_base_: y.yaml", "y.yaml:1:1 _base_: a base includes itself"),
    "nothing set": ("model:\ndata:\n", "x.yaml model: this config has no model"),
    "a million values": (
        "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
        "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e]\n",
        "holds more than 200000 values",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize("command", [["run"], ["test"], ["config", "show"], ["config", "check"]], ids=" ".join)
def test_a_file_that_is_not_a_config_is_refused(project, seg_kernel, command, case):
    if case == "nothing set" and command[0] == "config":
        pytest.skip("an incomplete config can be shown and checked")
    content, *parts = FILES[case]
    Path("y.yaml").write_text("_base_: x.yaml")
    if content is not None:
        Path("x.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    seg_kernel(*command, "x.yaml").must_fail(2, *parts)
    assert not Path("executed").exists()


CHANGES = {
    # sections
    "~model": "this config has no model",
    "~data": "nothing to do",
    "~optim": "optim.optimizer",
    "~optim.optimizer": "optim.optimizer",
    "~schedule": "schedule: set schedule.iterations or schedule.epochs, neither is set",
    "+dtaa=3": "dtaa: unknown section\n    did you mean 'data'?",
    "model=7": "model: expected a segmentors component or None, got 7",
    "data=[]": "data: expected a mapping or None, got []",
    "hooks={}": "hooks: expected a list of hooks or None, got {}",
    # keys
    "model.decode_head.chanels=3": "did you mean 'channels'",
    "+model.decode_head.chanels=3": "unknown argument of segplug-heads/FCNHead",
    "optim.optimizer={type: SGD, lr: 0.1, momntum: 1}": "did you mean 'momentum'?",
    "hooks[9]=3": "hooks: the list has 1 items",
    "novalue": "'novalue' is not a valid override",
    # names
    "model.type=Foo": "model.type: no segmentors component is called 'Foo'",
    "evaluate.metrics=[{type: IuoMetric}]": "did you mean 'IoUMetric'",
    "optim.optimizer.type=Sdg": "did you mean 'SGD'?",
    "data.train.type=no_such_module:Foo": "no_such_module",
    "~model.type": "model.type: missing",
    # references
    "model.decode_head.num_classes=${data.nope}": "${data.nope} does not exist",
    "model.decode_head.channels=${model.decode_head.channels}": "circular reference",
    # types
    "model.decode_head.channels=abc": "model.decode_head.channels: expected int (1 or more), got 'abc'",
    "model.decode_head.channels=[1]": "model.decode_head.channels: expected int (1 or more), got [1]",
    "model.backbone.depth=19": "model.backbone.depth: expected 18 or 34 or 50",
    "model.backbone=null": "model.backbone: expected a",
    "hooks=[7]": "hooks[0]: expected a",
    "work_dir=7": "work_dir: expected str or None, got 7",
    "+seed=abc": "seed: expected int (0 or more",
    "+data.start_method=nope": "data.start_method: expected 'fork' or",
    # values
    "+seed=-1": "seed: expected int (0 or more",
    "schedule.iterations=0": "schedule.iterations: expected int (1 or more)",
    "schedule.val_interval=-1": "schedule.val_interval: expected float (above 0)",
    "optim.batch_size=0": "optim.batch_size: expected int (1 or more), got 0",
    "+data.micro_batch=0": "data.micro_batch: expected int (1 or more)",
    "+data.micro_batch=3": "batch_size 2 is not a multiple of micro_batch x devices = 3",
    "data.workers=-1": "data.workers: expected int (0 or more",
    "+engine.threads=-1": "engine.threads: expected int (1 or more",
    "+schedule.epochs=1": "iterations and epochs are both set",
    "optim.optimizer.lr=-1": "optim.optimizer.lr: expected float (0 or more), got -1 (int)",
    "+optim.clip_grad={max_norm: -1}": "optim.clip_grad.max_norm: expected float (above 0)",
    "+optim.clip_grad={}": "max_norm above 0",
    "+optim.paramwise={bias_lr_mul: 2}": "did you mean 'bias_lr_mult'",
    "+schedule.lr=[{type: PolyLR, begin: 5, end: 2}]": "schedule.lr[0]: segplug-training/PolyLR cannot be built",
    "+data.preprocess={mean: [1, 2]}": "mean has 2 channels, std 3",
    "+data.preprocess={mean: [1, 2], std: [1, 2]}": "images of 3 channels",
    "+data.preprocess={std: [1, 0, 1]}": "data.preprocess.std[1]: expected float (above 0)",
    "+evaluate.test_cfg={mode: slide}": "evaluate: Evaluation cannot be built: test_cfg: mode slide needs",
    "+evaluate.test_cfg={mode: slide, crop_size: [16, 16], stride: [0, 16]}": "stride[0]: expected int (1",
    "+evaluate.tta={scales: []}": "evaluate.tta.scales: expected a list of float (above 0) (1 or more of them)",
    "+evaluate.tta={scales: [0]}": "evaluate.tta.scales[0]: expected float (above 0)",
    "data.train_transforms=[{type: RandomCrop, crop_size: [0, 4]}]": "data.train_transforms[0]",
    "+data.eval_transforms=[{type: Resize, scale: [0, 9]}]": "data.eval_transforms[0]",
    "hooks=[{type: CheckpointHook, interval: 0}]": "hooks[0].interval: expected int (1 or more)",
    # parts that do not fit together
    "model.decode_head.num_classes=5": "data.train: FolderDataset has 3 classes, the model predicts 5",
    "+data.num_classes=9": "data.num_classes: 9, but FolderDataset has 3 classes",
    "data.val.classes=[a, b]": "data.val",
    "model.decode_head.in_channels=31": "in_channels 31",
    "model.decode_head.in_index=9": "in_index 9",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_refuses_an_invalid_config(project, seg_kernel, change):
    message = seg_kernel("run", "tiny.yaml", change).must_fail(2, CHANGES[change])
    assert "Marked" not in message
    assert not list(Path("run").glob("checkpoints/*"))


def test_all_errors_are_reported_together(project, seg_kernel):
    changes = ["model.decode_head.channels=abc", "+optim.lr=1", "+data.vall=1", "hooks=[{type: Nope}]"]
    seg_kernel("run", "tiny.yaml", *changes).must_fail(2, "'abc'", "optim.lr", "data.vall", "'Nope'")


@pytest.mark.parametrize("name", ["cuda:99", "banana"])
def test_an_unavailable_device_is_refused(project, seg_kernel, name):
    seg_kernel("run", "tiny.yaml", "--device", name).must_fail(2, "engine: ", f"device '{name}' is not available")


@pytest.mark.parametrize("arguments", [["nope"], ["plugins", "show", "nope"], ["models", "nope"], ["run", "nope"]])
def test_unknown_names_are_reported(project, seg_kernel, arguments):
    seg_kernel(*arguments).must_fail(2, "'nope'")
