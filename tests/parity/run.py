"""Compare our models with golden cases: a row per case, a count per family, exit code 1 if any fails.

    python tests/parity/run.py tests/parity/cases/pspnet [FOLDER ...] [--threads N]

Values are the largest difference of each kind as a fraction of its tolerance; above 1 the case fails.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import golden
import torch

KINDS = ("scores", "labels", "losses", "gradients")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="folders of cases, or one case's .json")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    cases = [path for folder in options.folders for path in ([folder] if folder.is_file() else golden.find(folder))]
    if not cases:
        parser.error(f"no cases in {', '.join(map(str, options.folders))}")
    passed, total = Counter[str](), Counter[str]()
    print(f"{'':6} {'case':58} " + " ".join(f"{kind:>9}" for kind in KINDS) + "   seconds")
    for path in cases:
        total[path.parent.name] += 1
        passed[path.parent.name] += run_case(path)
    for family, count in total.items():
        print(f"{family}: {passed[family]} of {count}")
    return int(passed != total)


def run_case(path: Path) -> bool:
    """Print the row of a case; return whether it passed."""
    start = time.perf_counter()
    try:
        report = golden.check(golden.Golden.load(path))
    except Exception as error:  # a model that cannot be built is a failed case, not the end of the run
        report = golden.Report(failures=[f"{type(error).__name__}: {error}"])
    shares = " ".join(f"{report.worst[kind]:9.3f}" if kind in report.worst else f"{'-':>9}" for kind in KINDS)
    print(f"{'FAILED' if report.failures else 'ok':6} {path.stem:58} {shares} {time.perf_counter() - start:9.1f}")
    for failure in report.failures[:5]:
        print(f"       {failure}")
    sys.stdout.flush()
    return not report.failures


if __name__ == "__main__":
    sys.exit(main())
