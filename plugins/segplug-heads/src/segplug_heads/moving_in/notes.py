"""What an import could not carry over, each with the line it was written in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from segkernel.config.marks import Place, summarize
from segplug_heads.moving_in.marking import where


@dataclass(frozen=True)
class Note:
    """One thing that an imported config does not hold.

    Args:
        what: Key and value, as they were.
        why: The reason, or what to do.
        place: Where it was written.
    """

    what: str
    why: str
    place: Place | None = None

    def __str__(self) -> str:
        place = f"{self.place.file}:{self.place.line}: " if self.place else ""
        return f"{place}{self.what}: {self.why}"


class Notes(list[Note]):
    """The notes of one import; a thing is noted once."""

    def lost(self, holder: Any, key: Any, why: str, path: str = "") -> None:
        """Note that ``holder[key]`` is not carried over."""
        value = holder[key] if isinstance(holder, (dict, list)) else ""
        text = summarize(value)
        name = f"{path}.{key}".lstrip(".") if isinstance(key, str) else path
        self.say(f"{name}={text if len(text) < 80 else text[:77] + '...'}", why, where(holder, key))

    def say(self, what: str, why: str, place: Place | None = None) -> None:
        """Add a note."""
        note = Note(what, why, place)
        if note not in self:
            self.append(note)

    def views(self, what: str, scales: Any, flip: bool, place: Place | None) -> None:
        """Note test-time augmentation, which a config that is imported does not turn on."""
        setting = f"evaluate.tta={{scales: {scales}, flip: {str(flip).lower()}}} does this"
        self.say(what, f"several views of an image are averaged in tests on request only: {setting}", place)

    def rest(self, holder: Any, known: Any, path: str, why: str = "there is no equivalent here") -> None:
        """Note every key of a mapping that is not known."""
        for key in holder:
            if key not in known and key != "type":
                self.lost(holder, key, why, path)
