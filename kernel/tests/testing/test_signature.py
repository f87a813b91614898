"""Checks of constructors."""

from __future__ import annotations

from typing import Any, ClassVar

from typing_extensions import TypedDict, Unpack

from segkernel.catalog import Catalog
from segkernel.testing import check_object


class Shared(TypedDict, total=False):
    width: int
    name: str


class Base:
    """A base with two arguments."""

    def __init__(self, width: int = 1, name: str = "") -> None: ...


class Forwards(Base):
    """Forwards what the base takes."""

    def __init__(self, depth: int = 1, **kwargs: Unpack[Shared]) -> None: ...


class Fixes(Base):
    """Decides the name itself."""

    fixed_arguments: ClassVar = frozenset({"name"})

    def __init__(self, width: int = 1) -> None: ...


class Bare:
    """Has an argument without annotation."""

    def __init__(self, depth=1) -> None: ...


class Open:
    """Takes anything."""

    def __init__(self, **kwargs: Any) -> None: ...


class Starred:
    """Takes any number."""

    def __init__(self, *layers: int) -> None: ...


class Misnamed(TypedDict, total=False):
    width: int
    nmae: str


class ForwardsTooMuch(Base):
    """Offers what the base does not take."""

    def __init__(self, **kwargs: Unpack[Misnamed]) -> None: ...


class Mistyped(TypedDict, total=False):
    width: float
    name: str


class ForwardsAnotherType(Base):
    """Annotates differently from the base."""

    def __init__(self, **kwargs: Unpack[Mistyped]) -> None: ...


class Partial(TypedDict, total=False):
    width: int


class ForwardsTooLittle(Base):
    """Leaves out the name."""

    def __init__(self, **kwargs: Unpack[Partial]) -> None: ...


class ObjectDefault:
    """Has a default that no YAML can hold."""

    def __init__(self, layer: Any = Base) -> None: ...


def variant(depth: int = 3, **kwargs: Unpack[Shared]) -> Base:
    """A variant of the base."""
    return Base(**kwargs)


def failed(target: object) -> set[str]:
    results = check_object("parts", target, catalog=Catalog())
    return {result.check for result in results if result.status == "failed"} - {"constructs"}


def test_typed_forwarding_passes() -> None:
    assert failed(Forwards) == set()


def test_a_function_that_forwards_to_what_it_returns_passes() -> None:
    assert failed(variant) == set()


def test_fixed_arguments_need_not_be_offered() -> None:
    assert failed(Fixes) == set()


def test_an_argument_without_annotation_fails() -> None:
    assert failed(Bare) == {"annotated"}


def test_open_arguments_fail() -> None:
    assert failed(Open) == {"no-open-arguments"}
    assert "no-open-arguments" in failed(Starred)


def test_a_key_that_the_base_does_not_take_fails() -> None:
    assert failed(ForwardsTooMuch) == {"forwarded-arguments"}


def test_a_key_of_another_type_fails() -> None:
    assert failed(ForwardsAnotherType) == {"forwarded-arguments"}


def test_an_argument_of_the_base_that_is_left_out_fails() -> None:
    assert failed(ForwardsTooLittle) == {"forwarded-arguments"}


def test_a_default_that_is_no_yaml_fails() -> None:
    assert failed(ObjectDefault) == {"plain-defaults"}
