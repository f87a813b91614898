"""Checks of hooks: objects with marked methods of the lifecycle; no torch."""

from __future__ import annotations

import copy
import numbers
from collections.abc import Mapping
from typing import Any

import pluggy

from segkernel import hookspecs
from segkernel.errors import did_you_mean
from segkernel.testing.core import Subject, check, require, skip_unless


@check("hooks", name="moments")
def moments(subject: Subject) -> None:
    """Its marked methods are hook methods and take arguments of these."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs.Moments)
    hook = subject.build()
    manager.register(hook)  # raises when an argument is unknown
    moments = vars(hookspecs.Moments).keys()
    for name in set(dir(hook)) - moments:
        near = ", ".join(did_you_mean(name, moments)) or "see segkernel.hookspecs"
        marked = manager.parse_hookimpl_opts(hook, name) is not None
        require(not marked, f"unknown hook method {name!r}; did you mean {near}?")
    require(manager.get_hookcallers(hook), "no method is marked with segkernel.hookspecs.hookimpl")


@check("hooks", name="priority")
def priority(subject: Subject) -> None:
    """A priority, if any, is a number."""
    value = getattr(subject.build(), "priority", hookspecs.Priority.NORMAL)
    require(isinstance(value, numbers.Real), f"priority is {value!r}")


@check("hooks", name="state")
def state(subject: Subject) -> None:
    """An instance that loads a state returns it: the initial one, and one with other numbers."""
    first = subject.build()
    skip_unless(hasattr(first, "state_dict"), "has no state")
    require(hasattr(first, "load_state_dict"), "state_dict without load_state_dict")
    for saved in (first.state_dict(), _later(first.state_dict())):
        second = subject.build()
        second.load_state_dict(copy.deepcopy(saved))
        require(str(second.state_dict()) == str(saved), f"loaded {saved}, has {second.state_dict()}")


def _later(state: Any) -> Any:
    """Return a state as of later in a run: every number is greater by one."""
    if isinstance(state, Mapping):
        return {name: _later(value) for name, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(_later(value) for value in state)
    is_number = isinstance(state, numbers.Number) or hasattr(state, "dtype")
    return state + 1 if is_number and not isinstance(state, bool) else state
