"""Text to the numbers that CLIP's text encoder knows: byte pair encoding.

Sennrich, Haddow and Birch, Neural Machine Translation of Rare Words with Subword Units, 2016; the merges are those of
Radford et al., Learning Transferable Visual Models From Natural Language Supervision (CLIP), 2021. The tokens of the
words that known class names and prompts have are in ``clip_words.json``; for any other the authors' table of merges is
downloaded once.

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

from segkernel.errors import UsageError
from segkernel.weight_formats import locate

VOCABULARY = 49408
MERGES = (
    "https://github.com/openai/CLIP/raw/main/clip/bpe_simple_vocab_16e6.txt.gz"
    "#sha256=924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
)
END_OF_WORD = "</w>"
_WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+")


def tokenize(texts: Sequence[str], context_length: int = 77) -> Tensor:
    """Return the tokens of each text (len(texts), context_length), int64: a start, the text, an end, then 0.

    Raises:
        UsageError: When a text is too long.
        CheckpointError: When the table of merges is needed and cannot be downloaded.
    """
    start, end = VOCABULARY - 2, VOCABULARY - 1
    tokens = torch.zeros(len(texts), context_length, dtype=torch.long)
    for row, text in zip(tokens, texts, strict=True):
        ids = [start, *encode(text), end]
        if len(ids) > context_length:
            raise UsageError(f"{text!r} has {len(ids)} tokens, more than {context_length}")
        row[: len(ids)] = torch.tensor(ids)
    return tokens


def encode(text: str) -> list[int]:
    """Return the tokens of a text; upper case, accents written in two parts and white space make no difference."""
    plain = unicodedata.normalize("NFC", html.unescape(html.unescape(text))).lower()
    return [token for word in _WORD.findall(plain) for token in _tokens_of(word)]


@functools.lru_cache(maxsize=4096)
def _tokens_of(word: str) -> tuple[int, ...]:
    """Join the most usual pair of neighbours of a word until no pair is usual."""
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
        parts = _joined(parts, best)
    return tuple(ids[part] for part in parts)


def _joined(parts: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """Return ``parts`` with every occurrence of ``pair``, from the left, made one."""
    joined, index = [], 0
    while index < len(parts):
        found = tuple(parts[index : index + 2]) == pair
        joined.append("".join(pair) if found else parts[index])
        index += 2 if found else 1
    return joined


@functools.cache
def _known_words() -> dict[str, list[int]]:
    return json.loads((files(__package__) / "clip_words.json").read_text("utf-8"))


@functools.cache
def _tables() -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """Return part of a word to token, and pair of parts to its rank, the lower the more usual."""
    lines = gzip.decompress(locate(MERGES).read_bytes()).decode().splitlines()
    letters = list(_symbols().values())
    count = VOCABULARY - 2 * len(letters) - 2  # the file has more, after a first line that says what it is
    pairs = [tuple(line.split(" ")) for line in lines[1 : count + 1]]
    parts = [*letters, *(letter + END_OF_WORD for letter in letters), *("".join(pair) for pair in pairs)]
    return {part: i for i, part in enumerate(parts)}, {pair: i for i, pair in enumerate(pairs)}  # type: ignore[misc]


@functools.cache
def _symbols() -> dict[int, str]:
    """Return a printable letter for each byte, printable ones first: they stand for themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
