"""Training, measuring, predicting and exporting with two classes, and with none or several for each pixel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkernel.config import load_config
from segkernel.errors import ConfigError, UsageError
from segkernel.experiment import check, make_runner, run
from segkernel.loading import make_model
from segkernel.nn import DecodeHead
from segkernel.predictor import Predictor
from segplug_datasets import image, predict_images
from segplug_datasets.report.hook import EvaluationReport

SIZE = 64


def write(root: Path, count: int = 4) -> None:
    """Write photos in which red is crack and blue is rust, and masks: of each, of both as bits, of crack alone."""
    rng = np.random.default_rng(0)
    for index in range(count):
        planes = np.zeros((2, SIZE, SIZE), np.uint8)
        for plane in planes:
            top, left = rng.integers(0, SIZE // 2, 2)
            plane[top : top + 32, left : left + 32] = 1
        photo = rng.integers(0, 40, (SIZE, SIZE, 3)).astype(np.uint8)
        photo[..., 0] += 200 * planes[0]
        photo[..., 2] += 200 * planes[1]
        planes[:, :2] = 255
        image.write(root / "photos" / f"{index}.png", photo)
        for name, plane in zip(("crack", "rust"), planes):
            image.write_mask(root / name / f"{index}.png", plane)


def config(root: Path, task: str, **data: Any) -> dict[str, Any]:
    labels: dict[str, Any] = {"masks": "crack", "classes": ["sound", "crack"]}
    if task == "multilabel":
        labels = {"masks": {"crack": "crack", "rust": "rust"}}
    dataset = {"type": "FolderDataset", "data_root": str(root), "images": "photos", **labels}
    common = {"in_channels": 16, "channels": 8, "num_classes": "${data.num_classes}", "num_convs": 1}
    loss = {"type": "CrossEntropyLoss", "use_sigmoid": False}
    flips: list[Any] = [{"type": "RandomCrop", "crop_size": [48, 48], "cat_max_ratio": 0.75}, {"type": "RandomFlip"}]
    sets = {"train": dataset, "val": dataset, "test": dataset}
    return {
        "model": {
            "type": "EncoderDecoder",
            "backbone": {"type": "ResNetV1c", "depth": 18, "base_channels": 16, "strides": [1, 2, 1, 1],
                         "dilations": [1, 1, 2, 4], "stem_channels": 8},
            "decode_head": {"type": "FCNHead", **common, "in_channels": 128, "loss_decode": loss},
            "auxiliary_head": {"type": "FCNHead", **common, "in_channels": 64, "in_index": 2, "loss_decode": loss},
        },
        "data": {"task": task, "num_classes": 2, "workers": 0, **sets, "train_transforms": flips, **data},
        "optim": {"optimizer": {"type": "AdamW", "lr": 5e-3}, "batch_size": 4},
        "schedule": {"iterations": 15, "val_interval": 15},
        "evaluate": {"metrics": [{"type": "IoUMetric", "iou_metrics": ["mIoU", "mDice"]}]},
        "hooks": [{"type": "PicturesHook", "labels_dir": str(root / "labels"), "count": 1}],
        "engine": {"device": "cpu"},
    }  # fmt: skip


def training_losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_a_model_learns_is_measured_predicts_and_is_exported(tmp_path: Path, task: str) -> None:
    write(tmp_path)
    runner = run(config(tmp_path, task), work_dir=tmp_path / "run")
    losses = training_losses(tmp_path / "run")
    assert losses[-1] < 0.8 * losses[0]
    assert {"mIoU", "mDice", "aAcc", "IoU.crack"} <= set(runner.metrics)
    assert ("fwIoU" in runner.metrics) == (task == "binary")
    assert runner.metrics["aAcc"] > 50

    checkpoint = sorted((tmp_path / "run").rglob("*.pt"))[-1]
    predictor = Predictor(checkpoint, device="cpu")
    shape = (2, SIZE, SIZE) if task == "multilabel" else (SIZE, SIZE)
    photo = tmp_path / "photos" / "0.png"
    (prediction,) = predict_images(predictor, photo, tmp_path / "out", probabilities=True)
    assert prediction.labels.shape == shape
    assert prediction["seg_probabilities"].shape == ((2 if task == "multilabel" else 1), SIZE, SIZE)
    assert set(np.unique(prediction.labels)) <= {0, 1}
    written = ["crack/0.png", "rust/0.png"] if task == "multilabel" else ["0.png"]
    for name, plane in zip(written, prediction.labels.reshape(-1, SIZE, SIZE)):
        assert np.array_equal(image.read_mask(tmp_path / "out" / "pred" / name), plane)
    assert image.read(tmp_path / "out" / "vis" / "0.png").shape[1] == SIZE
    augmented = Predictor(checkpoint, device="cpu", tta={"scales": [1.0, 1.5], "flip": True})(photo)
    assert augmented.labels.shape == shape

    pytest.importorskip("onnxruntime")
    from segplug_deploy.export import export_model

    file = export_model(checkpoint, out=tmp_path / "model.onnx", image=photo)
    exported = Predictor(file, device="cpu")
    assert exported.model.outputs["seg"] == predictor.model.outputs["seg"]
    assert np.array_equal(exported(photo).labels, prediction.labels)


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_a_packaged_model_learns(tmp_path: Path, task: str) -> None:
    write(tmp_path)
    mine = {**config(tmp_path, task, crop_size=[48, 48], align_corners=False, _delete_=True)}
    del mine["model"]
    for section in ("optim", "schedule", "evaluate"):
        mine[section]["_delete_"] = True
    runner = run({"_base_": "fast_scnn_8xb4-160k_cityscapes-512x1024", **mine}, work_dir=tmp_path / "run")
    losses = training_losses(tmp_path / "run")
    assert losses[-1] < 0.8 * losses[0]
    assert runner.metrics["aAcc"] > 50
    assert {head.output.task for head in (runner.model.decode_head, *runner.model.auxiliary_head)} == {task}


def test_a_run_without_training_draws_and_writes_predictions(tmp_path: Path) -> None:
    write(tmp_path)
    runner = make_runner(load_config(config(tmp_path, "multilabel")), tmp_path / "run", training=False)
    metrics = runner.test()
    assert {"IoU.crack", "IoU.rust", "Acc.rust", "mIoU", "aAcc"} <= set(metrics)
    assert image.read_mask(tmp_path / "labels" / "rust" / "3.png").shape == (SIZE, SIZE)
    assert len(list((tmp_path / "run" / "pictures").iterdir())) == 1


def test_data_and_metrics_of_another_task_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    for task, own in (("binary", "multilabel"), ("multilabel", "multiclass")):
        wrong = config(tmp_path, own)
        for part in ("train", "val", "test"):
            wrong["data"][part]["task"] = own
        wrong["data"]["task"] = task
        with pytest.raises(ConfigError, match=f"data.train.*labels for task {own}, the model is for task {task}"):
            make_runner(load_config(wrong), tmp_path / "run")
    reported = load_config(config(tmp_path, "multilabel"))
    runner = make_runner(reported, tmp_path / "report", training=False, hooks=[EvaluationReport()])
    with pytest.raises(UsageError, match="takes no labels of task multilabel: remove the hook"):
        runner.test()
    wrong = config(tmp_path, "multilabel")
    wrong["evaluate"] = {"metrics": [{"type": "CalibrationMetric"}]}
    runner = make_runner(load_config(wrong), tmp_path / "run", training=False)
    with pytest.raises(UsageError, match="CalibrationMetric does not support task multilabel"):
        runner.test()


def test_a_check_reports_invalid_tasks_before_building(tmp_path: Path) -> None:
    wrong = config(tmp_path, "sometimes")
    assert any("data.task" in str(problem) for problem in check(load_config(wrong)))
    wrong = config(tmp_path, "binary")
    wrong["model"]["decode_head"] = {"type": "PointHead", "in_channels": [8], "channels": 8, "num_classes": 2}
    assert "PointHead does not support task binary" in str(ConfigError(check(load_config(wrong))))
    problems = check(load_config(config(tmp_path, "binary")))
    assert problems == []
    wrong = config(tmp_path, "binary", num_classes=3)
    with pytest.raises(ConfigError, match="task binary has 2 classes, not 3"):
        make_model(load_config(wrong))


# ---------------------------------------------------------------- packaged models


def build_packaged(name: str, *overrides: str) -> Any:
    return make_model(load_config(name, overrides), pretrained=False)


@pytest.mark.parametrize("name", ["fcn_r50-d8_4xb2-40k_cityscapes-512x1024", "fast_scnn_8xb4-160k_cityscapes-512x1024"])
def test_a_packaged_model_follows_the_config(name: str) -> None:
    model = build_packaged(name, "data.num_classes=2", "data.task=binary")
    heads = [module for module in model.modules() if isinstance(module, DecodeHead)]
    assert len(heads) > 1
    assert {(head.out_channels, head.loss_decode.use_sigmoid) for head in heads} == {(1, True)}
    assert model.outputs["seg"].task == "binary"


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("fcn_r50-d8_4xb2-40k_cityscapes-512x1024", [], "model.*_head.num_classes: task binary has 2 classes, not 19"),
        (
            "mask2former_r50_8xb2-90k_cityscapes-512x1024",
            ["data.num_classes=2"],
            "model.decode_head.type: segplug-heads/Mask2FormerHead does not support task binary, only multiclass",
        ),
    ],
)
def test_a_packaged_model_that_does_not_support_a_task_is_refused(
    name: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_packaged(name, *overrides, "data.task=binary")


def test_a_head_can_have_its_own_task() -> None:
    model = build_packaged(
        "fcn_r50-d8_4xb2-40k_cityscapes-512x1024",
        "data.num_classes=2",
        "data.task=multilabel",
        "+model.auxiliary_head.task=multiclass",
    )
    assert (model.outputs["seg"].task, model.auxiliary_head.output.task) == ("multilabel", "multiclass")
    assert not model.auxiliary_head.loss_decode.use_sigmoid
