"""Compare every config of the zoo with the published one: counts per family, exit code 1 if any differs.

    python tests/zoo/compare.py ../shared/zoo/experiments.jsonl [--family pspnet] [--all]

Model, training and validation data with their transforms, batch size, optimiser, schedule, precision and hooks must be
equal after the conversion by `facts`. Runs without torch.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import facts

from segkernel.config import load_config
from segkernel.errors import SegKernelError


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("facts", type=Path, metavar="experiments.jsonl")
    parser.add_argument("--family", help="compare only this family")
    parser.add_argument("--all", action="store_true", help="print all differences, not only the first five of a config")
    options = parser.parse_args(arguments)
    published = [json.loads(line) for line in options.facts.read_text("utf-8").splitlines()]
    equal, reasons, total = Counter[str](), Counter[str](), Counter[str]()
    for fact in published:
        if options.family not in (None, fact["family"]):
            continue
        total[fact["family"]] += 1
        found = list(differences(fact))
        if found and found[0].startswith("cannot be built"):
            reasons[fact["family"]] += 1
            print(f"{fact['name']}: {found[0]}")
        elif found:
            print(f"{fact['name']}\n    " + "\n    ".join(found if options.all else found[:5]))
        equal[fact["family"]] += not found
    for family, count in total.items():
        print(
            f"{family}: {equal[family]} of {count} equal"
            + (f", {reasons[family]} with a reason" * bool(reasons[family]))
        )
    print(f"total: {equal.total()} of {total.total()} equal, {reasons.total()} with a reason")
    return int(equal.total() + reasons.total() != total.total())


def differences(fact: dict[str, Any]) -> Iterator[str]:
    """Yield the differences between our config and the published one, or the reason why ours cannot be built."""
    try:
        config = load_config(fact["name"])
    except SegKernelError as error:
        yield f"cannot be loaded: {error}"
        return
    if "unavailable" in config.meta:
        yield f"cannot be built: {config.meta['unavailable']}"
        return
    yield from _differences(facts.canonical(facts.ours(config)), facts.canonical(facts.renamed(fact)), "")


def _differences(ours: Any, theirs: Any, path: str) -> Iterator[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in {**ours, **theirs}:
            yield from _differences(ours.get(key, "nothing"), theirs.get(key, "nothing"), f"{path}.{key}".lstrip("."))
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (one, other) in enumerate(zip(ours, theirs)):
            yield from _differences(one, other, f"{path}[{index}]")
    elif ours != theirs or isinstance(ours, bool) != isinstance(theirs, bool):
        yield f"{path} is {json.dumps(ours)[:200]}, published {json.dumps(theirs)[:200]}"


if __name__ == "__main__":
    sys.exit(main())
