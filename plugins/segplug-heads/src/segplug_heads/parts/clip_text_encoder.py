"""CLIP's text encoder: class names, put into prompt templates, to an embedding for each class.

Learning Transferable Visual Models From Natural Language Supervision (CLIP), Radford et al., 2021
(https://arxiv.org/abs/2103.00020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkernel.annotations import FileName, PositiveInt
from segkernel.errors import ConfigError, DataError, Problem
from segkernel.nn import FFN, LayerConfig, MultiheadAttention, build_norm, is_tracing
from segplug_heads.parts.clip_tokenizer import tokenize
from segplug_heads.parts.prompts import class_names, templates_of

LN: LayerConfig = {"type": "LN"}


class PreNormLayer(nn.Module):
    """Pre-norm transformer layer, self-attention and `FFN`: (N, L, C) -> (N, L, C).

    Unlike `segkernel.nn.TransformerEncoderLayer` it takes an attention mask, and has MMCV's state-dict keys.

    Args:
        embed_dims: C.
        num_heads: Attention heads; must divide ``embed_dims``.
        feedforward_channels: Hidden width of the `FFN`.
        num_fcs: Linear layers of the `FFN`.
        qkv_bias: Whether the projections of the attention have a bias.
        act_cfg: Activation of the `FFN`.
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
        self.ffns = nn.ModuleList([FFN(embed_dims, feedforward_channels, num_fcs=num_fcs, act_cfg=act_cfg)])
        self.norms = nn.ModuleList(build_norm(LN, embed_dims)[1] for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor | None = None, memory: Tensor | None = None) -> Tensor:
        """Return (N, L, C).

        Args:
            x: (N, L, C).
            mask: Attention mask, as `segkernel.nn.DotProductAttention` takes it.
            memory: Tokens (N, S, C) that ``x`` attends to as well as to itself; they come after it in ``mask``.
        """
        query = self.norms[0](x)
        key = query if memory is None else torch.cat([query, self.norms[0](memory)], 1)
        x = self.attentions[0](query, key, identity=x, mask=mask)
        return self.ffns[0](self.norms[1](x), identity=x)


class TextEncoder(nn.Module):
    """() -> class embeddings (K, C), or (K + 1, C) with one for the background."""

    component_group = "parts"

    def forward(self) -> Tensor:
        raise NotImplementedError


