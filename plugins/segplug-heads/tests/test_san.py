"""SAN and CLIP's text encoder: behaviour that the kit and the golden cases do not cover."""

from __future__ import annotations

import copy
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segkernel import build
from segkernel.errors import CheckpointError, ConfigError, DataError, UsageError
from segkernel.sample import Targets
from segplug_heads import CLIPTextEncoder, MultimodalEncoderDecoder
from segplug_heads.parts import clip_tokenizer
from segplug_heads.parts.clip_tokenizer import encode, tokenize
from segplug_heads.parts.prompts import class_names

SMALL = {"embed_dims": 8, "output_dims": 8, "num_layers": 1, "num_heads": 2, "templates": ["a photo of a {}."]}


def encoder(**more: Any) -> CLIPTextEncoder:
    torch.manual_seed(0)
    return build("parts", {"type": "CLIPTextEncoder", **SMALL, **more})


def segmentor(**more: Any) -> MultimodalEncoderDecoder:
    torch.manual_seed(0)
    cfg = copy.deepcopy(MultimodalEncoderDecoder.conformance)
    for key, value in more.items():
        cfg[key] = {**cfg[key], **value} if isinstance(value, dict) else value
    return build("segmentors", {"type": "MultimodalEncoderDecoder", **cfg})


def test_tokens_are_those_of_clip() -> None:
    assert tokenize(["a photo of a cat."], 9).tolist() == [[49406, 320, 1125, 539, 320, 2368, 269, 49407, 0]]
    assert encode("A   Photo") == encode("a photo") == [320, 1125]
    assert encode("") == []


@pytest.fixture
def merges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put a table of two merges where the authors' is kept."""
    file = tmp_path / "merges.txt.gz"
    file.write_bytes(gzip.compress(b"#version\nz q\nzq z</w>\n"))
    monkeypatch.setattr(clip_tokenizer, "locate", lambda address: file)
    for cached in (clip_tokenizer._tables, clip_tokenizer._tokens_of):
        cached.cache_clear()
    yield
    for cached in (clip_tokenizer._tables, clip_tokenizer._tokens_of):
        cached.cache_clear()


def test_other_words_are_joined_pair_by_pair(merges: None) -> None:
    letters = list(clip_tokenizer._symbols().values())
    z, end = letters.index("z"), 256 + letters.index("z")
    assert encode("zqz") == [513]
    assert encode("zz") == [z, end]
    assert encode("zqq") == [512, 256 + letters.index("q")]


def test_other_words_ask_for_the_table_of_merges_with_its_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: str) -> None:
        raise CheckpointError(f"{address}: no network")

    monkeypatch.setattr(clip_tokenizer, "locate", refuse)
    clip_tokenizer._tables.cache_clear()
    with pytest.raises(CheckpointError, match=r"bpe_simple_vocab_16e6.txt.gz#sha256=[0-9a-f]{64}: no network"):
        encode("zyzzyva")


def test_a_text_that_is_too_long_is_refused() -> None:
    with pytest.raises(UsageError, match="has 12 tokens, more than 8"):
        tokenize(["cat " * 10], 8)


def test_class_names_of_data_sets_are_known_here() -> None:
    assert len(class_names("coco-stuff164k")) == len(class_names("COCO_Stuff")) == 171
    assert len(class_names("pascal_context")) == 59
    assert "background" not in class_names("voc12aug")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "either dataset_name or vocabulary"),
        ({"dataset_name": "voc", "vocabulary": ["cat"]}, "either dataset_name or vocabulary"),
        ({"dataset_name": "pascal_contest"}, "did you mean 'pascalcontext'"),
        ({"vocabulary": ["cat"], "templates": "vlid"}, "there are vild, imagenet"),
        ({"vocabulary": ["cat"], "templates": ["a photo"]}, "has no {}"),
    ],
)
def test_classes_that_are_not_known_are_refused(more: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        encoder(**more)


def test_classes_are_encoded_once_until_other_weights_come() -> None:
    text = encoder(vocabulary=["cat", "dog"])
    with torch.inference_mode():
        first = text()
    text().sum().backward()  # what was kept is no inference tensor
    assert text.bg_embed.grad is not None
    kept = text.cache
    assert torch.equal(text(), first)
    assert text.cache is kept
    other = {key: torch.randn_like(value) for key, value in text.state_dict().items()}
    text.load_state_dict(other)
    assert not torch.allclose(text(), first)
    assert encoder(vocabulary=["cat"], cache_feature=False, cat_bg=False)().shape == (1, 8)


def test_vectors_may_come_from_a_file(tmp_path: Path) -> None:
    text = encoder(vocabulary=["cat", "dog"])
    path = tmp_path / "vectors.npy"
    np.save(path, text.encode(["cat", "dog"]).numpy())
    assert torch.equal(encoder(vocabulary=["cat", "dog"], features=str(path))(), text())
    with pytest.raises(DataError, match=r"not \(3, 8\)"):
        encoder(vocabulary=["cat", "dog", "cow"], features=str(path))()
    with pytest.raises(DataError, match="not an array of class embeddings"):
        encoder(vocabulary=["cat"], features=str(tmp_path / "none.npy"))()


@pytest.mark.parametrize("cross_attn", [False, True])
@pytest.mark.parametrize("token", ["cls_token", "learnable_token", "pos_embedding"])
def test_every_kind_of_token_learns(token: str, cross_attn: bool) -> None:
    maskgen = {
        **MultimodalEncoderDecoder.conformance["decode_head"]["maskgen_cfg"],
        "sos_token_format": token,
        "cross_attn": cross_attn,
        "num_layers": 2,
    }
    model = segmentor(decode_head={"maskgen_cfg": maskgen})
    labels = torch.randint(0, 4, (2, 64, 96))
    losses = model.loss(torch.rand(2, 3, 64, 96), Targets({"seg": labels}))
    assert sorted(losses) == [f"decode.{layer}loss_{name}" for layer in ("d1.", "") for name in NAMES]
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    frozen = [name for name, p in model.decode_head.rec_with_attnbias.named_parameters() if p.requires_grad]
    assert frozen == ([] if token == "cls_token" else ["sos_token"])


NAMES = ("cls_ce", "mask_ce", "mask_dice")


def test_an_image_without_labels_trains_the_no_object_class() -> None:
    losses = segmentor().loss(torch.rand(2, 3, 64, 64), Targets({"seg": torch.full((2, 64, 64), 255)}))
    assert losses["decode.loss_cls_ce"] > 0
    assert losses["decode.loss_mask_ce"] == losses["decode.loss_mask_dice"] == 0


def test_a_symmetric_input_and_a_size() -> None:
    model = segmentor(asymetric_input=False).eval()
    assert model.predict(torch.rand(1, 3, 65, 97))["seg"].shape == (1, 4, 65, 97)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"encoder_resolution": None}, "encoder_resolution"),
        ({"decode_head": {"maskgen_cfg": {"sos_token_num": 5}}}, "5 tokens for 6 mask proposals"),
        ({"decode_head": {"loss_decode": {"type": "DiceLoss"}}}, "begins neither with loss_cls nor with loss_mask"),
        ({"decode_head": {"san_cfg": {"num_queries": 6, "fusion_index": [0, 9]}}}, "fusion_index"),
    ],
)
def test_incompatible_arguments_are_refused(more: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        segmentor(**more)


def test_a_vocabulary_of_another_size_is_refused() -> None:
    model = segmentor(text_encoder={"vocabulary": ["cat", "dog"]})
    with pytest.raises(ConfigError, match="3 class embeddings for 4 classes"):
        model(torch.rand(1, 3, 64, 64))
