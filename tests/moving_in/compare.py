"""Import every config of a folder of MMSegmentation's and compare it with the packaged experiment of its name.

    pip download mmsegmentation==1.2.2 --no-deps && unzip mmsegmentation-1.2.2-*.whl
    python tests/moving_in/compare.py mmseg/.mim/configs [--digests tests/moving_in/digests.json]

A config is equal if its import, resolved, is the packaged experiment, resolved; `_meta_` is left out. The exit code
is 1 if one differs. With --digests, the digest of every import is written. Runs without torch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segkernel.config import load_config
from segkernel.config.marks import to_builtin
from segkernel.errors import SegKernelError
from segplug_heads.configs.zoo import find_zoos
from segplug_heads.moving_in.importing import import_config, published_names, resolved


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", metavar="TEXT", help="only files whose path contains this")
    parser.add_argument("--digests", type=Path, metavar="FILE", help="write the digest of every import")
    options = parser.parse_args(arguments)
    counts, reasons, digests = Counter[str](), Counter[str](), {}
    for path in experiments(options.folder, options.only):
        try:
            state, lines, imported = outcome(path)
            digests[path.stem] = digest(imported)
        except SegKernelError as error:
            state, lines = "refused", [str(error)]
        counts[state] += 1
        for line in lines:
            print(f"{path.stem}: {state}: {line}")
            reasons[line.partition(" is ")[0]] += not line.startswith("note: ")
    for line, count in (+reasons).most_common():
        print(f"{count:5}  {line}")
    print(", ".join(f"{count} {state}" for state, count in sorted(counts.items())), f"of {counts.total()}")
    if options.digests:
        rows = ",\n".join(f" {json.dumps(name)}: {json.dumps(code)}" for name, code in sorted(digests.items()))
        options.digests.write_text("{\n" + rows + "\n}\n", "utf-8")
    return int(counts["equal"] != counts.total())


def experiments(folder: Path, only: str = "") -> Iterator[Path]:
    """Yield the configs of a folder, without the parts that they are composed of."""
    for path in sorted(folder.rglob("*.py")):
        if "_base_" not in path.parts and only in str(path):
            yield path


def outcome(path: Path) -> tuple[str, list[str], dict[str, Any]]:
    """Return ``equal``, ``differs`` or ``not packaged``, what differs, and the resolved import."""
    imported = import_config(path)
    found = to_builtin(resolved(imported).data)
    names = published_names(path.stem, find_zoos())
    if not names:
        return "not packaged", [], found
    packaged = to_builtin(load_config(imported.base if imported.base in names else names[0]).data)
    lines = [*differences(found, packaged, ""), *(f"note: {note}" for note in imported.notes)]
    return "equal" if found == packaged else "differs", lines, found


def differences(ours: Any, theirs: Any, path: str) -> Iterator[str]:
    """Yield what differs between two plain values."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in {**ours, **theirs}:
            yield from differences(ours.get(key, "absent"), theirs.get(key, "absent"), f"{path}.{key}".lstrip("."))
    elif ours != theirs:
        yield f"{path} is {json.dumps(ours)[:150]}, packaged {json.dumps(theirs)[:150]}"


def digest(config: Mapping[str, Any]) -> str:
    """Return a short digest of a resolved config, without the order in which plugins are preferred."""
    config = {key: value for key, value in config.items() if key != "plugins"}
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
