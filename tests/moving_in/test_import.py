"""Configs in the style of MMSegmentation 0.x and 1.x as configs of ours, by command and as they are read."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from segkernel.cli import cli
from segkernel.config import load_config
from segkernel.config.marks import place_of, to_builtin
from segkernel.errors import ConfigError
from segplug_heads.moving_in.importing import import_config, resolved
from segplug_heads.moving_in.shortest import canonical, compared

CONFIGS = Path(__file__).with_name("configs")
PSPNET = CONFIGS / "v1" / "pspnet_4xb2-40k_cityscapes.py"


def test_what_is_packaged_becomes_its_name() -> None:
    imported = import_config(PSPNET)
    assert imported.layer == {"_base_": "pspnet_r50-d8_4xb2-40k_cityscapes-512x1024"}
    assert (imported.version, imported.notes) == ("1.x", [])


def test_the_shortest_form_means_the_same_as_all_sections() -> None:
    for path in (PSPNET, CONFIGS / "v1" / "new_style.py", CONFIGS / "v1" / "model.yaml", *CONFIGS.glob("v0/*.py")):
        imported = import_config(path)
        assert imported.base
        assert canonical(compared(resolved(imported))) == canonical(compared(imported.sections)), path


def test_a_config_of_1_x_is_translated() -> None:
    imported = import_config(CONFIGS / "v1" / "cracks.py", devices=4)
    config = to_builtin(imported.sections)
    assert config["model"]["decode_head"] == {
        "type": "CrackHead",
        "in_channels": 2048,
        "channels": 256,
        "num_classes": 3,
    }
    assert config["data"]["train"] == {
        "type": "FolderDataset",
        "data_root": str(CONFIGS / "v1" / "data"),
        "images": "img/train",
        "masks": "mask/train",
        "classes": ["background", "crack", "joint"],
        "image_suffix": ".jpg",
        "mask_suffix": ".png",
    }
    assert config["data"]["preprocess"]["size"] == config["data"]["train_transforms"][1]["crop_size"] == [512, 512]
    # an iteration there is a batch, here a step: of 4 samples on 4 devices, accumulated over 2 batches
    assert config["optim"] == {
        "optimizer": {"type": "AdamW", "lr": 6e-5, "betas": [0.9, 0.999], "weight_decay": 0.01},
        "batch_size": 32,
        "clip_grad": {"max_norm": 35, "norm_type": 2},
        "paramwise": {"custom_keys": {"backbone.layer1": {"lr_mult": 0.1}, "backbone.layer2": {"lr_mult": 0.2}}},
    }
    assert config["schedule"] == {
        "iterations": 10000,
        "val_interval": 1000,
        "lr": [
            {"type": "LinearLR", "start_factor": 1e-6, "end": 500},
            {"type": "PolyLR", "eta_min": 0.0, "power": 1.0, "begin": 500},
        ],
    }
    assert config["engine"] == {"amp": "float16"}
    assert config["hooks"] == [
        {"type": "EMAHook", "momentum": 0.001999},  # of two batches
        {"type": "CheckpointHook", "interval": 500, "keep": 2, "best": "mFscore"},
        {"type": "TensorBoardHook"},
    ]
    assert config["evaluate"] == {"metrics": [{"type": "IoUMetric", "iou_metrics": ["mIoU", "mFscore"]}]}
    assert (config["seed"], config["load_from"]) == (7, "weights.pth")


def test_a_config_of_0_x_is_translated() -> None:
    imported = import_config(CONFIGS / "v0" / "pspnet_4x2_cracks.py")
    config = to_builtin(resolved(imported).data)
    assert imported.version == "0.x"
    assert config["model"]["test_cfg"] == {"mode": "slide", "crop_size": [512, 512], "stride": [341, 341]}
    assert config["model"]["decode_head"]["num_classes"] == config["data"]["num_classes"] == 2
    assert [part["images"] for part in config["data"]["train"]["datasets"]] == ["a/img", "b/img"]
    assert config["data"]["val"] == {
        "type": "FolderDataset",
        "data_root": "data",
        "images": "val/img",
        "masks": "val/mask",
        "classes": ["road", "crack"],
        "split": "val.txt",
        "offset": 1,
    }
    assert config["data"]["train_transforms"][0] == {
        "type": "RandomResize",
        "scale": [2048, 512],
        "ratio_range": [0.5, 2.0],
        "keep_ratio": True,
    }
    assert config["data"]["eval_transforms"] == [{"type": "Resize", "scale": [2048, 512], "keep_ratio": True}]
    assert config["data"]["preprocess"] == {"mean": [120.0, 110.0, 100.0], "size": [512, 512]}
    assert config["optim"]["batch_size"] == 8
    assert config["optim"]["paramwise"] == {"custom_keys": {"head": {"lr_mult": 10.0}}}
    assert config["optim"]["clip_grad"] == {"max_norm": 1.0}
    assert config["engine"] == {"amp": "float16", "loss_scale": 512.0}
    assert [spec["type"] for spec in config["schedule"]["lr"]] == ["LinearLR", "PolyLR"]
    assert (config["schedule"]["iterations"], config["schedule"]["val_interval"]) == (80000, 8000)
    assert config["hooks"] == [{"type": "CheckpointHook", "interval": 2000}, {"type": "TensorBoardHook"}]
    assert config["evaluate"]["metrics"] == [{"type": "IoUMetric", "iou_metrics": ["mIoU", "mDice"]}]
    assert "evaluate.tta={scales: [0.75, 1.0, 1.25], flip: true}" in str(imported.notes[0])


def test_what_cannot_be_carried_is_noted_with_its_line() -> None:
    imported = import_config(CONFIGS / "v1" / "cracks.py")
    notes = {note.what.partition("=")[0]: imported.source.line(note.place) for note in imported.notes if note.place}
    assert notes == {
        "train_dataloader.batch_size": "batch_size=4,",
        "test_evaluator": "test_evaluator = val_evaluator",
        "resume": "resume = True",
        "custom_imports": 'custom_imports = dict(imports=["cracks.heads"], allow_failed_imports=False)',
        "model.decode_head.type": notes["model.decode_head.type"],
    }
    assert 'type="CrackHead"' in notes["model.decode_head.type"]


def test_the_command_writes_a_file_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = shutil.copytree(CONFIGS, tmp_path / "configs") / "v1" / "cracks.py"
    result = CliRunner().invoke(cli, ["import", str(path), "--devices", "2"])
    assert result.exit_code == 0, result.output
    assert "next: seg-kernel config check cracks.yaml, seg-kernel run cracks.yaml" in result.output
    assert re.search(r"cracks.py:\d+: resume=true", result.output)
    text = Path("cracks.yaml").read_text("utf-8")
    assert "#     > resume = True\n" in text
    assert load_config("cracks.yaml")["optim"]["batch_size"] == 16
    again = CliRunner().invoke(cli, ["import", str(path)])
    assert "cracks.yaml exists" in str(again.exception)
    assert CliRunner().invoke(cli, ["import", str(path), "--force"]).exit_code == 0


def test_full_writes_every_value() -> None:
    result = CliRunner().invoke(cli, ["import", str(PSPNET), "--full", "-o", "-"])
    assert "_base_" not in result.output
    assert "decode_head:" in result.output


def test_a_python_file_is_a_config() -> None:
    config = load_config(str(CONFIGS / "v0" / "pspnet_4x2_cracks.py"), ["optim.batch_size=4"])
    assert config["optim"]["batch_size"] == 4
    assert "pspnet_4x2_cracks.py:31:" in place_of(config["model"]["test_cfg"], "stride")
    assert load_config({"_base_": str(PSPNET)})["schedule"]["iterations"] == 40000


def test_yaml_and_json_files_with_their_sections_are_configs_too(tmp_path: Path) -> None:
    path = CONFIGS / "v1" / "model.yaml"
    assert load_config(str(path)).data == resolved(import_config(path)).data
    (tmp_path / "theirs.json").write_text('{"model": {"type": "A"}, "train_dataloader": {"batch_size": 3}}')
    (tmp_path / "ours.yaml").write_text("_base_: theirs.json\nschedule: {iterations: 5}")
    config = load_config(str(tmp_path / "ours.yaml"))
    assert (config["optim"]["batch_size"], config["schedule"]["iterations"]) == (3, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: {batch_size: 2}\ntrain_dataloader: {batch_size: 3}", "train_dataloader: unknown section"),
        ("model: {type: A}\noptimizer: {type: SGD}", "it is optim.optimizer"),
        ("_base_: ours.yaml\ntrain_dataloader: {batch_size: 3}", "optim is no section of a config of MMSegmentation"),
    ],
)
def test_a_file_with_sections_of_both_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "ours.yaml").write_text("optim: {batch_size: 2}")
    (tmp_path / "mixed.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(str(tmp_path / "mixed.yaml"))


def test_a_base_that_is_missing_is_the_packaged_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    base = "./pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py"
    path.write_text(f"_base_ = {base!r}\nmodel = dict(decode_head=dict(num_classes=4))")
    config = load_config(str(path))
    assert config["model"]["decode_head"]["num_classes"] == 4
    assert config["model"]["backbone"]["depth"] == 50


def test_a_file_without_sections_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "setup.py"
    path.write_text("name = 'x'")
    with pytest.raises(ConfigError, match="none of the sections of a config of MMSegmentation"):
        import_config(path)


def test_names_that_are_not_read_and_types_that_are_not_installed_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "model = dict(type='EncoderDecoder', _scope_='mmseg', decode_head=dict(type='mmdet.NoHead'))\n"
        "uda = dict(type='DACS')\n"
        "norm = dict(type='BN')\n"
        "optim_wrapper = dict(optimizer=dict(type='SGD', lr=1), paramwise_cfg=dict(depths=[1], norm_decay_mult=0))\n"
        "train_cfg = dict(max_epochs=3, norm=norm)\n"
    )
    imported = import_config(path)
    assert "_scope_" not in imported.sections["model"]
    assert imported.sections["optim"]["paramwise"] == {"norm_decay_mult": 0}
    assert imported.sections["schedule"] == {"epochs": 3}
    assert [note.what.partition("=")[0] for note in imported.notes] == [
        "uda",
        "optim_wrapper.paramwise_cfg.depths",
        "train_cfg.norm",
        "model.decode_head.type",
    ]


def test_schedules_count_optimiser_steps(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "optim_wrapper = dict(accumulative_counts=4)\n"
        "train_cfg = dict(max_iters=100, val_interval=10)\n"
        "param_scheduler = [dict(type='MultiStepLR', milestones=[50, 82], by_epoch=False),\n"
        "    dict(type='ExponentialLR', gamma=0.5, begin=40, by_epoch=False), dict(type='StepLR', step_size=3)]\n"
        "default_hooks = dict(logger=dict(type='LoggerHook', interval=2))\n"
    )
    sections = import_config(path).sections
    assert sections["schedule"] == {
        "iterations": 25,
        "val_interval": 3,
        "lr": [
            {"type": "MultiStepLR", "milestones": [13, 21]},
            {"type": "ExponentialLR", "gamma": 0.0625, "begin": 10},
            {"type": "StepLR", "step_size": 3, "by_epoch": True},
        ],
    }
    assert sections["hooks"] == [{"type": "ProgressHook", "interval": 1}]


def test_views_of_tests_are_noted_unless_they_are_the_usual_ones(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    for scales, found in (("0.5, 0.75, 1.0, 1.25, 1.5, 1.75", []), ("0.5, 2.0", ["[0.5, 2.0], flip: true"])):
        path.write_text(
            f"model = dict(type='A')\nresizes = [dict(type='Resize', scale_factor=r) for r in [{scales}]]\n"
            "flips = [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)]\n"
            "tta_pipeline = [dict(type='TestTimeAug', transforms=[resizes, flips, [dict(type='PackSegInputs')]])]\n"
        )
        notes = [str(note) for note in import_config(path).notes if note.what == "TestTimeAug"]
        assert len(notes) == len(found)
        assert all(part in note for part, note in zip(found, notes))


def test_a_config_and_a_checkpoint_are_a_predictor(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from segkernel import Predictor
    from segkernel.loading import make_model

    path, weights = tmp_path / "mine.py", tmp_path / "mine.pth"
    path.write_text(
        "model = dict(type='EncoderDecoder', backbone=dict(type='ResNetV1c', depth=18),\n"
        "    decode_head=dict(type='FCNHead', in_channels=512, channels=8, num_convs=1, num_classes=2))\n"
        "optimizer = dict(type='SGD', lr=0.1)\n"
    )
    model = make_model(load_config(str(path)), pretrained=False)
    torch.save({"state_dict": model.state_dict(), "meta": {"CLASSES": ("road", "crack")}}, weights)
    (tmp_path / "mine.json").write_text(f'{{"_base_": "{path}", "model": {{}}}}')
    for config in (path, tmp_path / "mine.json"):
        predicted = Predictor(config, weights)(np.zeros((32, 48, 3), np.uint8))
        assert predicted.labels.shape == (32, 48)
    profiled = CliRunner().invoke(cli, ["profile", str(path), "--shape", "32x48"])
    assert profiled.exit_code == 0, profiled.exception
