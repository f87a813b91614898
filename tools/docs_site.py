"""Hooks of MkDocs, named in mkdocs.yml: pages of the site that are not files in docs/.

The README of the repository is the home page, and those of the packages are pages, too. Links between them and the
pages of docs/ are written for the repository, so that they work in an editor; here they are mapped to the site. The
reference has the entries that ``seg-kernel explain`` prints, and the table of the zoo those of ``seg-kernel models``.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

from segkernel.catalog import GROUPS, Catalog
from segplug_heads.configs.experiments import list_experiments
from segplug_heads.configs.zoo import find_zoos
from segplug_heads.former_names import PAGE, TABLES
from segplug_heads.reference.entry import Entry
from segplug_heads.reference.find import (
    command_entries,
    component_entries,
    exit_code_entries,
    moment_entries,
    section_entries,
)
from segplug_heads.reference.troubleshooting import introduction, page_address, sections

ROOT = Path(__file__).resolve().parents[1]
TROUBLESHOOTING = "plugins/segplug-heads/src/segplug_heads/reference/troubleshooting.md"
LOADED = re.compile(
    r"<(?:script|img|iframe)[^>]* src=[\"']?https?:|<link[^>]* rel=[\"']?(?:stylesheet|preconnect)[^>]*https?:"
)
"""What a browser would load from another host."""
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)|!\[([^\]]*)\]\(([^)\s]+)\)")
WRAPPED = re.compile(r"(?<=[\u3000-\u9fff\uff00-\uffef])\n(?=[\u3000-\u9fff\uff00-\uffef\[])")
"""The end of a line within Chinese text, which a browser would show as a space."""


def repository_pages() -> dict[str, str]:
    """Return the address in the site of files of the repository outside docs/."""
    packages = [ROOT / "kernel", *sorted(ROOT.glob("plugins/*"))]
    names = {path: "seg-kernel" if path.name == "kernel" else path.name for path in packages}
    readmes = {f"{path.relative_to(ROOT)}/README.md": f"packages/{name}.md" for path, name in names.items()}
    others = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md"}
    others[TROUBLESHOOTING] = "troubleshooting.md"
    return {**others, "examples/segplug-segformer/README.md": "tutorials/segformer-package.md", **readmes}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that come from elsewhere in the repository or are generated."""
    pages = {address: (ROOT / source).read_text("utf-8") for source, address in repository_pages().items()}
    pages |= {**troubleshooting_pages(), **reference_pages(), "zoo-table.md": zoo_table(), **notebooks()}
    pages |= former_names_pages()
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def troubleshooting_pages() -> dict[str, str]:
    """Return a page for each section of troubleshooting.md, and one that lists them."""
    folder = posixpath.relpath("docs/troubleshooting", posixpath.dirname(TROUBLESHOOTING))
    links = "\n".join(f"- [{heading}]({folder}/{name}.md)" for name, (heading, _) in sections().items())
    pages = {"troubleshooting.md": f"{introduction()}\n{links}\n"}
    for name, (heading, text) in sections().items():
        command = f"In a terminal: `seg-kernel explain {name}`."
        pages[f"{page_address(name).removesuffix('/')}.md"] = f"# {heading}\n\n{text}\n\n{command}\n"
    return pages


def notebooks() -> dict[str, str]:
    """Return the pages that are notebooks, in their format: text, Python, and shell lines after a ``!``."""
    page = ROOT / "docs" / "tutorials" / "photos-to-onnx.md"
    cells: list[dict[str, Any]] = []
    for text, language, code in re.findall(r"(.*?)(?:^```(\w+)\n(.*?)^```\n|\Z)", page.read_text("utf-8"), re.S | re.M):
        prose = re.sub("<!--.*?-->", "", text).strip()
        lines = "".join(f"!{line}\n" for line in code.splitlines()) if language == "bash" else code
        cells += [{"cell_type": "markdown", "metadata": {}, "source": prose}] if prose else []
        if code:
            cells += [_code_cell(lines.rstrip())]
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    return {"tutorials/photos-to-onnx.ipynb": json.dumps(notebook, indent=1)}


