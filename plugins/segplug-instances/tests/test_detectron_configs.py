"""YAML files of Detectron and Detectron.pytorch: read, translated, and equal to the packaged recipes of their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from segkernel.config import load_config
from segkernel.errors import ConfigError
from segplug_instances.moving_in.options import DEFAULTS, NO_EFFECT, Options, read_options
from segplug_instances.moving_in.translate import translate

YAML = """
MODEL:
  TYPE: generalized_rcnn
  CONV_BODY: FPN.add_fpn_ResNet50_conv5_body
  NUM_CLASSES: 81
  FASTER_RCNN: True
  MASK_ON: True
NUM_GPUS: 8
SOLVER:
  WEIGHT_DECAY: 0.0001
  BASE_LR: 0.02
  MAX_ITER: 90000
  STEPS: [0, 60000, 80000]
FPN:
  FPN_ON: True
FAST_RCNN:
  ROI_BOX_HEAD: head_builder.add_roi_2mlp_head
  ROI_XFORM_METHOD: RoIAlign
  ROI_XFORM_RESOLUTION: 7
  ROI_XFORM_SAMPLING_RATIO: 2
MRCNN:
  ROI_MASK_HEAD: mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs
  ROI_XFORM_RESOLUTION: 14
  ROI_XFORM_SAMPLING_RATIO: 2
  DILATION: 1
TRAIN:
  WEIGHTS: https://example.org/R-50.pkl
  DATASETS: ('coco_2014_train', 'coco_2014_valminusminival')
  SCALES: (800,)
  MAX_SIZE: 1333
  BATCH_SIZE_PER_IM: 512
  RPN_PRE_NMS_TOP_N: 2000
TEST:
  DATASETS: ('coco_2014_minival',)
  SCALE: 800
  MAX_SIZE: 1333
  NMS: 0.5
  RPN_PRE_NMS_TOP_N: 1000
  RPN_POST_NMS_TOP_N: 1000
OUTPUT_DIR: .
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "e2e_mine.yaml"
    path.write_text(text, "utf-8")
    return path


def test_names_lose_module_and_add_and_training_counts_epochs(tmp_path: Path) -> None:
    sections = translate(read_options(written(tmp_path, YAML)))
    assert sections["_base_"] == "segplug-instances::data/coco-2014-instances.yaml"
    model = sections["model"]
    assert (model["type"], model["convention"], model["num_classes"]) == ("RCNN", "detectron", "${data.num_classes}")
    assert model["backbone"] == {"type": "DetectionResNet", "depth": 50, "style": "caffe", "frozen_stages": 1}
    assert model["box_head"]["type"] == "MLPBoxHead"
    assert model["mask_head"]["pooler"] == {"type": "RoIPooler", "output_size": 14, "sampling_ratio": 2}
    assert model["pretrained"] is None
    assert sections["optim"]["batch_size"] == 16
    assert sections["optim"]["paramwise"]["custom_keys"] == {"bias": {"lr_mult": 2.0, "decay_mult": 0.0}}
    assert sections["schedule"]["epochs"] == 6
    assert sections["schedule"]["lr"][0]["milestones"] == [4, 5]
    assert sections["data"]["train_transforms"][0]["short"] == [800]


def test_import_writes_the_config_and_run_reads_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("segplug_heads")
    from click.testing import CliRunner

    from segkernel.cli import cli

    monkeypatch.chdir(tmp_path)
    written(tmp_path, YAML)
    done = CliRunner().invoke(cli, ["import", "e2e_mine.yaml", "-o", "mine.yaml"])
    assert done.exit_code == 0, done.output
    assert "mine.yaml: as a change of segplug-instances::data/coco-2014-instances.yaml" in done.output
    assert "SOLVER.MAX_ITER=90000: training counts epochs" in done.output
    assert "#   e2e_mine.yaml:12: SOLVER.MAX_ITER=90000" in (tmp_path / "mine.yaml").read_text()
    assert load_config("mine.yaml").data == load_config("e2e_mine.yaml").data
    assert CliRunner().invoke(cli, ["import", "e2e_mine.yaml"]).exit_code == 0  # not into the file itself
    assert Path("e2e_mine_imported.yaml").read_bytes() == Path("mine.yaml").read_bytes()
    again = CliRunner().invoke(cli, ["import", "e2e_mine.yaml"])
    assert "e2e_mine_imported.yaml exists; -o FILE" in str(again.exception)


