"""A record does what a dataclass does, and compiles its methods only when one of them is used."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import pydoc
from dataclasses import field
from typing import Any

import pytest

from asyncstore.record import record


@record(slots=True)
class Plain:
    """Two values and a list."""

    first: int
    second: str = "b"
    more: list[int] = field(default_factory=list)
    hidden: int = field(default=7, init=False, repr=False)


@dataclasses.dataclass(slots=True)
class PlainDataclass:
    """Two values and a list."""

    first: int
    second: str = "b"
    more: list[int] = field(default_factory=list)
    hidden: int = field(default=7, init=False, repr=False)


@record(frozen=True, slots=True)
class Frozen:
    """Two values, the first of which is positive."""

    first: int
    second: str = "b"

    def __post_init__(self) -> None:
        if self.first <= 0:
            raise ValueError(f"{self.first} is not positive")


@record(slots=True, eq=False)
class Single:
    """One that equals itself alone."""

    first: int


@record(slots=True, unsafe_hash=True)
class Hashed:
    """One that may be changed and has a hash all the same."""

    first: int


@record(frozen=True, slots=True, repr=False)
class Secret:
    """One that writes its own repr."""

    first: str

    def __repr__(self) -> str:
        return "Secret(...)"


@record(frozen=True, slots=True)
class Unused:
    """One that nothing but its signature is asked of."""

    first: int
    second: str = "b"


def test_the_arguments_can_be_asked_for_before_the_first_use() -> None:
    assert list(inspect.signature(Unused).parameters) == ["first", "second"]
    assert list(inspect.signature(Unused).parameters) == ["first", "second"]
    assert Unused(1).second == "b"
    assert "first: 'int'" in pydoc.plain(pydoc.render_doc(Frozen))


def test_values_come_by_place_by_name_and_by_default() -> None:
    assert Plain(1) == Plain(first=1, second="b", more=[]) != Plain(2)
    assert repr(Plain(1, more=[2])) == "Plain(first=1, second='b', more=[2])"
    assert Plain(1).hidden == 7
    assert Plain(1).more is not Plain(1).more


def test_the_first_objects_are_as_all_later_ones() -> None:
    @record(frozen=True, slots=True)
    class Fresh:
        """A value, and another one by default."""

        first: int
        second: list[int] = field(default_factory=list)

    made = [Fresh(number, [number]) for number in range(40)] + [Fresh(first=number) for number in range(40)]
    assert [each.first for each in made] == [*range(40), *range(40)]
    assert [each.second for each in made] == [*([number] for number in range(40)), *([] for _ in range(40))]
    assert made[0] == Fresh(0, [0]) != made[40]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'first'"):
        Fresh()  # type: ignore[call-arg]


@pytest.mark.parametrize("arguments", [{}, {"first": 1, "third": 3}, {"first": 1, "hidden": 3}])
def test_wrong_arguments_are_refused_as_by_a_dataclass(arguments: dict[str, Any]) -> None:
    with pytest.raises(TypeError) as told:
        Plain(**arguments)
    with pytest.raises(TypeError) as expected:
        PlainDataclass(**arguments)
    assert str(told.value) == str(expected.value).replace("PlainDataclass", "Plain")


@pytest.mark.parametrize("name", ["first", "unknown"])
def test_a_frozen_one_cannot_be_changed(name: str) -> None:
    frozen = Frozen(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(frozen, name, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(frozen, name)
    assert frozen == Frozen(1)
    assert hash(frozen) == hash(Frozen(1))


def test_it_is_checked_when_it_is_made() -> None:
    with pytest.raises(ValueError, match="0 is not positive"):
        Frozen(0)


def test_equality_and_hash_are_those_that_were_asked_for() -> None:
    one = Single(1)
    assert one == one != Single(1)
    assert len({one, Single(1)}) == 2
    assert hash(Hashed(1)) == hash(Hashed(1))
    with pytest.raises(TypeError, match="unhashable"):
        hash(Plain(1))


def test_another_class_with_the_same_values_is_not_equal() -> None:
    class Derived(Plain):
        pass

    assert Plain(1) != PlainDataclass(1)  # type: ignore[comparison-overlap]
    assert Plain(1) != Derived(1) == Derived(1)
    assert repr(Derived(1, more=[2])).endswith("Derived(first=1, second='b', more=[2])")


def test_one_that_contains_itself_can_be_shown() -> None:
    whole = Plain(1)
    whole.more.append(whole)  # type: ignore[arg-type]
    assert repr(whole) == "Plain(first=1, second='b', more=[...])"


def test_what_the_class_writes_itself_stays() -> None:
    assert repr(Secret("pass")) == "Secret(...)"


@pytest.mark.parametrize("made", [Plain(1, "c", [2]), Frozen(3), Hashed(4), Secret("pass")], ids=repr)
def test_copies_are_equal(made: Any) -> None:
    for again in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made)), dataclasses.replace(made)):
        assert again == made
        assert type(again) is type(made)


def test_it_is_a_dataclass_to_whoever_asks() -> None:
    assert dataclasses.asdict(Frozen(1)) == {"first": 1, "second": "b"}
    assert [each.name for each in dataclasses.fields(Plain)] == ["first", "second", "more", "hidden"]
    Plain(1)
    assert inspect.signature(Plain) == inspect.signature(PlainDataclass)
    assert Frozen.__match_args__ == ("first", "second")
    assert dataclasses.is_dataclass(Plain)
    assert repr(Plain.__dataclass_params__) == repr(PlainDataclass.__dataclass_params__)  # type: ignore[attr-defined]


def test_nothing_is_compiled_for_a_few_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    real = dataclasses.dataclass

    def counted(cls: type | None = None, /, **arguments: Any) -> Any:
        made.append(arguments.get("init", True))
        return real(cls, **arguments)

    monkeypatch.setattr(dataclasses, "dataclass", counted)

    @record(frozen=True, slots=True)
    class Late:
        """One value."""

        value: int

    few = [Late(1), Late(2)]
    assert not made
    assert few == [Late(1), Late(2)]
    assert repr(few) == f"[{Late.__qualname__}(value=1), {Late.__qualname__}(value=2)]"
    assert len({*few, Late(1)}) == 2
    assert not made
    assert [Late(1) for _ in range(40)] == [Late(1)] * 40
    assert made == [True]
