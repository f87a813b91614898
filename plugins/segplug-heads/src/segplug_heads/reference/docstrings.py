"""What docstrings say: the summary of a class, the description of an argument, the paper of a module."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

from segkernel.signature import Parameter

_SECTION = re.compile(r"^(Args|Raises|Returns|Yields|Example|Examples):\n", re.MULTILINE)
_CITES = re.compile(r"https?://|\b(?:19|20)\d\d\b")


def documented_arguments(text: str | None) -> dict[str, str]:
    """Return the description of each name in the ``Args:`` section of a docstring."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", inspect.cleandoc(text or ""), re.MULTILINE | re.DOTALL)
    entries = re.split(r"^    (?=\S)", section.group(1), flags=re.MULTILINE) if section else []
    found = (re.match(r"(\w+(?:, \w+)*)(?: \([^)]*\))?:\s*(.*)", entry, re.DOTALL) for entry in entries)
    return {name: " ".join(m.group(2).split()) for m in found if m for name in m.group(1).split(", ")}


def argument_text(parameter: Parameter) -> str:
    """Return the description of an argument: that of the class that has it, or of the nearest of its base classes."""
    classes = getattr(parameter.owner, "__mro__", [parameter.owner])
    texts = [text for owner in classes for text in (getattr(owner.__init__, "__doc__", None), owner.__doc__)]
    documented = (documented_arguments(text) for text in texts)
    return next((found[parameter.name] for found in documented if parameter.name in found), "")


def summary_of(target: Any) -> str:
    """Return a docstring's paragraphs before its sections; of torch's own classes the first one only."""
    text = inspect.cleandoc(target.__doc__ or "") if not isinstance(target, str) else target
    text = _SECTION.split(text)[0].split("\n\n.. ")[0].strip()
    text = re.split(r"\n\n +\S", text)[0]  # without an example
    paragraphs = [re.sub("::$", ".", " ".join(part.split())) for part in text.split("\n\n")]
    own = not str(getattr(target, "__module__", "")).startswith("torch.")
    return "\n\n".join(paragraphs if own else paragraphs[:1])


def cited_in(target: Any) -> str:
    """Return the paragraphs of a component's module that cite a paper or a page."""
    module = sys.modules.get(getattr(target, "__module__", ""))
    paragraphs = inspect.cleandoc(getattr(module, "__doc__", None) or "").split("\n\n")
    return "\n\n".join(" ".join(part.split()) for part in paragraphs[1:] if _CITES.search(part) and "    " not in part)
