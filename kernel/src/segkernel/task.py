"""``data.task``, the one place of a config that says what a pixel is, carried to the heads, losses and data sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from segkernel.catalog import Catalog
from segkernel.config.marks import mark, place_of
from segkernel.errors import ComponentError, ConfigError, Problem
from segkernel.interfaces.model import Head
from segkernel.signature import signature


def model_for_task(config: Mapping[str, Any], catalog: Catalog) -> Any:
    """Return the section ``model`` with every head made for ``data.task``, and its losses with ``use_sigmoid``.

    A head with a ``task`` of its own keeps it; without ``data.task`` the section stays as it is.

    Raises:
        ConfigError: When a head is not for the task.
    """
    model, task = config.get("model"), _task(config)
    if task is None or not isinstance(model, Mapping):
        return model
    made, problems = mark(model), []
    for path, spec in _components(made, "model"):
        head = _named("heads", spec["type"], catalog)
        if not (isinstance(head, type) and issubclass(head, Head)):
            continue
        own = spec.get("task", task)
        if own not in head.tasks:
            message = f"{head.__name__} is not for task {own}, but for {', '.join(head.tasks)}"
            hint = "use another head, such as FCNHead, or another data.task"
            problems.append(Problem(message, path, place_of(spec, "type"), hint))
        elif "task" in signature(head):  # type: ignore[arg-type]
            spec["task"] = own
            for _, loss in _components(spec.get("loss_decode"), "") if own != "multiclass" else ():
                if "use_sigmoid" in signature(_named("losses", loss["type"], catalog) or _nothing):
                    loss["use_sigmoid"] = True
    if problems:
        raise ConfigError(problems)
    return made


def data_for_task(config: Mapping[str, Any], catalog: Catalog) -> dict[str, Any]:
    """Return the section ``data`` with ``data.task`` for every data set that takes one and does not say its own."""
    data, task = config.get("data") or {}, _task(config)
    if task is None:
        return data
    made = mark(data)
    for part in ("train", "val", "test"):
        for _, spec in _components(made.get(part), part):
            if "task" in signature(_named("datasets", spec["type"], catalog) or _nothing):
                spec.setdefault("task", task)
    return made


def _task(config: Mapping[str, Any]) -> Any:
    data = config.get("data")
    return data.get("task") if isinstance(data, Mapping) else None


def _components(spec: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what has a ``type``, with its dotted path."""
    if isinstance(spec, dict) and "type" in spec:
        yield path, spec
    entries = spec.items() if isinstance(spec, dict) else enumerate(spec) if isinstance(spec, list) else ()
    for key, value in entries:
        yield from _components(value, f"{path}[{key}]" if isinstance(spec, list) else f"{path}.{key}")


def _named(group: str, name: Any, catalog: Catalog) -> Any:
    """Return the component that a ``type`` names; None when it is none of the group."""
    try:
        return catalog.load(group, name) if isinstance(name, str) else name
    except ComponentError:
        return None


def _nothing() -> None:
    """Takes no arguments."""