def test_options_without_effect_are_listed_with_their_lines(tmp_path: Path) -> None:
    notes = read_options(written(tmp_path, YAML)).notes()
    named = {note.split(": ")[1].partition("=")[0]: note for note in notes}
    assert {"MODEL.NUM_CLASSES", "SOLVER.MAX_ITER", "SOLVER.STEPS", "TRAIN.WEIGHTS", "OUTPUT_DIR"} <= set(named)
    assert "SOLVER.BASE_LR" not in named
    assert named["SOLVER.MAX_ITER"].startswith(f"{tmp_path}/e2e_mine.yaml:12: SOLVER.MAX_ITER=90000: training counts")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("NUM_GPUS: 8", "NUM_GPU: 8", "e2e_mine.yaml:8:1 NUM_GPU: Detectron has no option of this name"),
        ("add_roi_2mlp_head", "roi_3mlp_head", "there is no box head 'roi_3mlp_head' here"),
        ("add_fpn_ResNet50_conv5_body", "add_VGG16", "there is no body 'add_VGG16' here|there is no body 'VGG16' here"),
        ("FASTER_RCNN: True", "FASTER_RCNN: False", "precomputed proposals"),
        ("ROI_XFORM_METHOD: RoIAlign", "ROI_XFORM_METHOD: RoIWarp", "must be one of RoIAlign, RoIPoolF, RoICrop"),
        ("SCALES: (800,)", "SCALES: 800", r"TRAIN.SCALES: must be a list, not 800"),
        ("BASE_LR: 0.02", "BASE_LR: fast", "e2e_mine.yaml:11:3 SOLVER.BASE_LR: must be a number, not fast"),
        ("MODEL:", "RETINANET: {RETINANET_ON: True}\nMODEL:", "there is no RetinaNet here"),
    ],
)
def test_what_cannot_be_carried_over_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        translate(read_options(written(tmp_path, YAML.replace(old, new))))


def test_options_of_test_time_and_of_cropping_are_carried_over() -> None:
    given = {
        "MODEL.CONV_BODY": "ResNet50_conv4_body",
        "MODEL.FASTER_RCNN": True,
        "FAST_RCNN.ROI_BOX_HEAD": "ResNet_roi_conv5_head",
        "RPN.OUT_DIM": 256,
        "RPN.OUT_DIM_AS_IN_DIM": False,
        "RPN.CLS_ACTIVATION": "softmax",
        "TRAIN.ASPECT_CROPPING": True,
        "TEST.SOFT_NMS.ENABLED": True,
        "TEST.BBOX_VOTE.ENABLED": True,
        "TEST.BBOX_AUG.ENABLED": True,
        "TEST.BBOX_AUG.SCALES": [300, 900],
        "TEST.BBOX_AUG.H_FLIP": True,
    }
    sections = translate(Options(given))
    assert sections["evaluate"] == {"tta": {"scales": [0.5, 1.0, 1.5], "flip": True}}
    assert sections["model"]["output"]["soft_nms"] == "linear"
    assert sections["model"]["output"]["box_voting"] == 0.8
    assert sections["model"]["rpn"]["channels"] == 256
    assert sections["model"]["rpn"]["softmax"] is True
    assert sections["data"]["train_transforms"][0] == {"type": "AspectCrop", "low": 0.5, "high": 2}
    assert sections["model"]["size_divisor"] == 1


def test_every_option_is_known_with_its_default(golden: Any) -> None:
    facts, _ = golden.load("config/defaults")
    known = {**facts["options"], **facts["only_in_detectron"]}
    assert set(known) <= {**DEFAULTS, **NO_EFFECT}.keys()
    changed = {"RNG_SEED", "KRCNN.NUM_KEYPOINTS"}  # 0, the seed here; and 17, COCO's
    for name in DEFAULTS.keys() - changed:
        assert DEFAULTS[name] == facts["options"][name]["default"], name
    by_seed = {name for name, option in facts["options"].items() if option.get("seed_says_no_effect")}
    assert by_seed <= set(NO_EFFECT)


def test_packaged_recipes_are_detectrons(golden: Any) -> None:
    pytest.importorskip("segplug_heads")
    facts, _ = golden.load("config/yamls")
    compared = 0
    for kind in ("detectron", "detectron_pytorch"):
        for path, given in facts[kind].items():
            name = Path(path).stem
            if "baselines/e2e_" not in path or "scratch" in name or "X-152" in name:
                continue
            recipe, own = load_config(name).data, translate(Options(given))
            own = load_config(own).data
            for each in (recipe, own):
                each["model"]["pretrained"] = each["model"]["box_head"]["pretrained"] = None
            for section in ("model", "data", "optim", "evaluate"):
                assert yaml.safe_dump(plain(recipe[section])) == yaml.safe_dump(plain(own[section])), (name, section)
            schedule = recipe["schedule"]
            assert schedule["iterations"] == given["SOLVER.MAX_ITER"], name
            assert schedule["lr"][1]["milestones"] == given["SOLVER.STEPS"][1:], name
            compared += 1
    assert compared > 25


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def test_other_models_of_detectron_are_refused_or_translated(golden: Any) -> None:
    facts, _ = golden.load("config/yamls")
    for path, given in {**facts["detectron"], **facts["detectron_pytorch"]}.items():
        name = Path(path).stem
        if "retinanet" in name or name.startswith(("fast_rcnn", "mask_rcnn", "keypoint_rcnn")):
            with pytest.raises(ConfigError):
                translate(Options(given))
        else:
            assert translate(Options(given))["model"]["type"] == "RCNN", name