def _code_cell(source: str) -> dict[str, Any]:
    return {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [], "source": source}


def reference_pages() -> dict[str, str]:
    """Return the pages of the reference, one for each group of components, and those of the rest."""
    catalog = Catalog.discover()
    pages = {
        "reference/config.md": _page("Config keys", "seg-kernel explain optim.paramwise", section_entries(catalog)),
        "reference/hook-methods.md": _page(
            "Hook methods", "seg-kernel explain after_validation", moment_entries(catalog)
        ),
        "reference/commands.md": _page("Commands", "seg-kernel explain data check", command_entries(catalog)),
        "reference/exit-codes.md": _page("Exit codes", "seg-kernel explain 3", exit_code_entries(catalog)),
    }
    for group in COMPONENTS:
        entries = list(component_entries(group, catalog))
        title, address = group.replace("_", " ").capitalize(), group.replace("_", "-")
        pages[f"reference/{address}.md"] = _page(title, f"seg-kernel explain {entries[0].title}", entries)
    return pages


COMPONENTS = [group for group in GROUPS if group not in ("zoo", "config_sources", "former_names", "config_checks",
                                                         "quick_checks", "commands", "default_hooks", "outputs",
                                                         "adapters", "displays", "optimizations",
                                                         "predictors")]  # fmt: skip


def _page(title: str, command: str, entries: Iterable[Entry]) -> str:
    sections = "\n".join(entry.markdown() for entry in entries)
    return f"# {title}\n\nWritten from the code; in a terminal: `{command}`.\n\n{sections}"


ASSETS = ROOT / "docs" / "assets"


def zoo_table() -> str:
    """Return the page with every published experiment; assets/zoo.js filters and sorts its table."""
    costs, times = json.loads((ASSETS / "zoo-costs.json").read_text("utf-8")), latencies()
    rows = []
    for each in published():
        meta = each.meta()
        parameters, macs = costs.get(each.name, (None, None))
        time = times.get(model_of(each))
        figures = [meta.get("mIoU"), meta.get("mIoU_multi"), parameters, macs, time, meta.get("memory")]
        rows.append([f"`{each.name}`", each.family.name, each.data or "", *figures, meta.get("licence", "")])
    return (ASSETS / "zoo-table.md.in").read_text("utf-8").replace("ROWS", table_rows(rows))


def choosing() -> str:
    """Return the page on choosing a model: the best score for each time, and light models in several formats."""
    times, scored = latencies(), [each for each in published() if "mIoU" in each.meta()]
    fronts = ""
    for title, data in {"ADE20K": "ade20k", "Cityscapes": "cityscapes"}.items():
        measured = [
            each for each in scored if (each.data or "").startswith(data) and times.get(model_of(each)) is not None
        ]
        rows, best = [], 0.0
        for each in sorted(measured, key=lambda each: (float(times[model_of(each)]), -each.meta()["mIoU"])):
            meta = each.meta()
            if meta["mIoU"] > best:
                best = meta["mIoU"]
                rows.append([f"`{each.name}`", best, times[model_of(each)], meta.get("licence", "")])
        head = "| experiment | mIoU | ms | licence of the weights |\n| --- | ---: | ---: | --- |"
        fronts += f"### {title}\n\n{head}\n{table_rows(rows)}\n\n"
    light = []
    for model, found in json.loads((ASSETS / "mobile-latency.json").read_text("utf-8")).items():
        scores = [
            each.meta()["mIoU"] for each in scored if model_of(each) == model and (each.data or "").startswith("ade20k")
        ]
        light.append([f"`{model}`", max(scores, default=None), *(found[way] for way in LIGHT_WAYS)])
    text = (ASSETS / "choosing.md.in").read_text("utf-8")
    return text.replace("FRONTS", fronts.rstrip()).replace("LIGHT", table_rows(sorted(light, key=lambda row: row[-2])))


