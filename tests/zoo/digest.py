"""A compact copy of the published configs: a digest of each canonical form, and its number of parameters.

python tests/zoo/digest.py ../shared       # writes tests/zoo/digest.json
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import facts

FILE = Path(__file__).with_name("digest.json")


def digest(config: dict[str, Any]) -> str:
    """Return a short digest of a canonical config."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def entries(shared: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and entry: the digest, and for golden cases the number of parameters and a changed image size."""
    cases = {path.stem: path for path in sorted((shared / "parity" / "cases").rglob("*.json"))}
    for line in (shared / "zoo" / "experiments.jsonl").read_text("utf-8").splitlines():
        fact = json.loads(line)
        entry: dict[str, Any] = {"family": fact["family"], "digest": digest(facts.canonical(facts.renamed(fact)))}
        if fact["name"] in cases:
            case = json.loads(cases[fact["name"]].read_text())
            entry["parameters"] = case["num_params"]
            for size in re.findall(r"backbone.img_size changed from .* to (\[\d+, \d+\])", str(case["notes"])):
                entry["img_size"] = json.loads(size)
        yield fact["name"], entry


if __name__ == "__main__":
    rows = [f" {json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries(Path(sys.argv[1]))]
    FILE.write_text("{\n" + ",\n".join(rows) + "\n}\n", "utf-8")
