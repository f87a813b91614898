"""The check of names, types and ranges without importing torch: a refused config is refused in a third of the time.

problems = check_arguments(load_config("my.yaml"))      # as `seg-kernel config check` does first

Components are imported as for the full check, but in a forked process in which ``torch`` is a stand-in: its classes
can be derived from and named in annotations, its functions can be decorators, and whatever depends on one of its
values raises. The optimisers are torch's own, since configs have their arguments.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import pickle
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from segkernel.config import Config
from segkernel.errors import BrokenPluginError, Problem, SegKernelError

REAL = "torch.optim"
"""The part of torch that is imported: its files need no compiled code."""

HOMES = {"torch.nn.Module": "torch.nn.modules.module", "torch.optim.Optimizer": "torch.optim.optimizer"}
"""Modules of the classes that contracts name, where they are not the ones they are imported from."""


def check_arguments(config: Config) -> list[Problem]:
    """Return the problems of names, types and ranges; none where only the full check can tell.

    That is so when torch is imported already, without ``os.fork``, or when a component cannot be imported like this.
    """
    if "torch" in sys.modules or not hasattr(os, "fork"):
        return []
    receiver, sender = os.pipe()
    if not (child := os.fork()):
        os.close(receiver)
        _send_problems(config, sender)
    os.close(sender)
    with open(receiver, "rb") as file:
        sent = file.read()
    os.waitpid(child, 0)
    return pickle.loads(sent) if sent else []


def _send_problems(config: Config, sender: int) -> None:
    """Check, write the pickled problems and end the process; anything that is raised means that there are none."""
    try:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)  # what modules print, the full check prints
        logging.disable()
        with torch_stand_in():
            check = importlib.import_module("segkernel.experiment").check
            problems = check(config)
        if not any(isinstance(problem.error, BrokenPluginError) for problem in problems):
            with open(sender, "wb") as file:
                pickle.dump([replace(problem, error=_portable(problem.error)) for problem in problems], file)
    finally:
        os._exit(0)


def _portable(error: BaseException | None) -> BaseException | None:
    """Return an error that can be pickled, for the exit code of a problem; None for others."""
    return error if isinstance(error, SegKernelError) else None


@contextmanager
def torch_stand_in() -> Iterator[None]:
    """Import the stand-in for ``torch`` in this block; modules that were imported with it stay unusable."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder(MetaPathFinder, Loader):
    """Finds torch's modules: real below `REAL`, else without content."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == REAL:
            real = PathFinder.find_spec("torch")
            return PathFinder.find_spec(name, getattr(real, "submodule_search_locations", None))
        is_stand_in = name.partition(".")[0] == "torch" and not name.startswith(f"{REAL}.")
        return ModuleSpec(name, self, is_package=True) if is_stand_in else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None: ...


class _Module(ModuleType):
    """A module that has every name."""

    def __getattr__(self, name: str) -> Any:
        full = f"{self.__name__}.{name}"
        return importlib.import_module(full) if full == REAL else _stand_in(full)


class _Name(type):
    """Of a class, function or constant of torch, only known by its name; classes derived from it are ordinary."""

    def __getattr__(cls, name: str) -> Any:
        if "full_name" not in vars(cls) or name.startswith("__"):
            raise AttributeError(name)
        return _stand_in(f"{vars(cls)['full_name']}.{name}")

    def __call__(cls, *arguments: Any, **more: Any) -> Any:
        return _Value() if "full_name" in vars(cls) else super().__call__(*arguments, **more)

    def __bool__(cls) -> bool:
        if not cls.__name__[0].isupper() and "full_name" in vars(cls):
            raise LookupError(f"{cls.__name__} is only known by its name")
        return True


class _Value:
    """What a call returned: as a decorator, it returns the function."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        return arguments[0] if arguments and callable(arguments[0]) else self

    def __bool__(self) -> bool:
        raise LookupError("a value of torch is unknown")


class _Unreadable:
    """The constructor of a class of torch, whose arguments are unknown: reading its signature raises."""


def _stand_in(full_name: str) -> Any:
    """Return the class for a name, ``torch.nn.Module``, always the same one."""
    module, _, name = full_name.rpartition(".")
    return _named(HOMES.get(full_name, module), name)


@functools.cache
def _named(module: str, name: str) -> Any:
    members = {"__module__": module, "__init__": _Unreadable(), "_is_protocol": False}
    return _Name(name, (), {**members, "full_name": f"{module}.{name}", "__class_getitem__": lambda item: _Value()})
