"""OneFormer's text encoder: the classes in an image to text queries, which the object queries are contrasted with.

OneFormer: One Transformer to Rule Universal Image Segmentation, Jain et al., 2023 (https://arxiv.org/abs/2211.06220).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.nn import build_norm
from segplug_heads.parts.clip_text_encoder import LN, PreNormLayer
from segplug_heads.parts.clip_tokenizer import VOCABULARY, tokenize
from segplug_heads.parts.prompts import class_names

OBJECT = "a photo with a {}"
"""The text of a class that is in the image."""
PADDING = "a semantic photo"
"""The text of the entries that no class of the image takes."""


class TextQueryEncoder(nn.Module):
    """Class ids of each image -> text queries (N, num_queries, output_dims), as section 3.2 of the paper has them.

    An image has one text for each of its classes, and further ones that only name the task; learned context tokens,
    the same for all images, follow them. It takes part in training only.

    Args:
        num_queries: Number of queries, of texts and context tokens together.
        output_dims: Channels of a query.
        dataset_name: Dataset whose classes are encoded, such as ``ade20k``.
        vocabulary: Names of the classes, instead of a dataset.
        context_tokens: Learned context tokens.
        context_length: The most tokens of a text.
        embed_dims: Channels of a token of a text.
        num_layers: Transformer layers.
        vocab_size: Number of different tokens.

    Raises:
        ConfigError: Neither a dataset nor a vocabulary is given, or both, or the context tokens leave no text.
    """

    component_group = "parts"

    conformance: ClassVar = {"num_queries": 6, "output_dims": 8, "vocabulary": ["cat", "dog"], "context_tokens": 2}

    def __init__(
        self,
        num_queries: PositiveInt,
        output_dims: PositiveInt,
        dataset_name: str | None = None,
        vocabulary: Sequence[str] | None = None,
        context_tokens: PositiveInt = 16,
        context_length: PositiveInt = 77,
        embed_dims: PositiveInt = 256,
        num_layers: PositiveInt = 6,
        vocab_size: PositiveInt = VOCABULARY,
    ) -> None:
        super().__init__()
        if (dataset_name is None) == (vocabulary is None):
            raise ConfigError(Problem("give the classes: either dataset_name or vocabulary", "vocabulary"))
        if context_tokens >= num_queries:
            message = f"{context_tokens} context tokens leave no text of {num_queries} queries"
            raise ConfigError(Problem(message, "context_tokens"))
        self.vocabulary = class_names(dataset_name) if dataset_name is not None else list(vocabulary or ())
        self.num_texts, self.context_length = num_queries - context_tokens, context_length
        self.token_embedding = nn.Embedding(vocab_size, embed_dims)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, embed_dims))
        heads = max(embed_dims // 64, 1)  # CLIP's heads have 64 channels
        self.transformer = nn.ModuleList(PreNormLayer(embed_dims, heads, 4 * embed_dims) for _ in range(num_layers))
        self.ln_final = build_norm(LN, embed_dims)[1]
        self.text_projector = nn.Sequential(
            nn.Linear(embed_dims, output_dims), nn.ReLU(inplace=True), nn.Linear(output_dims, output_dims)
        )
        self.prompt_ctx = nn.Embedding(context_tokens, output_dims)
        self._init_weights(embed_dims)

    def _init_weights(self, embed_dims: int) -> None:
        """As CLIP's text encoder starts."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        residual = (2 * len(self.transformer)) ** -0.5
        layer: Any
        for layer in self.transformer:
            attention, ffn = layer.attentions[0].attn, layer.ffns[0].layers
            nn.init.normal_(attention.in_proj_weight, std=embed_dims**-0.5)
            nn.init.normal_(attention.out_proj.weight, std=embed_dims**-0.5 * residual)
            nn.init.normal_(ffn[0][0].weight, std=(2 * embed_dims) ** -0.5)
            nn.init.normal_(ffn[1].weight, std=embed_dims**-0.5 * residual)

    def forward(self, classes: Sequence[Tensor]) -> Tensor:
        """Return text queries (N, num_queries, output_dims) for the class ids (G,) in each of N images."""
        texts = [self._texts(found.tolist()) for found in classes]
        different = sorted({text for image in texts for text in image})  # most are padding: each is encoded once
        encoded = self.text_projector(self._encode(different))
        index = [[different.index(text) for text in image] for image in texts]
        context = self.prompt_ctx.weight.expand(len(texts), -1, -1)
        return torch.cat([encoded[torch.tensor(index, device=encoded.device)], context], 1)

    def _texts(self, classes: Sequence[int]) -> list[str]:
        texts = [OBJECT.format(self.vocabulary[index]) for index in classes][: self.num_texts]
        return texts + [PADDING] * (self.num_texts - len(texts))

    def _encode(self, texts: Sequence[str]) -> Tensor:
        """Return the token at the end of each text, (len(texts), embed_dims)."""
        tokens = tokenize(texts, self.context_length, pad=False).to(self.positional_embedding.device)
        length = tokens.shape[1]
        x = self.token_embedding(tokens) + self.positional_embedding[:length]
        # As CLIP, and OneFormer's authors: no token depends on the padding after it.
        causal_mask = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        for layer in self.transformer:
            x = layer(x, causal_mask)
        return self.ln_final(x)[torch.arange(len(texts), device=x.device), tokens.argmax(1)]
