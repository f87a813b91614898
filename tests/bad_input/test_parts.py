"""Parts of a config that do not fit together: ``config check`` reports the same as a run, without data or memory."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch
import yaml

AUXILIARY = "{type: FCNHead, in_channels: 16, in_index: 2, channels: 4, num_classes: 3}"
NECK = "{type: FPN, in_channels: [4, 8, 16, 32], out_channels: 32, num_outs: 4}"
HOOKS = '''
from segkernel.hookspecs import hookimpl

class Misspelt:
    @hookimpl
    def befor_run(self, run):
        """There is no such hook method."""

class Strange:
    @hookimpl
    def before_run(self, run, weather):
        """No hook method has this argument."""
'''
MODEL = '''
from segkernel.testing.toys import ToySegmentor

class Named(ToySegmentor):
    """Calls its parts by keyword."""

    def forward(self, images):
        return self.decode_head(features=self.backbone(images=images))
'''
CHANGES = {
    # channels
    "model={type: 'my_model:Named', num_classes: 3, in_channels: 4, _delete_: true}": (
        "model.backbone.in_channels: 4 does not fit images of 3"
    ),
    "model.decode_head.in_channels=31": "tiny.yaml:8:3 model.decode_head: in_channels 31 at in_index 3 does not fit",
    "model.decode_head.in_index=9": "model.decode_head: in_channels 32 at in_index 9 does not fit the backbone",
    "+model.auxiliary_head={type: FCNHead, in_channels: 9, in_index: 2, channels: 4, num_classes: 3}": (
        "command line model.auxiliary_head: in_channels 9 at in_index 2 does not fit the backbone"
    ),
    "+model.backbone.in_channels=4": "command line model.backbone.in_channels: 4 does not fit images of 3",
    "+data.preprocess={mean: [1, 2], std: [1, 2]}": "model.backbone: it does not fit images of 2 channels",
    "+data.preprocess={mean: [1, 2]}": "mean has 2 channels, std 3",
    "+model.neck={type: FPN, in_channels: [4, 8, 16, 99], out_channels: 32, num_outs: 4}": (
        "command line model.neck.in_channels: [4, 8, 16, 99] does not fit the backbone"
    ),
    f"+model={{neck: {NECK}, auxiliary_head: {AUXILIARY}}}": (
        "command line model.auxiliary_head.in_channels: 16 does not fit the neck"
    ),
    # classes
    "model.decode_head.num_classes=5": "tiny.yaml:20:3 data.train: FolderDataset has 3 classes, the model predicts 5",
    "+data.num_classes=4": "command line data.num_classes: 4, but FolderDataset has 3 classes",
    "data.val.classes=[a, b]": "data.val: FolderDataset has 2 classes, the model predicts 3",
    "+model.decode_head.loss_decode.class_weight=[1, 2]": (
        "model.decode_head.loss_decode: CrossEntropyLoss has 2 class weights for 3 classes"
    ),
    "model.decode_head.loss_decode={type: FocalLoss, alpha: [1, 2]}": "FocalLoss has 2 numbers alpha for 3 classes",
    "+model.decode_head.loss_decode.class_weight=[0, 0, -1]": "class_weight[2]: expected float (0 or more",
    "+model.decode_head.loss_decode.class_weight=[0, 0, 0]": "class weights must be 0 or more, and not all 0",
    "model.decode_head.loss_decode=[{type: DiceLoss}, {type: FocalLoss, class_weight: [1, 2, 3, 4]}]": (
        "model.decode_head.loss_decode: FocalLoss has 4 class weights for 3 classes"
    ),
    f"+model.auxiliary_head=[{AUXILIARY}, {AUXILIARY.replace('classes: 3', 'classes: 4')}]": (
        "command line model.auxiliary_head[1].num_classes: 4 classes, but the decode head that predicts has 3"
    ),
    # checked by constructors
    "hooks=[{type: 'my_hooks:Misspelt'}]": "Misspelt: unknown hook method 'befor_run'; did you mean 'before_run'",
    "hooks=[{type: 'my_hooks:Strange'}]": "weather",
    "+schedule.lr=[{type: PolyLR, begin: 5, end: 5}]": "segplug-training/PolyLR cannot be built: PolyLR ends at 5",
    "optim.optimizer.lr=-1": "optim.optimizer.lr: expected float (0 or more), got -1 (int)",
    "+optim.optimizer.momentum=5": "optim.optimizer.momentum: expected float (0 or more, 1 or less), got 5 (int)",
    "optim.paramwise={custom_keys: {nothing: {lr_mult: 10}}}": "custom_keys: nothing matches no parameter name",
    "+optim.optimizer.momentum=-9": "optim.optimizer.momentum: expected float (0 or more, 1 or less), got -9 (int)",
    "optim.optimizer={type: AdamW, lr: 0.1, betas: [0.9, 1.5]}": (
        "optim.optimizer.betas[1]: expected float (0 or more, below 1), got 1.5 (float)"
    ),
    "model.decode_head={type: SegformerHead, in_channels: [4, 8, 16, 32], in_index: [0, 1, 2, 3], channels: 4, "
    "num_classes: 3, conv_cfg: {type: Nonsense}}": "no layers component is called 'Nonsense'",
    "export=[{type: ONNXExporter, opset: 9999}]": "export[0].opset: expected int (1 or more, known_to_onnx) or None",
    "+engine.device=gpu": "engine.device: 'gpu' is not a device",
    "optim.optimizer={type: Adam, lr: 0.1, eps: -1.0e-8}": "optim.optimizer.eps: expected float (0 or more)",
    "+optim.optimizer.weight_decay=.nan": "optim.optimizer.weight_decay: expected float (0 or more), got nan (float)",
    "optim.optimizer={type: RMSprop, alpha: 2}": "optim.optimizer.alpha: expected float (0 or more, 1 or less)",
    "optim.optimizer={type: Adafactor, lr: 0.1, eps: [null, -1]}": "the optimizer cannot be built: epsilon2 should be",
    "+optim.clip_grad={}": "max_norm above 0",
    "+evaluate.test_cfg={mode: slide}": "evaluate: Evaluation cannot be built: test_cfg: mode slide needs",
    # too large for any memory
    "model.decode_head.channels=1000000000000": "model.decode_head: segplug-heads/FCNHead cannot be built: the model",
    "model.decode_head.num_convs=100000": "the model is too large: it has more than 8,192",
    "model.decode_head.channels=10000000000000000000": "tiny.yaml:8:3 model.decode_head",
    # impossible labels
    "+model.decode_head.ignore_index=999": "ignore_index: expected int (0 or more, 255 or less), got 999 (int)",
}  # fmt: skip

if not hasattr(torch.optim, "Adafactor"):  # before torch 2.5
    del CHANGES["optim.optimizer={type: Adafactor, lr: 0.1, eps: [null, -1]}"]

LATER = (
    "does not fit images",
    "does not fit the neck",
    "[4, 8, 16, 99]",
    "more than 8,192",
    "is not a device",
)
"""Messages for which a run has another text, after its first batch or when it runs out of memory."""


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("command", [["config", "check"], ["run"]], ids=" ".join)
def test_parts_that_do_not_fit_are_refused_before_anything_is_read(project, seg_kernel, command, change, monkeypatch):
    Path("my_hooks.py").write_text(HOOKS)
    Path("my_model.py").write_text(MODEL)
    monkeypatch.syspath_prepend(str(project))
    if command == ["run"] and any(words in CHANGES[change] for words in LATER):
        pytest.skip("a run reports it after its first batch, or when it runs out of memory")
    if command == ["config", "check"]:
        shutil.rmtree("images")  # the data may be elsewhere
    message = CHANGES[change]
    if command == ["run"]:  # without the position in the file
        message = message.partition("model.")[2]
    seg_kernel(*command, "tiny.yaml", change).must_fail(2, message)


def test_schedule_and_data_are_checked_before_weights_are_loaded(project, seg_kernel):
    weights = "+model.pretrained=gone.pth"
    seg_kernel("run", "tiny.yaml", weights, "+schedule.epochs=2").must_fail(2, "iterations and epochs are both set")
    shutil.rmtree("images")
    seg_kernel("run", "tiny.yaml", weights).must_fail(1, "images: no such folder")


FITTING = {
    "of a file": [],
    "boundaries are two classes, whatever the labels": [
        "+model.auxiliary_head={type: STDCHead, in_channels: 16, in_index: 2, channels: 4, num_classes: 2}"
    ],
    "some of a set's classes": [
        "data.train={type: ADE20KDataset, data_root: gone, metainfo: {classes: [wall, sky, tree]}}",
        "data.val=${data.train}", "data.test=${data.train}",
    ],
    "classes that are only known when files are read": [
        "data.train={type: FolderDataset, images: gone, masks: gone, classes: [a, b, c]}",
        "data.val={type: ConcatDataset, datasets: ['${data.train}']}",
    ],
    "three labels for each pixel": ["+data.task=multilabel"],
    "a positive weight for all": [
        "model.decode_head.loss_decode={type: CrossEntropyLoss, use_sigmoid: true, class_weight: [2.0]}"
    ],
    "a device that is not here": ["engine.device=cuda:7"],
    "weights that are not here": ["+load_from=gone.pt", "+model.pretrained=gone.pt"],
}  # fmt: skip


@pytest.mark.parametrize("case", FITTING)
def test_fitting_parts_are_valid_without_their_data(project, seg_kernel, case):
    shutil.rmtree("images")
    assert seg_kernel("config", "check", "tiny.yaml", *FITTING[case]).out.startswith("tiny.yaml is valid")


def test_a_huge_model_in_a_checkpoint_takes_no_memory(trained, seg_kernel, tiny):
    """A config whose model is larger than the file is refused before the model is allocated."""
    import torch

    from segkernel.checkpoint import load, save

    content = copy.deepcopy(load(trained))
    content["meta"]["config"]["model"]["decode_head"]["channels"] = 20_000
    save("huge.pt", content)
    built = []
    handle = torch.nn.modules.module.register_module_parameter_registration_hook(
        lambda module, name, parameter: built.append(parameter.numel())
    )
    try:
        message = seg_kernel("predict", "huge.pt", "images").must_fail(2, "model.decode_head", "the model is too large")
    finally:
        handle.remove()
    assert "numbers" in message
    assert max(built) < 1_000_000


def test_a_config_without_a_model_can_be_checked(project, seg_kernel):
    content = yaml.safe_load(Path("tiny.yaml").read_text())
    del content["model"]
    Path("part.yaml").write_text(yaml.safe_dump(content))
    assert seg_kernel("config", "check", "part.yaml").code == 0