LIGHT_WAYS = ("torch", "optimised", "onnx", "int8")


def published() -> list[Any]:
    """Return the packaged experiments of families."""
    zoos = [zoo for zoo in find_zoos() if zoo.name != "local_configs"]
    return [each for each in list_experiments(zoos) if each.family is not None]


def model_of(experiment: Any) -> str:
    """Return the name of an experiment's model, without schedule and data."""
    return experiment.name.rsplit("_", 2)[0]


def latencies() -> dict[str, Any]:
    """Return the milliseconds of models, measured by tools/zoo_latency.py or, one of each family, in zoo.md."""
    measured = (ROOT / "docs" / "zoo.md").read_text("utf-8").partition("## Computational cost")[2]
    families = dict(re.findall(r"^\| \w+ \| (\S+) \| [\d.]+ \| [\d.]+ \| (\d+) \|", measured, re.MULTILINE))
    return {**families, **json.loads((ASSETS / "zoo-latency.json").read_text("utf-8"))}


def table_rows(rows: Iterable[Iterable[Any]]) -> str:
    """Return rows of a Markdown table; None is an empty cell."""
    return "\n".join(f"| {' | '.join('' if cell is None else str(cell) for cell in row)} |" for row in rows)


def former_names_pages() -> dict[str, str]:
    """Return the page with the names of MMSegmentation and what they are here."""
    text = (ROOT / "docs" / "assets" / "moving-in-names.md.in").read_text("utf-8")
    tables = []
    for heading, names in TABLES.items():
        rows = "".join(f"| `{name}` | {_with_code(here)} |\n" for name, here in names.items())
        tables.append(f"## {heading}\n\n| there | here |\n| --- | --- |\n{rows}")
    return {f"{PAGE.strip('/')}.md": text.replace("TABLES", "\n".join(tables))}


CODE = re.compile(
    r"[\w.]+: [\[{].*[\]}]|\w+: \w+:\w+|segkernel\.\w+(?:\([A-Z, ]+\))+"
    r"|(?:srun |torchrun -m )?seg-?kernel [\w .\[\]-]*?(?= writes| makes|,|$)"
    r"|\w+(?:\.\w+)+(?:: true)?|\b[A-Z]\w*[A-Z]\w*[a-z]\w*(?:\([\w=.]+\))?|\w+_\w+"
)
"""Keys, components and commands in the text of a message."""


def _with_code(message: str) -> str:
    text = message.removeprefix("it is ")
    return CODE.sub(lambda match: f"`{match[0]}`", text)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Map the links of a page; one to a file that is not part of the site becomes its text."""
    sources = {address: source for source, address in repository_pages().items()}
    address = page.file.src_uri
    source = TROUBLESHOOTING if address.startswith("troubleshooting/") else sources.get(address, f"docs/{address}")
    if address.startswith("zh/"):
        markdown = WRAPPED.sub("", markdown)
    return LINK.sub(lambda match: _mapped(match, source, address), markdown)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Refuse a page that loads something from another host: the site must work without a network."""
    if found := LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} loads from another host: {found[0]}")
    return output


def _mapped(match: re.Match[str], source: str, address: str) -> str:
    image, text = match[4] is not None, match[1] or match[3] or ""
    target, _, anchor = (match[4] or match[2]).partition("#")
    if not target or "://" in target:
        return match[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    pages = repository_pages()
    inside = path.removeprefix("docs/") if path.startswith("docs/") else pages.get(path, pages.get(f"{path}/README.md"))
    if inside is None:
        return text
    link = posixpath.relpath(inside, posixpath.dirname(address) or ".") + (f"#{anchor}" if anchor else "")
    return f"{'!' * image}[{text}]({link})"
