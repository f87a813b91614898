"""The options of a YAML config of Detectron or Detectron.pytorch: their defaults, and which have no effect here."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segkernel.config.marks import MarkedDict, Place, place_of, summarize
from segkernel.config.text import read_file
from segkernel.errors import ConfigError, Problem, suggest

DEFAULTS: dict[str, Any] = {
    "FAST_RCNN.CONV_HEAD_DIM": 256,
    "FAST_RCNN.MLP_HEAD_DIM": 1024,
    "FAST_RCNN.NUM_STACKED_CONVS": 4,
    "FAST_RCNN.ROI_BOX_HEAD": "",
    "FAST_RCNN.ROI_XFORM_METHOD": "RoIPoolF",
    "FAST_RCNN.ROI_XFORM_RESOLUTION": 14,
    "FAST_RCNN.ROI_XFORM_SAMPLING_RATIO": 0,
    "FPN.COARSEST_STRIDE": 32,
    "FPN.DIM": 256,
    "FPN.FPN_ON": False,
    "FPN.RPN_ANCHOR_START_SIZE": 32,
    "FPN.RPN_ASPECT_RATIOS": [0.5, 1, 2],
    "FPN.USE_GN": False,
    "GROUP_NORM.NUM_GROUPS": 32,
    "KRCNN.CONV_HEAD_DIM": 256,
    "KRCNN.NORMALIZE_BY_VISIBLE_KEYPOINTS": True,
    "KRCNN.NUM_KEYPOINTS": 17,
    "KRCNN.NUM_STACKED_CONVS": 8,
    "KRCNN.ROI_KEYPOINTS_HEAD": "",
    "KRCNN.ROI_XFORM_METHOD": "RoIAlign",
    "KRCNN.ROI_XFORM_RESOLUTION": 7,
    "KRCNN.ROI_XFORM_SAMPLING_RATIO": 0,
    "MODEL.BBOX_REG_WEIGHTS": [10.0, 10.0, 5.0, 5.0],
    "MODEL.CLS_AGNOSTIC_BBOX_REG": False,
    "MODEL.CONV_BODY": "",
    "MODEL.FASTER_RCNN": False,
    "MODEL.KEYPOINTS_ON": False,
    "MODEL.LOAD_IMAGENET_PRETRAINED_WEIGHTS": True,
    "MODEL.MASK_ON": False,
    "MODEL.RPN_ONLY": False,
    "MRCNN.CLS_SPECIFIC_MASK": True,
    "MRCNN.DILATION": 2,
    "MRCNN.DIM_REDUCED": 256,
    "MRCNN.ROI_MASK_HEAD": "",
    "MRCNN.ROI_XFORM_METHOD": "RoIAlign",
    "MRCNN.ROI_XFORM_RESOLUTION": 7,
    "MRCNN.ROI_XFORM_SAMPLING_RATIO": 0,
    "MRCNN.THRESH_BINARIZE": 0.5,
    "NUM_GPUS": 1,
    "PIXEL_MEANS": [[[102.9801, 115.9465, 122.7717]]],
    "RESNETS.FREEZE_AT": 2,
    "RESNETS.IMAGENET_PRETRAINED_WEIGHTS": "",
    "RESNETS.NUM_GROUPS": 1,
    "RESNETS.RES5_DILATION": 1,
    "RESNETS.STRIDE_1X1": True,
    "RESNETS.TRANS_FUNC": "bottleneck_transformation",
    "RESNETS.USE_GN": False,
    "RESNETS.WIDTH_PER_GROUP": 64,
    "RETINANET.RETINANET_ON": False,
    "RNG_SEED": 0,
    "RPN.ASPECT_RATIOS": [0.5, 1, 2],
    "RPN.CLS_ACTIVATION": "sigmoid",
    "RPN.OUT_DIM": 512,
    "RPN.OUT_DIM_AS_IN_DIM": True,
    "RPN.RPN_ON": False,
    "RPN.SIZES": [64, 128, 256, 512],
    "SOLVER.BASE_LR": 0.001,
    "SOLVER.BIAS_DOUBLE_LR": True,
    "SOLVER.BIAS_WEIGHT_DECAY": False,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.TYPE": "SGD",
    "SOLVER.WEIGHT_DECAY": 0.0005,
    "SOLVER.WEIGHT_DECAY_GN": 0.0,
    "TEST.BBOX_AUG.ENABLED": False,
    "TEST.BBOX_AUG.H_FLIP": False,
    "TEST.BBOX_AUG.SCALES": [],
    "TEST.BBOX_AUG.SCALE_H_FLIP": False,
    "TEST.BBOX_VOTE.ENABLED": False,
    "TEST.BBOX_VOTE.SCORING_METHOD": "ID",
    "TEST.BBOX_VOTE.VOTE_TH": 0.8,
    "TEST.DETECTIONS_PER_IM": 100,
    "TEST.MAX_SIZE": 1000,
    "TEST.NMS": 0.3,
    "TEST.RPN_NMS_THRESH": 0.7,
    "TEST.RPN_POST_NMS_TOP_N": 2000,
    "TEST.RPN_PRE_NMS_TOP_N": 12000,
    "TEST.SCALE": 600,
    "TEST.SCORE_THRESH": 0.05,
    "TEST.SOFT_NMS.ENABLED": False,
    "TEST.SOFT_NMS.METHOD": "linear",
    "TEST.SOFT_NMS.SIGMA": 0.5,
    "TRAIN.ASPECT_CROPPING": False,
    "TRAIN.ASPECT_GROUPING": True,
    "TRAIN.ASPECT_HI": 2,
    "TRAIN.ASPECT_LO": 0.5,
    "TRAIN.BATCH_SIZE_PER_IM": 64,
    "TRAIN.BG_THRESH_HI": 0.5,
    "TRAIN.BG_THRESH_LO": 0.0,
    "TRAIN.CROWD_FILTER_THRESH": 0.7,
    "TRAIN.DATASETS": [],
    "TRAIN.FG_FRACTION": 0.25,
    "TRAIN.FG_THRESH": 0.5,
    "TRAIN.IMS_PER_BATCH": 2,
    "TRAIN.MAX_SIZE": 1000,
    "TRAIN.RPN_BATCH_SIZE_PER_IM": 256,
    "TRAIN.RPN_FG_FRACTION": 0.5,
    "TRAIN.RPN_MIN_SIZE": 0,
    "TRAIN.RPN_NEGATIVE_OVERLAP": 0.3,
    "TRAIN.RPN_POSITIVE_OVERLAP": 0.7,
    "TRAIN.RPN_POST_NMS_TOP_N": 2000,
    "TRAIN.RPN_PRE_NMS_TOP_N": 12000,
    "TRAIN.SCALES": [600],
    "TRAIN.USE_FLIPPED": True,
}
"""The options that are carried over, with Detectron.pytorch's defaults."""

