"""OneFormer: queries that know the task from a text, and learn to tell the classes in an image from other texts.

OneFormer: One Transformer to Rule Universal Image Segmentation, Jain et al., 2023 (https://arxiv.org/abs/2211.06220).
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from segkernel.annotations import NonNegative, Positive
from segkernel.geometry import Size
from segkernel.interfaces.model import Features
from segkernel.interfaces.spec import Spec
from segkernel.nn import nchw_to_nlc, shares_batch
from segkernel.sample import Targets
from segplug_heads.heads.mask2former_head import Mask2FormerArguments, Mask2FormerHead
from segplug_heads.heads.mask_queries import objects_from_labels
from segplug_heads.parts.clip_tokenizer import tokenize
from segplug_heads.parts.query_transformer import Decoder, DecoderConfig
from segplug_heads.parts.text_queries import TextQueryEncoder

TASK_LENGTH = 77
"""Tokens of the text that names the task, with padding."""


class OneFormerHead(Mask2FormerHead):
    """Feature maps, finest first -> (N, num_classes, h, w) at the size of the first, as `semantic_inference` has it.

    The queries of a `Mask2FormerHead` are learned; here a transformer makes them from the mask features and from a
    token of the task, which is the last query (figure 2 of the paper). The losses are those of `Mask2FormerHead`, and
    ``loss_contrastive`` between object queries and text queries if there is a ``text_encoder``.

    Args:
        task: The task that the queries are conditioned on. Label maps train ``semantic`` only; published weights know
            all three.
        query_decoder: Arguments of the `Decoder` that makes the queries.
        text_encoder: Makes text queries of the classes in an image, in training; None trains without, and for
            inference it is not needed.
        contrastive_weight: Factor of ``loss_contrastive``.
        contrastive_temperature: Initial temperature of ``loss_contrastive``.
        **kwargs: Arguments of `Mask2FormerHead`.

    Raises:
        ConfigError: The arguments do not fit together.
    """

    conformance: ClassVar = {
        **Mask2FormerHead.conformance,
        "query_decoder": {
            "num_layers": 1,
            "layer_cfg": {
                "self_attn_cfg": {"embed_dims": 16, "num_heads": 2},
                "cross_attn_cfg": {"embed_dims": 16, "num_heads": 2},
                "ffn_cfg": {"embed_dims": 16, "feedforward_channels": 16},
            },
        },
        "text_encoder": {
            "type": "TextQueryEncoder",
            "vocabulary": ["cat", "dog", "road", "car"],
            "context_tokens": 2,
            "embed_dims": 8,
            "num_layers": 1,
        },
    }

    def __init__(
        self,
        task: Literal["semantic", "instance", "panoptic"] = "semantic",
        query_decoder: DecoderConfig = {"num_layers": 2},  # noqa: B006  never changed
        text_encoder: Spec[TextQueryEncoder] | None = None,
        contrastive_weight: NonNegative = 0.5,
        contrastive_temperature: Positive = 0.07,
        **kwargs: Unpack[Mask2FormerArguments],
    ) -> None:
        super().__init__(**kwargs)
        channels = kwargs["feat_channels"]
        del self.query_feat  # the query decoder takes its place
        self.task_tokens: Tensor
        self.register_buffer("task_tokens", tokenize([f"the task is {task}"], TASK_LENGTH).float(), persistent=False)
        self.task_mlp = nn.Sequential(
            nn.Linear(TASK_LENGTH, channels), nn.ReLU(inplace=True), nn.Linear(channels, channels)
        )
        self.query_decoder = Decoder(**query_decoder)
        self.query_input_proj = nn.Conv2d(kwargs["out_channels"], channels, 1)
        self.text_encoder = self.loss_contrastive = None
        if text_encoder is not None:
            self.text_encoder = text_encoder(num_queries=self.num_queries, output_dims=channels)
            self.loss_contrastive = QueryTextContrast(contrastive_temperature, contrastive_weight)

    def initial_queries(self, mask_features: Tensor) -> Tensor:
        batch = mask_features.shape[0]
        # As published, the numbers of the tokens themselves, not embeddings of them, are what the perceptron takes.
        task = self.transformer_decoder.post_norm(self.task_mlp(self.task_tokens)).expand(batch, -1).unsqueeze(1)
        objects = task.expand(-1, self.num_queries - 1, -1)
        object_pos = self.query_embed.weight[:-1].expand(batch, -1, -1)
        # And the position encoding is the memory, the mask features are what is added to it as its positions.
        memory = self.decoder_positional_encoding(mask_features).expand(batch, -1, -1)
        memory_pos = nchw_to_nlc(self.query_input_proj(mask_features))
        *_, objects = self.query_decoder(objects, object_pos, memory, memory_pos)
        return torch.cat([objects, task], 1)

    def single_pass(
        self, features: Features, targets: Targets, size: Size | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        mask_features, memories = self.pixel_decoder(self.select(features))
        query = self.initial_queries(mask_features)
        layers = list(zip(*self.decode(query, mask_features, memories), strict=True))
        losses = self.layer_losses(layers, targets)
        if self.text_encoder is not None and self.loss_contrastive is not None:
            classes = [objects_from_labels(labels, self.ignore_index).labels for labels in targets["seg"]]
            losses["loss_contrastive"] = self.loss_contrastive(query, self.text_encoder(classes))
        return self.scores(*layers[-1], size), losses


class QueryTextContrast(nn.Module):
    """Contrastive loss of object queries and text queries: those of one image are alike, those of two images are not.

    Object queries (N, Q, C) and text queries (N, Q, C) -> scalar (equation 1 of the paper). The images of all ranks are
    contrasted.

    Args:
        temperature: Initial temperature; it is trained.
        loss_weight: Factor of the result.
    """

    def __init__(self, temperature: float, loss_weight: float) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))

    def forward(self, objects: Tensor, texts: Tensor) -> Tensor:
        objects, texts = (F.normalize(queries.flatten(1).float(), dim=1) for queries in (objects, texts))
        scale = self.logit_scale.exp().clamp(max=100)  # CLIP's limit
        target = torch.arange(len(objects), device=objects.device) + _first_image(len(objects))
        loss = F.cross_entropy(scale * objects @ _of_all_ranks(texts).T, target)
        loss = loss + F.cross_entropy(scale * texts @ _of_all_ranks(objects).T, target)
        return self.loss_weight * loss


def _of_all_ranks(rows: Tensor) -> Tensor:
    """Return the rows of all ranks, with their gradients; each rank must have equally many."""
    if not shares_batch():
        return rows
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(rows))


def _first_image(batch: int) -> int:
    """Return the index of this rank's first image among those of all ranks."""
    return batch * distributed.get_rank() if shares_batch() else 0
