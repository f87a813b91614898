"""Building: injection, values, forwarded arguments, and the messages for wrong specs."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType

import pytest
from annotated_types import MinLen, Predicate
from typing_extensions import NotRequired, Required, TypedDict, Unpack

from segkernel import build
from segkernel.annotations import FileName, OddInt, Positive, Probability
from segkernel.building import check
from segkernel.catalog import Catalog, Row
from segkernel.config.marks import MarkedDict, MarkedList, Place
from segkernel.errors import (
    ConfigError,
    DataError,
    NotInstalledError,
    Problem,
    UnknownComponentError,
    UntrustedError,
    UsageError,
)
from segkernel.interfaces.spec import Spec
from segkernel.signature import Unresolved, signature

if TYPE_CHECKING:
    from somewhere import NeverImported

Channels = NewType("Channels", int)


class Part:
    """The base class of what the tests build."""

    component_group = "parts"


class Leaf(Part):
    """A part without parts.

    Args:
        size: Its size in pixels,
            which is a number.
        name (str): What it is called.
    """

    def __init__(self, size: int = 1, name: str = "leaf") -> None:
        self.size, self.name = size, name


class Sized(Part):
    def __init__(self, size: int) -> None:
        if size < 0:
            raise ValueError(f"size must not be negative, got {size}")
        self.size = size


class Options(TypedDict, total=False):
    mode: Required[Literal["whole", "slide"]]
    stride: tuple[int, int]
    leaf: Leaf


class Tree(Part):
    def __init__(
        self,
        one: Leaf,
        maybe: Leaf | None = None,
        many: Sequence[Leaf] = (),
        either: Leaf | Sequence[Leaf] | None = None,
        named: dict[str, Leaf] | None = None,
        later: Spec[Sized] | None = None,
        several_later: Sequence[Spec[Sized]] = (),
        options: Options | None = None,
        anything: Any = None,
    ) -> None:
        self.__dict__.update({name: value for name, value in locals().items() if name != "self"})


class Color(enum.Enum):
    RED = "r"
    GREEN = "g"


class Level(enum.IntEnum):
    LOW = 10
    HIGH = 20


@dataclass
class Labels:
    """Labels.

    Args:
        classes: Their names.
    """

    classes: tuple[str, ...]
    ignore: tuple[int, ...] = (255,)
    values: Mapping[int, int] | None = None
    extra: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, count: int) -> Labels:
        return cls(tuple(map(str, range(count))))


@dataclass
class MoreLabels(Labels):
    leaf: Leaf | None = None


ROWS = tuple(Row("parts", cls.__name__, "my-plugin", "1", f"{__name__}:{cls.__name__}") for cls in (Leaf, Sized, Tree))


class HereCatalog(Catalog):
    """Finds the classes of this file, which pytest imports under a name that cannot be imported again."""

    def load_row(self, row: Row) -> Any:
        return globals()[row.name] if row.distribution == "my-plugin" else super().load_row(row)


CATALOG = HereCatalog(ROWS)


def problems_of(spec: Any, **defaults: Any) -> list[Problem]:
    return check("parts", spec, catalog=CATALOG, **defaults)


def messages(spec: Any) -> list[str]:
    return [str(problem) for problem in problems_of(spec)]


def taking(annotation: Any) -> Callable[..., Any]:
    """Return a function with one argument, ``x``, of this type."""

    def target(x: Any) -> Any:
        return x

    target.__annotations__ = {"x": annotation}
    return target


# ---------------------------------------------------------------- injection


@pytest.fixture
def tree() -> Tree:
    leaf = {"type": "Leaf", "size": 2}
    spec = {
        "type": "my-plugin/Tree",
        "one": leaf,
        "maybe": leaf,
        "many": [leaf, {"type": Leaf}],
        "either": [leaf],
        "named": {"a": leaf},
        "later": {"type": "Sized"},
        "several_later": [{"type": "Sized", "size": 1}],
        "options": {"mode": "slide", "stride": [1, 2], "leaf": leaf},
        "anything": {"type": "Leaf"},
    }
    built: Tree = build("parts", spec, catalog=CATALOG)
    return built


def test_nested_specs_arrive_as_objects(tree: Any) -> None:
    assert isinstance(tree.one, Leaf)
    assert tree.one.size == 2
    assert isinstance(tree.maybe, Leaf)
    assert [leaf.size for leaf in tree.many] == [2, 1]
    assert isinstance(tree.either[0], Leaf)
    assert isinstance(tree.named["a"], Leaf)


def test_injection_reaches_through_typed_dicts(tree: Any) -> None:
    assert isinstance(tree.options["leaf"], Leaf)
    assert tree.options["stride"] == (1, 2)


def test_a_spec_arrives_for_the_parent_to_complete(tree: Any) -> None:
    assert isinstance(tree.later, Spec)
    assert tree.later(size=3).size == 3
    assert tree.several_later[0]().size == 1


def test_an_argument_annotated_any_stays_a_plain_mapping(tree: Any) -> None:
    assert tree.anything == {"type": "Leaf"}


def test_a_union_of_one_and_many_takes_one() -> None:
    built = build("parts", {"type": Tree, "one": Leaf(), "either": {"type": "Leaf"}}, catalog=CATALOG)
    assert isinstance(built.either, Leaf)


def test_built_objects_pass_through() -> None:
    leaf = Leaf()
    assert build("parts", leaf, catalog=CATALOG) is leaf
    assert build("parts", {"type": "Tree", "one": leaf, "many": [leaf]}, catalog=CATALOG).many[0] is leaf


def test_a_class_or_function_can_be_the_type() -> None:
    assert build("parts", {"type": Sized, "size": 3}, catalog=CATALOG).size == 3
    assert build("parts", {"type": taking(int), "x": 3}, catalog=CATALOG) == 3


def test_defaults_fill_in_and_the_spec_wins() -> None:
    assert build("parts", {"type": "Leaf", "size": 5}, catalog=CATALOG, size=9, name="given").__dict__ == {
        "size": 5,
        "name": "given",
    }


def test_an_import_path_of_the_current_directory_is_a_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own_parts.py").write_text(
        "class Mine:\n    def __init__(self, size: int) -> None: self.size = size\n"
    )
    assert build("parts", {"type": "my_own_parts:Mine", "size": 2}, catalog=CATALOG).size == 2
    (problem,) = problems_of({"type": "my_own_parts:Mine", "sise": 2, "size": 1})
    assert problem.message == "unknown argument of my_own_parts:Mine"


def test_marked_containers_arrive_plain() -> None:
    given = MarkedDict({"a": MarkedList([1, MarkedDict({"b": 2})])})
    built = build(taking(Any), {"x": given})
    assert (type(built), type(built["a"]), type(built["a"][1])) == (dict, list, dict)


def test_build_is_a_function_however_it_is_imported() -> None:
    import segkernel

    assert segkernel.build("parts", {"type": Leaf}, catalog=CATALOG).size == 1


def test_a_missing_plugin_gives_its_own_exit_code() -> None:
    with pytest.raises(ConfigError, match="pip install segplug-backbones") as caught:
        build("backbones", {"type": "ResNet", "depth": 50}, catalog=CATALOG)
    assert isinstance(caught.value.__cause__, NotInstalledError)
    assert caught.value.exit_code == 3


# ---------------------------------------------------------------- values

FITTING = [
    (int, 3, 3),
    (float, 3, 3),
    (float, 0.5, 0.5),
    (bool, True, True),
    (str, "a", "a"),
    (None, None, None),
    (int | None, None, None),
    (Channels, 4, 4),
    (Annotated[int, "pixels"], 4, 4),
    (Literal["a", 1], 1, 1),
    (tuple[int, int], [1, 2], (1, 2)),
    (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
    (tuple[tuple[int, int], ...], [[1, 2]], ((1, 2),)),
    (tuple, [1, "a"], (1, "a")),
    (list[int], (1, 2), [1, 2]),
    (Sequence[float], [1, 2.0], [1, 2.0]),
    (Sequence[int], range(2), range(2)),
    (set[str], ["a", "a"], {"a"}),
    (int | tuple[int, int], [3, 4], (3, 4)),
    (int | Sequence[int], 3, 3),
    (str | Path, "a/b", "a/b"),
    (Path, "a/b", Path("a/b")),
    (Path | None, None, None),
    (dict, {"a": 1}, {"a": 1}),
    (Mapping[int, str], {1: "a"}, {1: "a"}),
    (Mapping[int, str], {"1": "a"}, {1: "a"}),  # of a config that was stored as JSON
    (dict[str, tuple[int, int]], {"a": [1, 2]}, {"a": (1, 2)}),
    (Color, "RED", Color.RED),
    (Color, "r", Color.RED),
    (Color, Color.GREEN, Color.GREEN),
    (Level, 20, Level.HIGH),
    (Labels, {"classes": ["a"]}, Labels(("a",))),
    (Callable[[int], int], abs, abs),
    (type[int], bool, bool),
    (Any, [1, {"a": None}], [1, {"a": None}]),
]


def test_values_that_fit() -> None:
    made = [build(taking(annotation), {"x": given}) for annotation, given, _ in FITTING]
    rows = [(*row, value) for row, value in zip(FITTING, made)]
    assert [row for row in rows if row[2] != row[3] or type(row[2]) is not type(row[3])] == []


WRONG = [
    (int, "3", "expected int, got '3' (str)"),
    (int, True, "expected int, got True (bool)"),
    (int, 1.0, "expected int, got 1.0 (float)"),
    (int, None, "expected int, got None"),
    (float, "1e-4", "expected float, got '1e-4' (str)"),
    (bool, 1, "expected bool, got 1 (int)"),
    (str, 1, "expected str, got 1 (int)"),
    (int | None, "a", "expected int or None, got 'a' (str)"),
    (int | tuple[int, int], "a", "expected int or a list [int, int], got 'a' (str)"),
    (int | tuple[int, int], [1, 2, 3], "expected int or a list [int, int], got [1, 2, 3] (list)"),
    (Literal[1, 2], True, "expected 1 or 2, got True (bool)"),
    (Literal["slide", "whole"] | None, "slid", "expected 'slide' or 'whole' or None, got 'slid' (str)"),
    (Color, "REDD", "expected 'RED' or 'GREEN', got 'REDD' (str)"),
    (list[int], "12", "expected a list of int, got '12' (str)"),
    (dict[str, int], [1], "expected a mapping, got [1] (list)"),
    (Path, 3, "expected Path, got 3 (int)"),
    (Leaf, "Leaf", "expected a parts component, got 'Leaf' (str)"),
    (Leaf, 3, "expected a parts component, got 3 (int)"),
    (Leaf | None, 3, "expected a parts component or None, got 3 (int)"),
    (Sequence[Leaf], {"type": "Leaf"}, "expected a list of parts, got {'type': 'Leaf'} (dict)"),
    (Labels, 3, "expected a mapping, got 3 (int)"),
    (Callable[[int], int], "abs", "expected Callable, got 'abs' (str)"),
]


def test_values_that_do_not_fit() -> None:
    found = [check(taking(kind), {"x": given}, path="a", catalog=CATALOG) for kind, given, _ in WRONG]
    said = [[(problem.path, problem.message) for problem in problems] for problems in found]
    assert said == [[("a.x", message)] for _, _, message in WRONG]


def test_a_misspelt_choice_gets_a_suggestion() -> None:
    (problem,) = check(taking(Literal["slide", "whole"]), {"x": "slid"})
    assert problem.hint == "did you mean 'slide'?"


def test_a_long_value_is_truncated_in_the_message() -> None:
    (problem,) = check(taking(int), {"x": "a" * 500})
    assert len(problem.message) < 100


def test_places_inside_lists_and_mappings_are_named() -> None:
    (problem,) = check(taking(dict[str, list[tuple[int, int]]]), {"x": {"a": [[1, 2], [1, "b"]]}})
    assert problem.path == "x.a[1][1]"


def test_none_is_accepted_where_it_is_the_default() -> None:
    def target(x: int = None) -> Any:  # type: ignore[assignment]  # noqa: RUF013
        return x

    assert build(target, {"x": None}) is None


# ---------------------------------------------------------------- problems


def test_all_problems_are_reported_together_and_nothing_is_built() -> None:
    spec = {
        "type": "Tree",
        "one": {"type": "Leef"},
        "many": [{"type": "Leaf"}, {"type": "Leaf", "sise": 1}, {"size": 1}],
        "named": {"a": {"type": "Leaf", "size": "big"}},
        "later": {"type": "Sized", "color": "red"},
        "options": {"mode": "slid", "strid": 1},
        "nothing": 1,
    }
    found = {problem.path: problem.message for problem in problems_of(spec)}
    assert found == {
        "one.type": "no parts component is called 'Leef'; did you mean 'Leaf'?",
        "many[1].sise": "unknown argument of my-plugin/Leaf",
        "many[2].type": "missing: which parts component?",
        "named.a.size": "expected int, got 'big' (str)",
        "later.color": "unknown argument of my-plugin/Sized",
        "options.mode": "expected 'whole' or 'slide', got 'slid' (str)",
        "options.strid": "unknown argument of Options",
        "nothing": "unknown argument of my-plugin/Tree",
    }
    with pytest.raises(ConfigError) as caught:
        build("parts", spec, catalog=CATALOG)
    assert len(caught.value.problems) == len(found)


def test_a_message_names_place_near_name_and_where_the_type_was_set() -> None:
    head = MarkedDict(
        {"type": "Leaf", "sise": 3},
        places={"type": Place("segplug-heads::families/pspnet.yaml", 6, 5), "sise": Place("configs/my.yaml", 14, 7)},
    )
    (problem,) = check("parts", head, path="model.decode_head", catalog=CATALOG)
    assert str(problem) == (
        "configs/my.yaml:14:7 model.decode_head.sise: unknown argument of my-plugin/Leaf\n"
        "    did you mean 'size'?   (decode_head.type set in segplug-heads::families/pspnet.yaml:6:5)"
    )


def test_where_the_type_was_set_is_left_out_when_it_is_the_same_file() -> None:
    spec = MarkedDict(
        {"type": "Leaf", "sise": 3}, places={"type": Place("my.yaml", 1, 1), "sise": Place("my.yaml", 2, 1)}
    )
    (problem,) = problems_of(spec)
    assert problem.hint == "did you mean 'size'?"


def test_an_unrecognisable_name_gets_the_list_of_arguments() -> None:
    (problem,) = problems_of({"type": "Leaf", "qqq": 1})
    assert problem.hint == "it takes size, name"


def test_a_missing_argument_is_named_with_its_type() -> None:
    (problem,) = problems_of(MarkedDict({"type": "Sized"}, place=Place("my.yaml", 3, 1)))
    assert str(problem) == "my.yaml:3:1 size: missing argument of my-plugin/Sized: int"


def test_an_argument_that_the_parent_gives_is_not_missing() -> None:
    assert problems_of({"type": "Sized"}, size=3) == []


def test_a_spec_may_lack_what_the_parent_completes() -> None:
    assert problems_of({"type": "Tree", "one": {"type": "Leaf"}, "later": {"type": "Sized"}}) == []


def test_a_missing_required_key_is_named() -> None:
    assert "options.mode: missing argument of Options: 'whole' or 'slide'" in messages(
        {"type": Tree, "one": Leaf(), "options": {}}
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("Leaf", "expected a parts component, got 'Leaf' (str)\n    write {type: Leaf}"),
        (None, "expected a parts component, got None"),
        ([], "expected a parts component, got [] (list)"),
        ({}, "type: missing: which parts component?\n    write type: NAME, one of the parts"),
        ({"typ": "Leaf"}, "type: missing: which parts component?\n    did you mean 'type' instead of 'typ'?"),
        ({"type": 3}, "type: 'type' must name a class or function, a parts component, got 3 (int)"),
        ({"type": None}, "type: 'type' must name a class or function, a parts component, got None"),
        ({"type": "Leaf", 3: 1}, "3: unknown argument of my-plugin/Leaf\n    it takes size, name"),
    ],
)
def test_an_invalid_spec_is_refused(spec: Any, message: str) -> None:
    assert messages(spec) == [message]


def test_parameter_groups_without_type_are_the_usual_ones() -> None:
    with pytest.raises(ConfigError, match=r"(?s)'Paramwise' needs .*pip install segplug-training"):
        build("parameter_groups", {"bias_lr_mult": 2.0}, catalog=Catalog())


def test_a_component_of_the_wrong_class_is_refused() -> None:
    assert messages({"type": "Tree", "one": {"type": "Sized", "size": 1}}) == [
        "one.type: my-plugin/Sized is not a Leaf"
    ]


@pytest.mark.parametrize("name", ["json:__all__", "math:hypot", "json:encoder"])
def test_a_type_must_be_a_class_or_function(name: str) -> None:
    assert messages({"type": name})[0].startswith("type: 'type' must name a class or function, a parts component, got ")


def test_a_class_method_is_a_type() -> None:
    assert build("parts", {"type": Labels.of, "count": 2}, catalog=CATALOG).classes == ("0", "1")
    assert messages({"type": Labels.of, "coutn": 2})[0].startswith("coutn: unknown argument of of")


def test_arguments_must_be_a_mapping() -> None:
    (problem,) = check(Labels, [1], path="data.labels")  # type: ignore[arg-type]
    assert str(problem) == "data.labels: expected a mapping of the arguments of Labels, got [1] (list)"


# ---------------------------------------------------------------- constructors that raise


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("too small"), "target cannot be built: too small"),
        (TypeError("no such thing"), "target cannot be built: TypeError: no such thing"),
        (KeyError(51), "target cannot be built: KeyError: 51"),
        (AssertionError(), "target cannot be built: AssertionError: "),
        (UsageError("give one or the other"), "target cannot be built: give one or the other"),
        (UnknownComponentError("layers", "BM"), "target cannot be built: no layers component is called 'BM'"),
        (ConfigError(Problem("from inside")), "from inside"),
    ],
)
def test_errors_of_a_constructor_become_config_errors(error: Exception, text: str) -> None:
    def target(x: int) -> None:
        raise error

    with pytest.raises(ConfigError) as caught:
        build(target, MarkedDict({"x": 1}, place=Place("my.yaml", 2, 1)), path="model.neck")
    (problem,) = caught.value.problems
    assert (problem.place, problem.path, problem.message) == ("my.yaml:2:1", "model.neck", text)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [DataError("missing", "a.png"), RuntimeError("out of memory"), KeyboardInterrupt()])
def test_errors_unrelated_to_the_config_are_not_converted(error: BaseException) -> None:
    def target() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        build(target, {})
    assert caught.value is error


def test_an_error_of_a_nested_constructor_has_its_path() -> None:
    with pytest.raises(ConfigError, match=r"^one: my-plugin/Leaf cannot be built|several") as caught:
        build("parts", {"type": Pair, "several": [{"type": "Sized", "size": -1}]}, catalog=CATALOG)
    assert caught.value.problems[0].path == "several[0]"


class Pair(Part):
    def __init__(self, several: Sequence[Sized]) -> None:
        self.several = several


# ---------------------------------------------------------------- signatures


class BaseArguments(TypedDict, total=False):
    channels: int
    classes: int
    ratio: float
    leaf: Leaf | None
    unknown_to_base: NotRequired[str]


class Base(Part):
    """A base.

    Args:
        channels: Channels of the last layer.
        ratio: Share dropped.
    """

    def __init__(self, channels: int, *, classes: int, ratio: float = 0.1, leaf: Leaf | None = None) -> None:
        self.channels, self.classes, self.ratio, self.leaf = channels, classes, ratio, leaf


class Middle(Base):
    """A head.

    Args:
        depth: Number of layers.
    """

    def __init__(self, depth: int = 2, **kwargs: Unpack[BaseArguments]) -> None:
        super().__init__(**kwargs)
        self.depth = depth


class Silent(Middle):
    """Inherits its constructor."""


class Fixing(Middle):
    """Decides its channels."""

    fixed_arguments = frozenset({"channels"})

    def __init__(self, **kwargs: Unpack[BaseArguments]) -> None:
        super().__init__(channels=7, **kwargs)


class BelowFixing(Fixing):
    """Forwards to a class that decides its channels."""

    def __init__(self, more: bool = False, **kwargs: Unpack[BaseArguments]) -> None:
        super().__init__(**kwargs)


class Reopening(Fixing):
    """Takes the channels again."""

    def __init__(self, channels: int = 3, **kwargs: Unpack[BaseArguments]) -> None:
        super().__init__(**kwargs)
        self.channels = channels


class FixingWithoutConstructor(Middle):
    """Decides a default."""

    fixed_arguments = {"depth": 2}  # noqa: RUF012


def small_head(**kwargs: Unpack[BaseArguments]) -> Middle:
    """A variant."""
    return Middle(depth=1, **kwargs)


class Open(Part):
    def __init__(self, size: int = 1, **kwargs: Any) -> None: ...


class ForCheckersOnly(Part):
    def __init__(self, size: int = 1, thing: NeverImported | None = None) -> None: ...


class ForwardsForCheckersOnly(Part):
    def __init__(self, size: int = 1, **kwargs: Unpack[NeverImported]) -> None: ...


def test_forwarded_arguments_take_their_default_from_the_base() -> None:
    found = signature(Middle)
    assert list(found) == ["depth", "channels", "classes", "ratio", "leaf", "unknown_to_base"]
    assert found["ratio"].default == 0.1
    assert found["ratio"].owner is Base
    assert found["channels"].required
    assert found["classes"].required
    assert not found["unknown_to_base"].required


def test_a_class_without_constructor_inherits_the_signature() -> None:
    assert list(signature(Silent)) == list(signature(Middle))
    assert list(signature(Part)) == []


def test_a_function_forwards_to_the_class_that_it_returns() -> None:
    assert signature(small_head)["ratio"].default == 0.1


def test_forwarded_arguments_are_built() -> None:
    built = build("parts", {"type": Silent, "channels": 3, "classes": 2, "leaf": {"type": "Leaf"}}, catalog=CATALOG)
    assert (built.channels, built.ratio, built.leaf.size, built.depth) == (3, 0.1, 1, 2)


@pytest.mark.parametrize("cls", [Fixing, BelowFixing])
def test_fixed_arguments_are_refused(cls: type) -> None:
    (problem,) = problems_of({"type": cls, "classes": 2, "channels": 3})
    assert problem.message == f"argument is fixed by {cls.__name__} and cannot be set"
    assert build("parts", {"type": cls, "classes": 2}, catalog=CATALOG).channels == 7


def test_arguments_fixed_by_a_mapping_show_their_value() -> None:
    (problem,) = problems_of({"type": FixingWithoutConstructor, "channels": 1, "classes": 2, "depth": 3})
    assert problem.message == "argument is fixed by FixingWithoutConstructor to 2 (int) and cannot be set"


def test_a_subclass_may_take_a_fixed_argument_again() -> None:
    assert build("parts", {"type": Reopening, "classes": 2, "channels": 5}, catalog=CATALOG).channels == 5


def test_open_arguments_are_not_passed_on_unchecked() -> None:
    assert problems_of({"type": Open, "size": 2}) == []
    (problem,) = problems_of({"type": Open, "anything": 2})
    assert problem.message == "Open does not declare whether it takes this argument"
    assert "**kwargs" in problem.hint


def test_a_name_imported_for_type_checkers_only_breaks_only_its_argument() -> None:
    assert problems_of({"type": ForCheckersOnly, "size": 2}) == []
    (problem,) = problems_of({"type": ForCheckersOnly, "thing": 3})
    assert "NeverImported" in problem.message
    assert "TYPE_CHECKING" in problem.hint
    assert isinstance(signature(ForCheckersOnly)["thing"].annotation, Unresolved)


def test_a_typed_dict_imported_for_type_checkers_only_is_explained() -> None:
    (problem,) = problems_of({"type": ForwardsForCheckersOnly, "thing": 3})
    assert "NeverImported" in problem.hint


def test_dataclasses_are_targets() -> None:
    built = build(MoreLabels, {"classes": ["a", "b"], "leaf": {"type": "Leaf"}, "values": {7: 1}}, catalog=CATALOG)
    assert built.classes == ("a", "b")
    assert isinstance(built.leaf, Leaf)
    assert built.values == {7: 1}
    assert [name for name, parameter in signature(MoreLabels).items() if parameter.required] == ["classes"]


def test_iterables_of_arrays_pass() -> None:
    rows = iter([1, 2])
    assert build(taking(Iterable[int]), {"x": rows}) is rows


def test_torch_optimisers_take_what_the_parent_gives() -> None:
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = build("optimizers", {"type": "AdamW", "lr": 1, "betas": [0.9, 0.99]}, catalog=CATALOG, params=[weight])
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.99)


def test_a_segmentor_is_not_a_head() -> None:
    pytest.importorskip("torch")
    from segkernel.interfaces.model import Segmentor

    class Model(Segmentor):
        pass

    assert [problem.message for problem in check("heads", {"type": Model}, catalog=CATALOG)] == ["Model is not a Head"]


# ---------------------------------------------------------------- ranges


def ordered(pair: Sequence[float]) -> bool:
    return pair[0] <= pair[1]


class Bounded:
    def __init__(
        self,
        share: Probability = 0.5,
        lr: Positive | Sequence[Positive] = 1.0,
        size: OddInt = 3,
        span: Annotated[tuple[float, float], Predicate(ordered)] = (0.0, 1.0),
        names: Annotated[Sequence[str], MinLen(1)] = ("a",),
        free: float = 0.0,
        weights: FileName | Sequence[float] | None = None,
    ) -> None:
        self.share, self.lr, self.size, self.span = share, lr, size, span


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"share": 1.5}, r"share: expected float \(0 or more, 1 or less\), got 1.5"),
        ({"share": float("nan")}, "share: expected float"),
        ({"free": float("nan")}, "free: expected float, got nan"),
        ({"lr": 0}, r"lr: expected float \(above 0\) or a list of float \(above 0\), got 0"),
        ({"lr": float("inf")}, "lr: expected"),
        ({"lr": [1.0, -1.0]}, r"lr\[1\]: expected float \(above 0\), got -1.0"),
        ({"size": 4}, r"size: expected int \(1 or more, odd\), got 4"),
        ({"size": 3.0}, "size: expected int"),
        ({"span": [2, 1]}, r"span: expected a list \[float, float\] \(ordered\), got \[2, 1\]"),
        ({"span": [1]}, "span: expected a list"),
        ({"names": []}, "names: expected a list of str"),
    ],
)
def test_a_value_outside_its_range_is_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        build(Bounded, given)


def test_values_at_the_ends_of_their_ranges_are_taken():
    built = build(Bounded, {"share": 1, "lr": [1e-9], "size": 1, "span": [1, 1], "free": float("inf")})
    assert (built.share, built.lr, built.size, built.span) == (1, [1e-9], 1, (1, 1))


def test_files_can_only_be_named_by_trusted_configs():
    assert build(Bounded, {"weights": "w.npy"})
    with pytest.raises(UntrustedError, match=r"the file w\.npy"):
        build(Bounded, {"weights": "w.npy"}, catalog=Catalog(trusted=False))


@dataclass
class Record:
    factor: float = 1.0


def test_a_component_may_be_a_dataclass():
    assert build("transforms", {"type": f"{__name__}:Record", "factor": 2}).factor == 2


class Named:
    def __init__(self, pretrained: str | None = None) -> None:
        self.pretrained = pretrained


class Fetching:
    def __init__(self, body: Spec | None = None, pretrained: bool = True) -> None:
        self.pretrained = pretrained


def test_pretrained_weights_can_be_turned_off_for_all_parts():
    assert build(Named, {"pretrained": "x.pth"}).pretrained == "x.pth"
    assert build(Named, {"pretrained": "x.pth"}, load_pretrained=False).pretrained is None
    assert build(Fetching, {}, load_pretrained=False).pretrained is False
