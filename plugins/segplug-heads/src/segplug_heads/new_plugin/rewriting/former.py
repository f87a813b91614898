"""Names of mmcv, mmengine, mmseg and timm in Python code, and what takes their place.

Names of components in configs are in `segplug_heads.former_names`.
"""

from __future__ import annotations

import ast
import functools

from segplug_heads.new_plugin.package import read_template

PACKAGES = ("mmcv", "mmengine", "mmseg", "mmdet", "mmcls", "mmpretrain", "mmcv_custom", "mmseg_custom", "timm")
"""Packages whose names are looked up here; relative imports are, too."""

REGISTRIES = {
    "BACKBONES": "backbones", "NECKS": "necks", "HEADS": "heads", "LOSSES": "losses", "SEGMENTORS": "segmentors",
    "DATASETS": "datasets", "PIPELINES": "transforms", "TRANSFORMS": "transforms", "METRICS": "metrics",
    "HOOKS": "hooks", "OPTIMIZERS": "optimizers", "MODELS": "", "NORM_LAYERS": "layers", "CONV_LAYERS": "layers",
    "ACTIVATION_LAYERS": "layers", "UPSAMPLE_LAYERS": "layers", "PLUGIN_LAYERS": "layers", "ATTENTION": "layers",
    "TRANSFORMER_LAYER": "layers", "PIXEL_SAMPLERS": "parts", "TASK_UTILS": "parts",
}  # fmt: skip
"""Registries of 0.x and 1.x, and the entry-point group of their classes; empty where the class decides."""

NN, MODEL = "segkernel.nn", "segkernel.interfaces.model"

EQUIVALENTS = {
    "BaseDecodeHead": (NN, "DecodeHead"), "BaseCascadeDecodeHead": (NN, "CascadeDecodeHead"),
    "BasePixelSampler": (NN, "PixelSampler"), "PPM": (NN, "PyramidPooling"),
    "build_norm_layer": (NN, "build_norm"), "build_conv_layer": (NN, "build_conv"),
    "build_activation_layer": (NN, "build_activation"), "build_upsample_layer": (NN, "build_upsample"),
    "build_plugin_layer": (NN, "build_plugin"), "build_dropout": (NN, "build_dropout"),
    "ConvModule": (NN, "ConvModule"), "DepthwiseSeparableConvModule": (NN, "DepthwiseSeparableConvModule"),
    "NonLocal2d": (NN, "NonLocal2d"), "ContextBlock": (NN, "ContextBlock"), "DropPath": (NN, "DropPath"),
    "drop_path": (NN, "drop_path"), "PatchEmbed": (NN, "PatchEmbed"), "AdaptivePadding": (NN, "AdaptivePadding"),
    "FFN": (NN, "FFN"), "resize": (NN, "resize"),
    "nchw_to_nlc": (NN, "nchw_to_nlc"), "nlc_to_nchw": (NN, "nlc_to_nchw"),
    "accuracy": (NN, "accuracy"), "DeformConv2dPack": (NN, "DeformConv2d"),
    "ModulatedDeformConv2dPack": (NN, "ModulatedDeformConv2d"), "reduce_loss": (NN, "reduce_loss"),
    "trunc_normal_": ("torch.nn.init", "trunc_normal_"), "_BatchNorm": ("torch.nn.modules.batchnorm", "_BatchNorm"),
    "SyncBatchNorm": (NN, "SyncBatchNorm2d"), "Conv2d": ("torch.nn", "Conv2d"), "Linear": ("torch.nn", "Linear"),
    "ConvTranspose2d": ("torch.nn", "ConvTranspose2d"), "MaxPool2d": ("torch.nn", "MaxPool2d"),
    "Upsample": ("torch.nn", "Upsample"),
}  # fmt: skip
"""Names with an equivalent that is called in the same way."""

DROPPED = ("force_fp32", "auto_fp16", "deprecated_api_warning", "master_only")
"""Decorators without effect here: engines choose the precision."""

INTERFACES = {"backbones": "Backbone", "necks": "Neck", "heads": "Head", "losses": "Loss", "segmentors": "Segmentor"}

HEAD_ARGUMENTS = (
    *("in_channels", "channels", "num_classes", "out_channels", "threshold", "dropout_ratio", "conv_cfg", "norm_cfg"),
    *("act_cfg", "in_index", "input_transform", "loss_decode", "ignore_index", "sampler", "align_corners", "task"),
)
"""The arguments of ``DecodeHead``."""


@functools.cache
def shims() -> frozenset[str]:
    """Return the names that ``templates/src/former.py`` defines."""
    return frozenset(name for node in ast.parse(read_template("src/former.py")).body for name in _defined(node))


def shim_module(names: set[str]) -> str:
    """Return the text of ``former.py`` with these names, what they use, and its imports."""
    text = read_template("src/former.py")
    tree = ast.parse(text)
    parts = {name: node for node in tree.body for name in _defined(node)}
    needed, open_names = set[str](), set(names)
    while open_names:
        name = open_names.pop()
        needed.add(name)
        used = {node.id for node in ast.walk(parts[name]) if isinstance(node, ast.Name)}
        open_names |= (used & parts.keys()) - needed
    kept = [node for node in tree.body if not (defined := _defined(node)) or defined & needed]
    used = {node.id for part in kept for node in ast.walk(part) if isinstance(node, ast.Name)}
    lines = text.splitlines()
    chunks: list[str] = []
    for node in kept:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names_of = [alias.name for alias in node.names if alias.name in used]
            if getattr(node, "module", "") == "__future__":
                chunks.append(ast.unparse(node) + "\n")
            elif names_of and isinstance(node, ast.ImportFrom):
                chunks.append(f"from {node.module} import {', '.join(names_of)}")
            elif names_of:
                chunks.append(f"import {names_of[0]}")
        else:
            first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])
            gap = "\n" if isinstance(node, ast.ClassDef | ast.FunctionDef) else ""
            chunks.append(f"{gap}\n" * bool(chunks) + "\n".join(lines[first - 1 : node.end_lineno]))
    return "\n".join(chunks) + "\n"


def _defined(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    return set()
