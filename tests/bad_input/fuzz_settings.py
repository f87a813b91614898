"""Check values out of range, for every argument of an installed component whose annotation has a range.

    python tests/bad_input/fuzz_settings.py

Each must be refused with one message that contains the key, the value and the range. Exit code 1 if any is not.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import torch
from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt

from segkernel.building import check
from segkernel.catalog import Catalog
from segkernel.config.sections import Sections
from segkernel.signature import UNIONS, is_record, signature, unwrap

GROUPS = (
    *("segmentors", "backbones", "necks", "heads", "losses", "parts", "datasets", "transforms", "metrics", "engines"),
    *("optimizers", "parameter_groups", "schedules", "hooks", "exporters"),
)
Setting = tuple[Any, str, Any]
"""Component or section, argument name, and a value outside its range."""


def settings() -> Iterator[Setting]:
    """Yield settings of the sections of a config and of every installed component."""
    catalog = Catalog.discover()
    found = [component for group in GROUPS for _, component in catalog.load_all(group)]
    found += [kind for kind in vars(torch.optim).values() if isinstance(kind, type)]
    for target in dict.fromkeys([*_records(Sections), *found]):
        for name, parameter in signature(target).items():
            for value in outside(parameter.annotation):
                yield target, name, value


def outside(annotation: Any) -> Iterator[Any]:
    """Yield values of the right type that violate a bound; of a union, those that no other member accepts."""
    kind, constraints = unwrap(annotation)
    if get_origin(kind) in UNIONS:
        for arm in get_args(kind):
            yield from (
                value for value in outside(arm) if not _taken(value, [a for a in get_args(kind) if a is not arm])
            )
        return
    bounds = [part for c in constraints for part in (c if isinstance(c, GroupedMetadata) else [c])]
    for bound in bounds:
        if isinstance(bound, Gt):
            yield from (bound.gt, bound.gt - 1)
        elif isinstance(bound, Ge):
            yield from (bound.ge - 1, bound.ge - 9)
        elif isinstance(bound, Lt) and bound.lt != math.inf:
            yield bound.lt
        elif isinstance(bound, Le):
            yield from (bound.le + 1, bound.le + 999)
    if kind is float and any(isinstance(bound, Gt | Ge) for bound in bounds):
        yield from (math.nan, -math.inf)


def _taken(value: Any, arms: list[Any]) -> bool:
    return any(unwrap(arm)[0] in (int, float) and not unwrap(arm)[1] for arm in arms)


def _records(target: Any) -> Iterator[Any]:
    """Yield a record and the records among its values."""
    yield target
    for parameter in signature(target).values():
        kind = unwrap(parameter.annotation)[0]
        for arm in (kind, *get_args(kind)):
            if is_record(arm):
                yield from _records(arm)


def complaint(setting: Setting) -> str:
    """Return what is wrong with the response to a setting; "" if it is one message with key, value and range."""
    target, name, value = setting
    problems = [
        problem for problem in check(target, {name: value}) if not problem.message.startswith("missing argument")
    ]
    text = "\n".join(map(str, problems))
    shown = f"{getattr(target, '__name__', target)}({name}={value!r})"
    if len(problems) != 1:
        return f"{shown}: {len(problems)} answers: {text}"
    words = (name, f"got {value!r}", "expected ", "(")
    return "" if all(word in text for word in words) else f"{shown}: {text}"


def main() -> int:
    """Run the command."""
    found = list(settings())
    wrong = [text for text in map(complaint, found) if text]
    print("\n".join(wrong))
    print(f"{len(found)} settings: {len(wrong)} not refused correctly")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