_EPOCHS = (
    "training counts epochs, as in Detectron.pytorch: see schedule; the packaged recipes have Detectron's iterations"
)
_DATA = "data sets are named by the config: see data"
_WEIGHTS = "weights are named by the command or by model.pretrained"
_LAYERS = "layers here are initialised, or made, in one way"
_SAME = "cannot be set here"
_MACHINE = "describes a machine or a program, not a model"
_PROPOSALS = "proposals are those of the model"
_VIEWS = "views are joined, and their masks and heat maps averaged: see Instances"

NO_EFFECT: dict[str, str] = {
    **dict.fromkeys(
        ("SOLVER.LRS", "SOLVER.LR_POLICY", "SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.STEP_SIZE",
         "SOLVER.WARM_UP_FACTOR", "SOLVER.WARM_UP_ITERS", "SOLVER.WARM_UP_METHOD"), _EPOCHS),
    **dict.fromkeys(
        ("SOLVER.LOG_LR_CHANGE_THRESHOLD", "SOLVER.SCALE_MOMENTUM", "SOLVER.SCALE_MOMENTUM_THRESHOLD"),
        "the momentum of torch's SGD does not contain the rate, so that it needs no correction"),
    "MODEL.TYPE": "a model is what its parts are",
    "MODEL.NUM_CLASSES": "the number of classes is the data set's",
    **dict.fromkeys(("TRAIN.DATASETS", "TEST.DATASETS"), _DATA),
    **dict.fromkeys(("TRAIN.WEIGHTS", "TEST.WEIGHTS", "TRAIN.AUTO_RESUME", "TRAIN.COPY_WEIGHTS"), _WEIGHTS),
    **dict.fromkeys(
        ("FPN.ZERO_INIT_LATERAL", "GROUP_NORM.DIM_PER_GP", "GROUP_NORM.EPSILON", "KRCNN.CONV_INIT", "KRCNN.DILATION",
         "KRCNN.CONV_HEAD_KERNEL", "KRCNN.DECONV_DIM", "KRCNN.DECONV_KERNEL", "KRCNN.HEATMAP_SIZE",
         "KRCNN.UP_SCALE", "KRCNN.USE_DECONV", "KRCNN.USE_DECONV_OUTPUT", "MODEL.SHARE_RES5", "MRCNN.CONV_INIT",
         "MRCNN.RESOLUTION", "MRCNN.UPSAMPLE_RATIO", "MRCNN.USE_FC_OUTPUT", "RESNETS.SHORTCUT_FUNC",
         "RESNETS.STEM_FUNC", "RPN.STRIDE"), _LAYERS),
    **dict.fromkeys(
        ("BBOX_XFORM_CLIP", "FPN.MULTILEVEL_ROIS", "FPN.MULTILEVEL_RPN", "FPN.ROI_CANONICAL_LEVEL",
         "FPN.ROI_CANONICAL_SCALE", "FPN.ROI_MAX_LEVEL", "FPN.ROI_MIN_LEVEL", "FPN.RPN_COLLECT_SCALE",
         "FPN.RPN_MAX_LEVEL", "FPN.RPN_MIN_LEVEL", "FPN.EXTRA_CONV_LEVELS", "MODEL.UNSUPERVISED_POSE",
         "CROP_RESIZE_WITH_MAX_POOL", "POOLING_MODE", "POOLING_SIZE", "DEDUP_BOXES", "EPS", "RFCN.PS_GRID_SIZE",
         "MRCNN.MEMORY_EFFICIENT_LOSS", "MRCNN.WEIGHT_LOSS_MASK", "KRCNN.LOSS_WEIGHT", "KRCNN.INFERENCE_MIN_SIZE",
         "KRCNN.KEYPOINT_CONFIDENCE", "KRCNN.MIN_KEYPOINT_COUNT_FOR_VALID_MINIBATCH", "KRCNN.NMS_OKS",
         "TEST.BBOX_REG", "TEST.RPN_MIN_SIZE", "TRAIN.RPN_NMS_THRESH", "TRAIN.RPN_STRADDLE_THRESH",
         "TRAIN.BBOX_INSIDE_WEIGHTS", "TRAIN.BBOX_NORMALIZE_MEANS", "TRAIN.BBOX_NORMALIZE_STDS",
         "TRAIN.BBOX_NORMALIZE_TARGETS", "TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED", "TRAIN.BBOX_THRESH",
         "TRAIN.FREEZE_CONV_BODY", "TRAIN.FREEZE_AT", "TRAIN.GT_MIN_AREA", "TEST.CLASS_SPECIFIC_AR",
         "TEST.BBOX_VOTE.SCORING_METHOD_BETA"), _SAME),
    **dict.fromkeys(
        (f"TEST.{kind}_AUG.{name}" for kind in ("BBOX", "MASK", "KPS")
         for name in ("AREA_TH", "AREA_TH_HI", "AREA_TH_LO", "ASPECT_RATIOS", "ASPECT_RATIO_H_FLIP", "COORD_HEUR",
                      "ENABLED", "HEUR", "H_FLIP", "MAX_SIZE", "SCALES", "SCALE_H_FLIP", "SCALE_SIZE_DEP",
                      "SCORE_HEUR")), _VIEWS),
    **dict.fromkeys(
        ("TEST.PRECOMPUTED_PROPOSALS", "TEST.PROPOSAL_FILES", "TEST.PROPOSAL_LIMIT", "TRAIN.PROPOSAL_FILES",
         "TEST.GENERATE_PROPOSALS_ON_GPU", "TRAIN.GENERATE_PROPOSALS_ON_GPU"), _PROPOSALS),
    **dict.fromkeys(
        ("CLUSTER.ON_CLUSTER", "CUDA", "DATA_DIR", "DATA_LOADER.BLOBS_QUEUE_CAPACITY", "DATA_LOADER.NUM_THREADS",
         "DATA_LOADER.MINIBATCH_QUEUE_SIZE", "DEBUG", "DOWNLOAD_CACHE", "EXPECTED_RESULTS", "EXPECTED_RESULTS_ATOL",
         "EXPECTED_RESULTS_EMAIL", "EXPECTED_RESULTS_RTOL", "EXPECTED_RESULTS_SIGMA_TOL", "MATLAB", "MEMONGER",
         "MEMONGER_SHARE_ACTIVATIONS", "MODEL.EXECUTION_TYPE", "OUTPUT_DIR", "PYTORCH_VERSION_LESS_THAN_040",
         "ROOT_DIR", "TEST.COMPETITION_MODE", "TEST.FORCE_JSON_DATASET_EVAL", "TRAIN.SNAPSHOT_ITERS", "USE_NCCL",
         "VIS", "VIS_TH"), _MACHINE),
    **dict.fromkeys(
        (f"RETINANET.{name}" for name in
         ("ANCHOR_SCALE", "ASPECT_RATIOS", "BBOX_REG_BETA", "BBOX_REG_WEIGHT", "CLASS_SPECIFIC_BBOX", "INFERENCE_TH",
          "LOSS_ALPHA", "LOSS_GAMMA", "NEGATIVE_OVERLAP", "NUM_CONVS", "POSITIVE_OVERLAP", "PRE_NMS_TOP_N",
          "PRIOR_PROB", "SCALES_PER_OCTAVE", "SHARE_CLS_BBOX_TOWER", "SOFTMAX")), "there is no RetinaNet here"),
}  # fmt: skip
"""The options that are known and not carried over, with the reason."""

