"""The documentation site has what messages refer to; `nox -s docs` builds it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from segplug_heads.reference.troubleshooting import page_address, sections

pytest.importorskip("mkdocs")


def test_each_message_has_a_page_at_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "tools")
    monkeypatch.delitem(sys.modules, "docs_site", raising=False)
    import docs_site

    pages = docs_site.troubleshooting_pages()
    index = SimpleNamespace(file=SimpleNamespace(src_uri="troubleshooting.md"))
    listed = docs_site.on_page_markdown(pages.pop("troubleshooting.md"), index, None, None)
    assert {page.removesuffix(".md") + "/" for page in pages} == {page_address(name) for name in sections()}
    assert [page for page in pages if f"]({page})" not in listed] == []
