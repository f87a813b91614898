"""The weights, inputs and labels of the golden cases.

A weight depends only on its key and shape, so that two frameworks with the same keys have the same model.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import Tensor

BUILT = {"relative_position_index", "relative_coords_table", "attn_mask", "laplacian_kernel", "fusion_kernel"}
LAYER_SCALES = {"gamma", "gamma_1", "gamma_2", "gamma1", "gamma2"}
EMBEDDINGS = (
    "pos_embed", "position_embed", "positional_embedding", "relative_position_bias_table", "cls_token", "cls_emb",
    "sos_token", "mask_token", "query_embed", "query_feat", "query_pos_embed", "level_embed", "level_encoding",
    "token_embedding", "class_embedding", "bg_embed",
)  # fmt: skip

KEPT = 3_000_000
"""Weights with fewer values are drawn once and cached: many models share the same ResNet, but no larger weights."""


def fill(state: Mapping[str, Tensor], keep: Collection[str] = (), norm_gain: float = 1.0) -> dict[str, Tensor]:
    """Return a state dict with the keys, shapes and types of ``state`` and the golden values.

    Args:
        state: Keys, shapes, types, and the values of what is not drawn.
        keep: Keys that keep their values.
        norm_gain: Factor of the scales of norms, for families whose activations would grow without bound.
    """
    return {key: value.clone() if key in keep else _filled(key, value, norm_gain) for key, value in state.items()}


def inputs(shape: tuple[int, ...], seed: int = 1234) -> Tensor:
    """Return the already normalised images."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def labels(classes: int, batch: int, height: int, width: int, *, band: bool = True, seed: int = 4321) -> Tensor:
    """Return class ids (N, H, W); the ten columns on the left are ignored with a ``band``."""
    ids = np.random.RandomState(seed).randint(0, classes, (batch, height, width)).astype(np.int64)
    if band:
        ids[:, :, :10] = 255
    return torch.from_numpy(ids)


def edges(batch: int, height: int, width: int) -> Tensor:
    """Return a border map (N, H, W) of 0 and 1."""
    return torch.from_numpy((np.random.RandomState(777).uniform(size=(batch, height, width)) < 0.1).astype(np.int64))


def gradient_probe(index: int, shape: tuple[int, ...]) -> Tensor:
    """Return the weights of an output in ``sum(mean(output * weights))``, the scalar of models without labels."""
    return torch.from_numpy(np.random.RandomState(2024 + index).standard_normal(shape).astype(np.float32))


def fingerprint(values: Tensor) -> float:
    """Return one number that depends on every element: the projection on a random direction."""
    direction = np.random.RandomState(99).standard_normal(tuple(values.shape))
    return float((values.double().numpy() * direction).sum() / np.linalg.norm(direction))


def _filled(key: str, value: Tensor, norm_gain: float) -> Tensor:
    leaf = key.rsplit(".", 1)[-1].lower()
    if not value.is_floating_point():
        return torch.zeros_like(value) if leaf == "num_batches_tracked" else value.clone()
    if leaf in BUILT:
        return value.clone()
    drawn = _draw_and_keep if value.numel() < KEPT else _draw
    filled, shape = drawn(key, tuple(value.shape), value.dtype), tuple(value.shape)
    is_norm_weight = leaf != "running_var" and _scale_and_shift(key, leaf, shape)[1] == 1.0
    return filled * norm_gain if is_norm_weight and norm_gain != 1.0 else filled


@functools.lru_cache(maxsize=512)
def _draw_and_keep(key: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return _draw(key, shape, dtype)


def _draw(key: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    values = _values(key, key.rsplit(".", 1)[-1].lower(), shape)
    return torch.as_tensor(np.asarray(values, np.float64)).to(dtype).reshape(shape)


def _values(key: str, leaf: str, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.RandomState(zlib.crc32(key.encode()))
    if leaf == "running_var":
        return random.uniform(0.5, 1.5, shape)
    normal = np.asarray(random.standard_normal(shape))
    scale, shift = _scale_and_shift(key, leaf, shape)
    normal *= scale  # in place: some models have hundreds of millions
    normal += shift
    return normal


def _scale_and_shift(key: str, leaf: str, shape: tuple[int, ...]) -> tuple[float, float]:
    if leaf == "running_mean":
        return 0.1, 0.0
    if "layer_scale" in key or (leaf in LAYER_SCALES and len(shape) == 1):
        return 0.01, 0.1
    if any(name in key for name in EMBEDDINGS):
        return 0.02, 0.0
    if len(shape) >= 2:
        return float(np.sqrt(1.0 / np.prod(shape[1:]))), 0.0
    return 0.1, 1.0 if leaf.endswith(("weight", "gamma", "scale")) else 0.0