class CLIPTextEncoder(TextEncoder):
    """() -> (K, output_dims), or (K + 1, output_dims) with ``cat_bg``: embeddings times the logit scale.

    The encoder is frozen; only the embedding of the background is trained.

    Args:
        dataset_name: Dataset whose classes are encoded, such as ``coco-stuff164k``.
        vocabulary: Names of the classes, instead of a dataset.
        templates: Prompt templates with ``{}`` for the class, or the name of a set, ``vild`` or ``imagenet``. The
            embedding of a class is the mean over the templates, normalised.
        context_length: Tokens of a prompt.
        embed_dims: Channels of a token.
        output_dims: Channels of an embedding.
        vocab_size: Number of different tokens.
        num_layers: Transformer layers.
        num_heads: Attention heads of each layer; must divide ``embed_dims``.
        mlp_ratio: Hidden width of the feed-forward networks, as a multiple of ``embed_dims``.
        bias: Whether the projections of the attention have a bias.
        cache_feature: Encode the classes once, and again only after other weights were loaded.
        cat_bg: Append a trained embedding for the background.
        norm_cfg: Type of the last norm.
        features: A .npy file of embeddings (K, output_dims), as `encode` returns them, to use instead of encoding.

    Raises:
        ConfigError: Neither a dataset nor a vocabulary is given, or both, or the dataset or templates are unknown.
    """

    cache: Tensor | None

    conformance: ClassVar = {"vocabulary": ["cat", "dog"], "embed_dims": 8, "num_layers": 1, "num_heads": 2}

    def __init__(
        self,
        dataset_name: str | None = None,
        vocabulary: Sequence[str] | None = None,
        templates: str | Sequence[str] = "vild",
        context_length: PositiveInt = 77,
        embed_dims: PositiveInt = 512,
        output_dims: PositiveInt = 512,
        vocab_size: PositiveInt = 49408,
        num_layers: PositiveInt = 12,
        num_heads: PositiveInt = 8,
        mlp_ratio: PositiveInt = 4,
        bias: bool = True,
        cache_feature: bool = True,
        cat_bg: bool = True,
        norm_cfg: LayerConfig = LN,
        features: FileName | None = None,
    ) -> None:
        super().__init__()
        if (dataset_name is None) == (vocabulary is None):
            raise ConfigError(Problem("give the classes: either dataset_name or vocabulary", "vocabulary"))
        self.vocabulary = class_names(dataset_name) if dataset_name is not None else list(vocabulary or ())
        self.templates, self.context_length, self.features = templates_of(templates), context_length, features
        self.cache_feature = cache_feature
        self.cache = None
        self.positional_embedding = nn.Parameter(torch.empty(context_length, embed_dims))
        self.text_projection = nn.Parameter(torch.empty(embed_dims, output_dims))
        self.logit_scale = nn.Parameter(torch.full((), math.log(1 / 0.07)))  # CLIP's initial temperature is 0.07
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
        embeddings = self._class_embeddings()
        if self.bg_embed is not None:
            embeddings = F.normalize(torch.cat([embeddings, self.bg_embed.to(embeddings.dtype)]), dim=-1)
        return self.logit_scale.exp() * embeddings

    @torch.no_grad()
    def encode(self, vocabulary: Sequence[str]) -> Tensor:
        """Return an embedding of length 1 for each class, (len(vocabulary), output_dims)."""
        prompts = ([template.format(name) for name in vocabulary] for template in self.templates)
        return F.normalize(torch.stack([self._encode_prompts(texts) for texts in prompts]).sum(0), dim=-1)

    def _class_embeddings(self) -> Tensor:
        """Return the embeddings of the classes, cached while the weights stay the same."""
        if self.cache is not None:
            return self.cache
        device = self.text_projection.device
        # The cache outlives this call: it must be no inference tensor, which training could not use.
        with torch.inference_mode(False), torch.autocast(device.type, enabled=False):
            embeddings = self.encode(self.vocabulary) if self.features is None else self._read(self.features).to(device)
        if self.cache_feature and not is_tracing():
            self.cache = embeddings
        return embeddings

    def _encode_prompts(self, texts: Sequence[str]) -> Tensor:
        """Return an embedding of length 1 for each text, (len(texts), output_dims)."""
        # The attention is causal: no embedding depends on padding, which would be most of the 77 tokens.
        tokens = tokenize(texts, self.context_length, pad=False).to(self.text_projection.device)
        length = tokens.shape[1]
        x = self.token_embedding(tokens) + self.positional_embedding[:length]
        causal_mask = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        for layer in self.transformer:
            x = layer(x, causal_mask)
        last = x[torch.arange(len(texts), device=x.device), tokens.argmax(1)]  # the end token has the highest id
        return F.normalize(self.ln_final(last) @ self.text_projection, dim=-1)

    def _read(self, path: str | Path) -> Tensor:
        expected = (len(self.vocabulary), self.text_projection.shape[1])
        try:
            embeddings = torch.from_numpy(np.load(path, allow_pickle=False)).to(self.text_projection.dtype)
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"not an array of class embeddings: {error}", path) from error
        if embeddings.shape != expected:
            raise DataError(f"class embeddings of shape {tuple(embeddings.shape)}, not {expected}", path)
        return embeddings

    def _apply(self, *args: Any, **kwargs: Any) -> CLIPTextEncoder:
        self.cache = None  # weights move, or change their dtype
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.cache = None
        super()._load_from_state_dict(*args, **kwargs)
