"""Checks of hooks: objects with marked methods of the lifecycle; no torch."""

from __future__ import annotations

import numbers

import pluggy

from segkernel import hookspecs
from segkernel.testing.core import CheckSkipped, Subject, check, require


@check("hooks", name="moments")
def moments(subject: Subject) -> None:
    """Its marked methods are moments of the lifecycle and take arguments these have."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs.Moments)
    hook = subject.build()
    manager.register(hook)  # raises when an argument is unknown
    manager.check_pending()
    require(manager.get_hookcallers(hook), "no method is marked with segkernel.hookspecs.hookimpl")


@check("hooks", name="priority")
def priority(subject: Subject) -> None:
    """A priority, where there is one, is a number."""
    value = getattr(subject.build(), "priority", hookspecs.Priority.NORMAL)
    require(isinstance(value, numbers.Real), f"priority is {value!r}")


@check("hooks", name="state")
def state(subject: Subject) -> None:
    """A second instance that loads the state has it."""
    first, second = subject.build(), subject.build()
    if not hasattr(first, "state_dict"):
        raise CheckSkipped("keeps no state")
    require(hasattr(first, "load_state_dict"), "state_dict without load_state_dict")
    saved = first.state_dict()
    second.load_state_dict(saved)
    require(second.state_dict() == saved, f"loaded {saved}, has {second.state_dict()}")
