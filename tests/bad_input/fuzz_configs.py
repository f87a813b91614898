"""Fuzz configs: values of wrong types and out of range, keys that are removed, misspelt or moved.

    python tests/bad_input/fuzz_configs.py --count 5000 --seed 1
    python tests/bad_input/fuzz_configs.py --count 300 --fit quickstart     # with plugins' checks, which build parts

Each mutated config is loaded and checked as by ``config check``, which must report errors as a SegKernelError, within
seconds. Other exceptions and slow checks are printed with the mutation; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import copy
import logging
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from segkernel.config import load_config
from segkernel.errors import SegKernelError
from segkernel.experiment import check
from segkernel.loading import catalog_of

CONFIGS = ("quickstart", "pspnet_r18-d8_4xb2-80k_cityscapes-512x1024", "mask2former_swin-t_8xb2-160k_ade20k-512x512")
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 5, -9, 10**12, -(10**12), 0.5, 1.0, -0.1, 1e300, math.nan, math.inf),
    *("", " ", "x", "auto", "1", "nan", "5e-4", "../..", "os:system", "a/b", "${", "${data.gone}", "${model}"),
    *([], [1], [1, 2], [1, 2, 3], ["x"], [None], [[1]], [{}]),
    *({}, {"type": "Gone"}, {"type": 5}, {"type": None}, {"x": 1}, {1: 2}, {"type": "CrossEntropyLoss"}),
)
SLOWEST = 2.0
"""Longest time of a check in seconds."""

Path = tuple[Any, ...]


@dataclass
class Outcome:
    """Result of checking a mutated config: ``answer`` is empty if it is valid."""

    change: str
    answer: str
    seconds: float
    crash: str = ""

    @property
    def is_bad(self) -> bool:
        """Whether it raised another exception than ours, or took too long."""
        return bool(self.crash) or self.seconds > SLOWEST


def places(node: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of every value, containers before their items."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (*path, key)
        yield from places(value, (*path, key))


def mutate(config: dict[str, Any], draw: random.Random) -> tuple[dict[str, Any], str]:
    """Return a copy of a config with one mutation, and a description of the mutation."""
    result = copy.deepcopy(config)
    path = draw.choice(list(places(result)))
    parent: Any = result
    for step in path[:-1]:
        parent = parent[step]
    key, name = path[-1], ".".join(map(str, path))
    kind = draw.choice(["value", "value", "value", "remove", "rename", "wrap", "move"])
    if kind == "value" or isinstance(parent, list):
        parent[key] = copy.deepcopy(draw.choice(VALUES))
        return result, f"{name}={parent[key]!r}"
    value = parent.pop(key)
    if kind == "rename":
        text = str(key)
        cut = draw.randrange(len(text) + 1)
        parent[draw.choice([f"{text[:cut]}{text[cut + 1 :]}", text.upper(), f"{text}s", f"_{text}_"])] = value
    elif kind == "wrap":
        parent[key] = draw.choice([[value], {key: value}, [value, value], str(value)])
    elif kind == "move":
        result[key] = value
    return result, f"{kind} {name}"


def examine(config: dict[str, Any], change: str, fit: bool = False) -> Outcome:
    """Load and check a config; with ``fit``, also with the plugins' checks, which build parts of valid configs."""
    start, answer, crash = time.perf_counter(), "", ""
    try:
        loaded = load_config(config)
        more = catalog_of(loaded).load_all("config_checks") if fit else ()
        problems = check(loaded) or [problem for _, each in more for problem in each(loaded)]
        answer = "\n".join(map(str, problems))
    except SegKernelError as error:
        answer = str(error)
    except Exception as error:  # the faults that fuzzing searches for
        crash = f"{type(error).__name__}: {error}"
    return Outcome(change, answer, time.perf_counter() - start, crash)


def fuzz(names: Sequence[str], count: int, seed: int, fit: bool = False) -> Iterator[Outcome]:
    """Yield the outcomes of ``count`` mutations of packaged configs."""
    draw = random.Random(seed)
    configs = [plain(load_config(name).data) for name in names]
    for _ in range(count):
        yield examine(*mutate(draw.choice(configs), draw), fit)


def plain(value: Any) -> Any:
    """Return the values of a config without the marks of their positions."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, list) else value


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("configs", nargs="*", default=CONFIGS)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    outcomes = list(fuzz(arguments.configs, arguments.count, arguments.seed, arguments.fit))
    bad = [outcome for outcome in outcomes if outcome.is_bad]
    for outcome in bad:
        print(f"{outcome.change}: {outcome.crash or 'slow'} ({outcome.seconds:.2f} s)")
    refused, slowest = sum(bool(outcome.answer) for outcome in outcomes), max(outcome.seconds for outcome in outcomes)
    print(f"{len(outcomes)} configs: {refused} refused, {len(bad)} bad, the slowest answer took {slowest:.2f} s")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
