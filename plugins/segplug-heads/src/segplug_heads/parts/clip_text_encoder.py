"""CLIP's text encoder: class names, put into sentences, to a vector for each class.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision (CLIP), 2021.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkernel.errors import ConfigError, DataError, Problem
from segkernel.nn import FFN, LayerConfig, MultiheadAttention, build_norm
from segkernel.nn.pool import is_tracing
from segplug_heads.parts.clip_tokenizer import tokenize
from segplug_heads.parts.prompts import class_names, templates_of

LN: LayerConfig = {"type": "LN"}


class PreNormLayer(nn.Module):
    """Self-attention and `FFN`, each after a norm: (N, L, C) -> (N, L, C).

    Args:
        embed_dims: C.
        num_heads: Parts that C is cut into.
        feedforward_channels: Width of the `FFN`.
        num_fcs: Fully connected layers of the `FFN`.
        qkv_bias: Whether the projections of the attention have a bias.
        act_cfg: Kind of activation.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        num_fcs: int = 2,
        qkv_bias: bool = True,
        act_cfg: LayerConfig = {"type": "QuickGELU"},  # noqa: B006  never changed
    ) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([MultiheadAttention(embed_dims, num_heads, qkv_bias=qkv_bias)])
        self.ffns = nn.ModuleList([FFN(embed_dims, feedforward_channels, num_fcs, act_cfg)])
        self.norms = nn.ModuleList(build_norm(LN, embed_dims)[1] for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.attentions[0](self.norms[0](x), identity=x, mask=mask)
        return self.ffns[0](self.norms[1](x), identity=x)


class TextEncoder(nn.Module):
    """A vector for each class, and perhaps one for what is none of them: () -> (K, C)."""

    component_group = "parts"

    def forward(self) -> Tensor:
        raise NotImplementedError


class CLIPTextEncoder(TextEncoder):
    """() -> (K, output_dims), or (K + 1, output_dims) with ``cat_bg``, scaled for a softmax of likenesses.

    Only the vector for the background learns.

    Args:
        dataset_name: The data set whose classes are encoded: ``coco-stuff164k``.
        vocabulary: The classes themselves, instead.
        templates: Sentences with a gap, ``{}``, for the class, or the name of a set: ``vild`` or ``imagenet``. The
            vector of a class is the mean over the sentences.
        context_length: Tokens of a sentence.
        embed_dims: Channels of the transformer.
        output_dims: C.
        vocab_size: Number of different tokens.
        num_layers: Layers of the transformer.
        num_heads: Attention heads of each.
        mlp_ratio: Width of the feed-forward layers, times ``embed_dims``.
        bias: Whether the projections of the attention have a bias.
        cache_feature: Encode the classes once, and again only when other weights are loaded.
        cat_bg: Add a vector, which learns, for what is none of the classes.
        norm_cfg: Kind of the last norm.
        features: A .npy file (K, output_dims) of vectors, as `encode` gives them; nothing is encoded then.

    Raises:
        ConfigError: Neither a data set nor a vocabulary is given, or both, or something unknown.
    """

    conformance: ClassVar = {"vocabulary": ["cat", "dog"], "embed_dims": 8, "num_layers": 1, "num_heads": 2}

    def __init__(
        self,
        dataset_name: str | None = None,
        vocabulary: Sequence[str] | None = None,
        templates: str | Sequence[str] = "vild",
        context_length: int = 77,
        embed_dims: int = 512,
        output_dims: int = 512,
        vocab_size: int = 49408,
        num_layers: int = 12,
        num_heads: int = 8,
        mlp_ratio: int = 4,
        bias: bool = True,
        cache_feature: bool = True,
        cat_bg: bool = True,
        norm_cfg: LayerConfig = LN,
        features: str | None = None,
    ) -> None:
        super().__init__()
        if (dataset_name is None) == (vocabulary is None):
            raise ConfigError(Problem("give the classes: either dataset_name or vocabulary", "vocabulary"))
        self.vocabulary = class_names(dataset_name) if dataset_name is not None else list(vocabulary or ())
        self.templates, self.context_length, self.features = templates_of(templates), context_length, features
        self.cache_feature, self.cache = cache_feature, None
        self.positional_embedding = nn.Parameter(torch.empty(context_length, embed_dims))
        self.text_projection = nn.Parameter(torch.empty(embed_dims, output_dims))
        self.logit_scale = nn.Parameter(torch.full((), math.log(1 / 0.07)))
        self.token_embedding = nn.Embedding(vocab_size, embed_dims)
        self.transformer = nn.ModuleList(
            PreNormLayer(embed_dims, num_heads, mlp_ratio * embed_dims, qkv_bias=bias) for _ in range(num_layers)
        )
        self.ln_final = build_norm(norm_cfg, embed_dims)[1]
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=embed_dims**-0.5)
        self.requires_grad_(False)
        self.bg_embed = nn.Parameter(torch.randn(1, output_dims)) if cat_bg else None

    def forward(self) -> Tensor:
        vectors = self._vectors()
        if self.bg_embed is not None:
            vectors = F.normalize(torch.cat([vectors, self.bg_embed.to(vectors.dtype)]), dim=-1)
        return self.logit_scale.exp() * vectors

    @torch.no_grad()
    def encode(self, vocabulary: Sequence[str]) -> Tensor:
        """Return a vector of length 1 for each class (len(vocabulary), output_dims)."""
        total = sum(self._sentences([template.format(name) for name in vocabulary]) for template in self.templates)
        return F.normalize(total, dim=-1)

    def _vectors(self) -> Tensor:
        """Return the classes' vectors, those of last time if the weights are still the same."""
        if self.cache is not None:
            return self.cache
        device = self.text_projection.device
        with torch.inference_mode(False), torch.autocast(device.type, enabled=False):
            vectors = self.encode(self.vocabulary) if self.features is None else self._read(self.features).to(device)
        if self.cache_feature and not is_tracing():
            self.cache = vectors
        return vectors

    def _sentences(self, texts: Sequence[str]) -> Tensor:
        """Return a vector of length 1 for each text."""
        tokens = tokenize(texts, self.context_length).to(self.text_projection.device)
        x = self.token_embedding(tokens) + self.positional_embedding
        seen = torch.ones(self.context_length, self.context_length, dtype=torch.bool, device=x.device).tril()
        for layer in self.transformer:
            x = layer(x, seen)
        last = x[torch.arange(len(texts), device=x.device), tokens.argmax(1)]  # the end has the highest number
        return F.normalize(self.ln_final(last) @ self.text_projection, dim=-1)

    def _read(self, path: str) -> Tensor:
        wanted = (len(self.vocabulary), self.text_projection.shape[1])
        try:
            vectors = torch.from_numpy(np.load(path, allow_pickle=False)).to(self.text_projection.dtype)
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"no vectors of classes: {error}", path) from error
        if vectors.shape != wanted:
            raise DataError(f"vectors of the shape {tuple(vectors.shape)}, not {wanted}", path)
        return vectors

    def _apply(self, *args: Any, **kwargs: Any) -> CLIPTextEncoder:
        self.cache = None  # they move, or become another type
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.cache = None
        super()._load_from_state_dict(*args, **kwargs)
