"""Import every config of a folder of MMSegmentation's and compare it with the packaged experiment of its name.

    pip download mmsegmentation==1.2.2 --no-deps && unzip mmsegmentation-1.2.2-*.whl
    python tests/moving_in/compare.py mmseg/.mim/configs [--digests tests/moving_in/digests.json]

A config is equal if its import, resolved, is the packaged experiment, resolved; `_meta_` is left out. The exit code
is 1 if one differs. With --digests, the digest of every import is written. Runs without torch.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from outcomes import digest, experiments, outcome

from segkernel.errors import SegKernelError


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


if __name__ == "__main__":
    sys.exit(main())
