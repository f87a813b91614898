"""How fast each parameter learns and how much it decays, held against the reference.

    python tests/parity/golden_groups.py FOLDER

packs the ``paramgroups_*.json`` of FOLDER into ``components/parameter_groups.json``: for each published name the rate,
the decay, and how many parameters have both, with a digest of their names.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from golden import Report

from segkernel.config import load_config
from segkernel.opening import make_model
from segkernel.optim import parameter_groups

TARGET = Path(__file__).parent / "components" / "parameter_groups.json"
Group = tuple[float, float, int, str]


def check(name: str, expected: list[Group]) -> Report:
    """Compare the groups of a packaged experiment."""
    report = Report()
    theirs = {digest: (rate, decay, count) for rate, decay, count, digest in expected}
    for rate, decay, count, digest in groups(name):
        if digest not in theirs:
            report.failures.append(f"no such group of {count} parameters with rate {rate} and decay {decay}")
            continue
        wanted = theirs.pop(digest)
        report.compare("rates", f"rate of {count} parameters", abs(rate - wanted[0]), 1e-6 * wanted[0])
        report.require(decay == wanted[1], f"decay of {count} parameters is {decay}, not {wanted[1]}")
    report.require(not theirs, f"groups missing: {list(theirs.values())}")
    return report


def groups(name: str) -> list[Group]:
    """Return our groups of a packaged experiment."""
    config = load_config(name)
    with torch.device("meta"):
        model = make_model(config, pretrained=False)
    optim = config["optim"]
    start = optim["optimizer"]["lr"], optim["optimizer"].get("weight_decay", 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = parameter_groups(model, *start, optim.get("paramwise"))
    return joined((names[id(p)], group["lr"], group["weight_decay"]) for group in found for p in group["params"])


def joined(rows: Iterable[tuple[str, float, float]]) -> list[Group]:
    """Return the groups of (parameter, rate, decay)."""
    members: dict[tuple[float, float], list[str]] = {}
    for name, rate, decay in rows:
        members.setdefault((float(f"{rate:.8e}"), float(f"{decay:.8e}")), []).append(name)
    return [
        (*key, len(names), hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16])
        for key, names in members.items()
    ]


def pack(source: Path) -> None:
    """Write the small copy. A frozen parameter, which the reference lists for nothing, is left out."""
    packed = {}
    for path in sorted(source.glob("paramgroups_*.json")):
        facts = json.loads(path.read_text())
        name = Path(facts["config"]).stem
        with torch.device("meta"):
            model = make_model(load_config(name), pretrained=False)
        frozen = {key for key, parameter in model.named_parameters() if not parameter.requires_grad}
        packed[name] = joined(row for row in facts["params"] if row[0] not in frozen)
    TARGET.write_text(json.dumps(packed, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    pack(Path(sys.argv[1]))
