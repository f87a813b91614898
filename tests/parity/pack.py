"""Make small copies of golden cases: only the entries that the tests need, subsampled scores, packed tables of keys.

    python tests/parity/pack.py FOLDER tests/parity fcn pspnet ...

FOLDER contains ``cases`` and ``components``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import golden
import golden_groups
import numpy as np

FACTS = (
    "model", "input_shape", "num_classes", "num_params", "num_trainable_params", "constants", "labels", "losses",
    "grad_norm", "grad_norm_params", "params_without_grad", "slide_test_cfg", "also_same_model", "logits_from",
    "losses_other_seeds",
)  # fmt: skip
LOSSES = ("BoundaryLoss", "CrossEntropyLoss", "DiceLoss", "OhemCrossEntropy")
STRIDE = 2  # on top of the case's own


def pack(path: Path, folder: Path) -> None:
    """Write the small copy of a case into ``folder``."""
    case = golden.Golden.load(path)
    facts = {key: case.facts[key] for key in FACTS if key in case.facts}
    facts["model"] = golden.model_config(facts["model"])
    scores = [name for name in case.arrays if name.startswith("logits")]
    facts["logits_stride"] = {name: case.facts["logits_stride"][name] * STRIDE for name in scores}
    arrays = {name: case.arrays[name][..., ::STRIDE, ::STRIDE] for name in scores}
    arrays |= {name: case.arrays[name] for name in case.arrays if name in ("pred", "pred_slide")}
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / path.name, facts)
    np.savez_compressed(folder / path.stem, **arrays, state_dict=golden.pack_keys(case.keys))


def pack_components(source: Path, target: Path, families: list[str]) -> None:
    """Copy the cases of losses, accuracy, sampler and training steps that apply to our components."""
    target.mkdir(parents=True, exist_ok=True)
    losses = [slim(case) for case in read(source / "losses.json")["cases"] if is_ours(case)]
    steps = [
        case for case in read(source / "train_steps.json")["cases"] if case["source_config"].split("/")[1] in families
    ]
    for case in steps:
        case["model"] = golden.model_config(case["model"])
    for name in ("accuracy.json", "hungarian.json", "mmdet_losses.json", "ohem_sampler.json", "ohem_sampler.npz"):
        (target / name).write_bytes((source / name).read_bytes())
    golden_groups.pack(source.glob("paramgroups_*.json"), target / "paramgroups")
    write(target / "losses.json", losses)
    write(target / "train_steps.json", steps)


def is_ours(case: dict[str, Any]) -> bool:
    """Return whether the case is of one of our losses, has a result, and uses arguments that ours have."""
    ours = case.get("cfg", {}).get("type") in LOSSES
    return ours and "error" not in case and "reduction_override" not in case.get("call", {})


def slim(case: dict[str, Any]) -> dict[str, Any]:
    """Drop entries that are redundant with the norm of the gradient."""
    return {key: value for key, value in case.items() if not key.startswith(("grad_first", "grad_mid", "grad_finite"))}


def read(path: Path) -> Any:
    """Read JSON."""
    return json.loads(path.read_text())


def write(path: Path, value: Any) -> None:
    """Write JSON without spaces."""
    path.write_text(json.dumps(value, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    origin, folder, *names = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
    for family in names:
        for found in golden.find(origin / "cases" / family):
            pack(found, folder / "cases" / family)
    pack_components(origin / "components", folder / "components", names)
