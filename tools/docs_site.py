"""Hooks of MkDocs, named in mkdocs.yml: pages of the site that are not files in docs/.

The README of the repository is the home page, and those of the packages are pages, too. Links between them and the
pages of docs/ are written for the repository, so that they work in an editor; here they are mapped to the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
LOADED = re.compile(
    r"<(?:script|img|iframe)[^>]* src=[\"']?https?:|<link[^>]* rel=[\"']?(?:stylesheet|preconnect)[^>]*https?:"
)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)|!\[([^\]]*)\]\(([^)\s]+)\)")


def repository_pages() -> dict[str, str]:
    """Return the address in the site of files of the repository outside docs/."""
    packages = [ROOT / "kernel", *sorted(ROOT.glob("plugins/*"))]
    names = {path: "seg-kernel" if path.name == "kernel" else path.name for path in packages}
    readmes = {f"{path.relative_to(ROOT)}/README.md": f"packages/{name}.md" for path, name in names.items()}
    return {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md", **readmes}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that come from elsewhere in the repository."""
    for source, address in repository_pages().items():
        files.append(File.generated(config, address, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Map the links of a page; one to a file that is not part of the site becomes its text."""
    sources = {address: source for source, address in repository_pages().items()}
    address = page.file.src_uri
    source = sources.get(address, f"docs/{address}")
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