_KINDS = {bool: "True or False", int: "a whole number from 0", float: "a number", str: "a text", list: "a list"}
_SECTIONS = {name.partition(".")[0] for name in {**DEFAULTS, **NO_EFFECT} if "." in name}


class Options(Mapping[str, Any]):
    """The options of a file over the defaults, by dotted name.

    Args:
        given: Those of the file.
        places: Where they were written.
        file: Name of the file.
    """

    def __init__(
        self, given: Mapping[str, Any], places: Mapping[str, Place | None] | None = None, file: str = ""
    ) -> None:
        self.given, self.places, self.file = dict(given), dict(places or {}), file

    def __getitem__(self, name: str) -> Any:
        return self.given.get(name, DEFAULTS[name])

    def __iter__(self) -> Iterator[str]:
        return iter(DEFAULTS)

    def __len__(self) -> int:
        return len(DEFAULTS)

    def notes(self) -> list[str]:
        """Return a line for each option of the file that has no effect."""
        # Of the data set of training the year is read, so that it has a default.
        named = (name for name in self.given if name not in DEFAULTS or name == "TRAIN.DATASETS")
        unread = {name: NO_EFFECT[name] for name in named if name in NO_EFFECT}
        return [f"{self._where(name)}{name}={summarize(self.given[name])}: {why}" for name, why in unread.items()]

    def problem(self, name: str, message: str, hint: str = "") -> ConfigError:
        """Return the error of an option that cannot be carried over."""
        place = self.places.get(name)
        return ConfigError(Problem(message, name, str(place) if place else "", hint))

    def _where(self, name: str) -> str:
        place = self.places.get(name)
        return f"{place.file}:{place.line}: " if place else ""


