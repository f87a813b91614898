"""CLIP's tokenizer: byte pair encoding of text.

Neural Machine Translation of Rare Words with Subword Units, Sennrich, Haddow and Birch, 2016; the merges are those of
Learning Transferable Visual Models From Natural Language Supervision (CLIP), Radford et al., 2021. The tokens of all
words in known class names and prompt templates are in ``clip_words.json``; for other words the authors' table of
merges is downloaded once.

    tokenize(["a photo of a cat."])      # (1, 77): start, a, photo, of, a, cat, ., end, 0, 0, ...
"""

from __future__ import annotations

import functools
import gzip
import html
import json
import re
import unicodedata
from collections.abc import Sequence
from importlib.resources import files
from itertools import pairwise

import torch
from torch import Tensor

from segkernel.checkpoint import locate
from segkernel.errors import UsageError

VOCABULARY = 49408
MERGES = (
    "https://github.com/openai/CLIP/raw/main/clip/bpe_simple_vocab_16e6.txt.gz"
    "#sha256=924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
)
END_OF_WORD = "</w>"
_WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+")


def tokenize(texts: Sequence[str], context_length: int = 77, pad: bool = True) -> Tensor:
    """Return the token ids of each text, (len(texts), L) int64: start token, text, end token, zeros.

    Args:
        texts: The texts.
        context_length: The most tokens of a text.
        pad: L is ``context_length``; otherwise the length of the longest text.

    Raises:
        UsageError: A text has more than ``context_length`` tokens.
        CheckpointError: The table of merges is needed and cannot be downloaded.
    """
    start, end = VOCABULARY - 2, VOCABULARY - 1
    rows = [[start, *encode(text), end] for text in texts]
    for text, ids in zip(texts, rows, strict=True):
        if len(ids) > context_length:
            raise UsageError(f"{text!r} has {len(ids)} tokens, more than {context_length}")
    length = context_length if pad else max(map(len, rows))
    return torch.tensor([ids + [0] * (length - len(ids)) for ids in rows])


def encode(text: str) -> list[int]:
    """Return the token ids of a text, regardless of case, whitespace and Unicode composition."""
    # Unescaped twice, as in the reference implementation.
    plain = unicodedata.normalize("NFC", html.unescape(html.unescape(text))).lower()
    return [token for word in _WORD.findall(plain) for token in _tokens_of(word)]


@functools.lru_cache(maxsize=4096)
def _tokens_of(word: str) -> tuple[int, ...]:
    """Merge the neighbouring parts of a word of the lowest rank until no pair is in the table."""
    if word in (known := _known_words()):
        return tuple(known[word])
    ids, ranks = _tables()
    symbols = _symbols()
    parts = [symbols[byte] for byte in word.encode()]
    parts[-1] += END_OF_WORD
    while len(parts) > 1:
        best = min(pairwise(parts), key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        parts = _merge(parts, best)
    return tuple(ids[part] for part in parts)


def _merge(parts: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """Return ``parts`` with every occurrence of ``pair``, from the left, merged."""
    merged, index = [], 0
    while index < len(parts):
        found = tuple(parts[index : index + 2]) == pair
        merged.append("".join(pair) if found else parts[index])
        index += 2 if found else 1
    return merged


@functools.cache
def _known_words() -> dict[str, list[int]]:
    return json.loads((files(__package__) / "clip_words.json").read_text("utf-8"))


@functools.cache
def _tables() -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """Return the token id of each part of a word, and the rank of each pair of parts, 0 for the most frequent one."""
    lines = gzip.decompress(locate(MERGES).read_bytes()).decode().splitlines()
    letters = list(_symbols().values())
    count = VOCABULARY - 2 * len(letters) - 2  # of the merges in the file, CLIP uses the first; line 0 is a header
    pairs = [(first, second) for first, second in (line.split(" ") for line in lines[1 : count + 1])]
    parts = [*letters, *(letter + END_OF_WORD for letter in letters), *("".join(pair) for pair in pairs)]
    return {part: i for i, part in enumerate(parts)}, {pair: i for i, pair in enumerate(pairs)}


@functools.cache
def _symbols() -> dict[int, str]:
    """Return a printable character for each byte: printable bytes first, which stand for themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
