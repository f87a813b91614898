"""The documentation site has what messages refer to; `nox -s docs` builds it."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from segplug_heads.former_names import MOVED, PAGE, former_name
from segplug_heads.reference.troubleshooting import page_address, sections

pytest.importorskip("mkdocs")


def test_each_message_has_a_page_at_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    docs_site = import_site(monkeypatch)
    pages = docs_site.troubleshooting_pages()
    index = SimpleNamespace(file=SimpleNamespace(src_uri="troubleshooting.md"))
    listed = docs_site.on_page_markdown(pages.pop("troubleshooting.md"), index, None, None)
    assert {page.removesuffix(".md") + "/" for page in pages} == {page_address(name) for name in sections()}
    assert [page for page in pages if f"]({page})" not in listed] == []


def test_each_message_on_a_former_name_is_on_the_page_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    ((address, text),) = import_site(monkeypatch).former_names_pages().items()
    assert address.removesuffix(".md") + "/" == PAGE
    rows = dict(re.findall(r"^\| `(.+?)` \| (.+) \|$", text, re.MULTILINE))
    shown = {name: f"{here.replace('`', '')} (docs: {PAGE})" for name, here in rows.items()}
    wrong = [name for name in MOVED if former_name(name).removeprefix("it is ") != shown.get(name)]
    assert wrong == []


def test_the_page_on_choosing_lists_no_beaten_model(monkeypatch: pytest.MonkeyPatch) -> None:
    page = import_site(monkeypatch).choosing()
    for data in ("ADE20K", "Cityscapes"):
        table = page.partition(f"### {data}\n")[2].partition("\n#")[0]
        rows = [(float(score), float(ms)) for score, ms in re.findall(r"\| ([\d.]+) \| ([\d.]+) \|", table)]
        assert len(rows) > 5
        assert rows == sorted(rows)
        assert [ms for _, ms in rows] == sorted(ms for _, ms in rows)
    light = page.partition("## Light models")[2]
    assert re.search(r"^\| `topformer-t` \| 34\.6 \| [\d.]+ \| [\d.]+ \| [\d.]+ \| [\d.]+ \|$", light, re.MULTILINE)


def import_site(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the hooks of the site, a module outside all packages."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "tools")
    monkeypatch.delitem(sys.modules, "docs_site", raising=False)
    return importlib.import_module("docs_site")