def is_detectron(mapping: Mapping[str, Any]) -> bool:
    """Whether a config is one of Detectron's: its sections are, and it names a body."""
    model = mapping.get("MODEL")
    return isinstance(model, Mapping) and bool({"CONV_BODY", "TYPE"} & model.keys())


def read_options(path: Path) -> Options:
    """Read a YAML file.

    Raises:
        ConfigError: It is no YAML, or has an unknown option, with file and line.
    """
    problems: list[Problem] = []
    mapping = read_file(path, str(path), problems)
    if mapping is None or problems:
        raise ConfigError(problems)
    return options_of(mapping, str(path))


def options_of(mapping: MarkedDict, file: str = "") -> Options:
    """Return the options of a file that was read.

    Raises:
        ConfigError: An option is unknown, or its value of another type than its default.
    """
    found: dict[str, Any] = {}
    places: dict[str, Place | None] = {}
    problems: list[Problem] = []

    def collect(part: Mapping[str, Any], prefix: str) -> None:
        for key, value in part.items():
            name = f"{prefix}{key}"
            if isinstance(value, Mapping) and (prefix or key in _SECTIONS):
                collect(value, f"{name}.")
            elif name in DEFAULTS or name in NO_EFFECT:
                found[name] = _literal(value)
                places[name] = getattr(part, "places", {}).get(key)
                if not _fits(found[name], DEFAULTS.get(name)):
                    message = f"must be {_KINDS[type(DEFAULTS[name])]}, not {summarize(value)}"
                    problems.append(Problem(message, name, place_of(part, key)))
            else:
                hint = suggest(name, {**DEFAULTS, **NO_EFFECT})
                problems.append(Problem("Detectron has no option of this name", name, place_of(part, key), hint))

    collect(mapping, "")
    if problems:
        raise ConfigError(problems)
    return Options(found, places, file)


def _literal(value: Any) -> Any:
    """Return a value as Detectron reads it: a text that is a Python literal, such as ``(800,)``, as that."""
    if not isinstance(value, str):
        return value
    try:
        found = ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value
    return list(found) if isinstance(found, tuple) else found


def _fits(value: Any, default: Any) -> bool:
    """Whether a value is of the type of a default; an option without one may have any."""
    if default is None:
        return True
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, float):
        return number
    return type(value) is type(default) and not (isinstance(value, int) and value < 0)
