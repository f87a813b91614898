"""Every model family in every exported format: a table in docs/export-formats.md.

    python benchmarks/exports.py [FAMILY ...] --formats onnx,openvino     # continues an interrupted run
    python benchmarks/exports.py --write                                  # only the page, from the results so far

One small model of each family, with random weights, is exported with dynamic batch and size and verified at three
sizes; where that fails, with fixed sizes. Each family runs in a process of its own; --results is appended to.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "zoo"))

from representatives import FAMILIES  # noqa: E402

FORMATS = ("onnx", "openvino", "torchexport", "torchscript", "executorch", "aotinductor", "coreml", "tensorrt")
RESULTS = ("yes", "larger", "fixed", "written", "timeout", "no")
PAGE = ROOT / "docs" / "export-formats.md"
HEAD = """# Families and formats

Which formats can hold a model of each family. Written by `python benchmarks/exports.py`: one small model of each
family with random weights, as in [the zoo's tests](zoo.md), at about 96 x 96 pixels, with
{versions}.

**yes**: batch, height and width are dynamic, and the logits at three sizes and with batches of one to three are
those of the model within 0.1 %. **larger**: the same, but only for an example of four times the size, and sizes not
below it. **fixed**: with fixed sizes only (`--dynamic none`). **written**: with fixed sizes, but not run, as Core ML
runs on macOS only. **timeout**: not finished within the processor time that its reason states. **no**: none of these.
Reasons are below. -: not run.

"""


def export(family: str, formats: list[str]) -> Iterator[dict[str, Any]]:
    """Export a family to formats; to be called in a fresh process."""
    import torch

    from segkernel import Catalog, build
    from segkernel.config import load_config
    from segkernel.loading import make_model

    share_captures()
    entry = FAMILIES[family]
    size = f"data.crop_size=[{entry.size[0]},{entry.size[1]}]"
    config = load_config(f"{entry.model}_4xb2-20k_streetscenes", [*entry.classes, *entry.edits, size])
    torch.manual_seed(0)
    model = make_model(config, pretrained=False).eval()
    coarse = torch.randn(1, 3, entry.size[0] // 8, entry.size[1] // 8)
    example = torch.nn.functional.interpolate(coarse, size=entry.size, mode="bilinear")
    names = {name.lower().removesuffix("exporter"): name for name in Catalog.discover().names("exporters")}
    for kind in formats:
        start = time.monotonic()
        height, width = (4 * side for side in entry.size)
        large = torch.nn.functional.interpolate(example, size=(height, width), mode="bilinear")
        sizes = [(height + 32, width + 64), (height + 13, width + 5)]
        attempts: dict[str, tuple[Any, dict[str, Any]]] = {
            "yes": (example, {"dynamic": True}),
            "larger": (large, {"dynamic": True, "check_sizes": sizes}),
            "fixed": (example, {"dynamic": False}),
        }
        if kind == "coreml" and sys.platform != "darwin":
            attempts = {"written": (example, {"dynamic": False, "verify": False})}
        ways = {
            result: (build("exporters", {"type": names[kind], **more}), image)
            for result, (image, more) in attempts.items()
        }
        found = attempt(model, ways)
        yield {"family": family, "format": kind, **found, "seconds": round(time.monotonic() - start, 1)}


def attempt(model: Any, ways: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    """Return the result of the first exporter that succeeds with its example, and why the first one failed."""
    from segkernel.errors import ExportError

    reason = ""
    for result, (exporter, example) in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                line = exporter.export(model, Path(folder) / f"model{exporter.suffix}", example, {})
                return {"result": result, "line": line, "reason": reason}
            except ExportError as error:
                reason = reason or "; ".join(str(error).splitlines()[:2])
    return {"result": "no", "reason": reason}


def share_captures() -> None:
    """Let all exporters of this process capture the model, and convert it to ONNX, once for each kind of sizes."""
    from segplug_deploy.formats import aot_inductor, coreml, executorch, onnx, openvino, torch_export

    captured: dict[Any, Any] = {}

    def shared(graph: Any, images: Any, dynamic: Any, shapes: Any = None) -> Any:
        key = dynamic, tuple(images.shape)
        if key not in captured:
            captured[key] = capture(graph, images, dynamic, shapes)
        return captured[key]

    def written(graph: Any, path: Path, images: Any, stored: Any, evidence: Any, dynamic: Any, *more: Any) -> None:
        if dynamic not in files:
            write_onnx(graph, path, images, stored, evidence, dynamic, *more)
            files[dynamic] = path.read_bytes()
        path.write_bytes(files[dynamic])

    files: dict[Any, bytes] = {}
    capture, write_onnx = onnx.capture, onnx.write_onnx
    for module in (aot_inductor, coreml, executorch, onnx, torch_export):
        module.capture = shared  # type: ignore[attr-defined]
    for module in (onnx, openvino):
        module.write_onnx = written  # type: ignore[attr-defined]


def run(family: str, formats: list[str], results: Path, limit: int) -> None:
    """Export a family in a subprocess of at most ``limit`` seconds on a core; one that crashes is a result, too."""
    command = [sys.executable, __file__, family, "--formats", ",".join(formats), "--child"]
    limited = partial(resource.setrlimit, resource.RLIMIT_CPU, (limit, limit))
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited)
    result, reason = "no", (done.stderr.strip().splitlines() or ["no output"])[-1]
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        result, reason = "timeout", f"it takes more than {limit} s"
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if missing := [kind for kind in formats if kind not in {row["format"] for row in rows}]:
        rows.append({"family": family, "format": missing[0], "result": result, "reason": reason, "seconds": 0})
    with results.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
            print(
                f"{family:14} {row['format']:12} {row['result']:6} {row['seconds']:6.1f} s  {row['reason'][:90]}",
                flush=True,
            )
    if len(missing) > 1:  # it ended in the first
        run(family, missing[1:], results, limit)


def rows_in(results: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the last result of each family and format."""
    lines = results.read_text("utf-8").splitlines() if results.exists() else []
    return {(row["family"], row["format"]): row for row in map(json.loads, lines)}


def write_page(results: Path) -> None:
    """Write the table and the reasons."""
    from segplug_deploy.certificate import installed

    rows = rows_in(results)
    formats = [kind for kind in FORMATS if any(key[1] == kind for key in rows)]
    versions = ", ".join(f"{name} {number}" for name, number in installed().items() if not name.startswith("seg"))
    lines = ["| " + " | ".join(cells) + " |" for cells in [["family", *formats], ["---"] * (len(formats) + 1)]]
    tried_families = [family for family in FAMILIES if any(key[0] == family for key in rows)]
    for family in tried_families:
        cells = [rows.get((family, kind), {"result": "-"})["result"] for kind in formats]
        lines.append(f"| {family} | " + " | ".join(cells) + " |")
    counts = []
    for kind in formats:
        tried = [row for key, row in rows.items() if key[1] == kind]
        count = {result: sum(row["result"] == result for row in tried) for result in RESULTS}
        found = ", ".join(f"{number} {result}" for result, number in count.items() if number)
        counts.append(f"- {kind}: {found}, of {len(tried)}")
    reasons = [
        f"- {family}, {kind}: {_plain(row['reason'])}"
        for (family, kind), row in sorted(rows.items())
        if row["result"] != "yes" and row["reason"]
    ]
    parts = [HEAD.format(versions=versions) + "\n".join(lines), "\n".join(counts)]
    if left := [family for family in FAMILIES if family not in tried_families]:
        parts.append(f"Not run yet: {', '.join(left)}.")
    parts += ["## Reasons", "\n".join(reasons)] if reasons else []
    PAGE.write_text("\n\n".join(parts) + "\n", "utf-8")


def _plain(reason: str) -> str:
    """Return a reason in one line without paths of this machine."""
    words = " ".join(reason.split()).split(" ")
    return " ".join("FILE" if word.startswith("/") else word for word in words)[:200].replace("|", "\\|")


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    parser.add_argument("--formats", default=",".join(FORMATS[:4]))
    parser.add_argument("--results", type=Path, default=Path("exports.jsonl"))
    parser.add_argument("--limit", type=int, default=1800, metavar="SECONDS", help="CPU time of a family")
    parser.add_argument("--write", action="store_true", help="only write the page")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := [family for family in options.families if family not in FAMILIES]:
        parser.error(f"{', '.join(unknown)}: not one of {', '.join(FAMILIES)}")
    formats = options.formats.split(",")
    if options.child:
        for row in export(options.families[0], formats):
            print(json.dumps(row), flush=True)
        return
    if not options.write:
        done = rows_in(options.results)
        for family in options.families or FAMILIES:
            if missing := [kind for kind in formats if (family, kind) not in done]:
                run(family, missing, options.results, options.limit)
    write_page(options.results)


if __name__ == "__main__":
    main()
