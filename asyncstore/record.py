"""Dataclasses that compile nothing while a module is imported, for most runs use few of the classes.

`dataclasses` writes the source of up to five methods of each class and compiles it at once: for this package that is an
eighth of the time that a command needs to start. All records share their methods, which read what they need from the
record's definition. Only `__init__` is compiled, for speed, when a record has been used a few times.
"""

from __future__ import annotations

import dataclasses
import reprlib
from dataclasses import field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, TypeAlias, TypeVar, dataclass_transform

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
# Name, whether it is an argument, what it is if none is given, and whether a repr shows it.
_Field: TypeAlias = "tuple[str, bool, object, Any, bool]"
# The names of its arguments in their order, the defaults, and what makes the other defaults.
_Filling: TypeAlias = "tuple[list[str], dict[str, object], dict[str, Callable[[], object]]]"

__all__ = ["field", "record"]

# How many objects are filled without a compiled `__init__`: one takes as long as to fill fifty. A record of which each
# run makes hundreds writes its `__init__` itself.
_FILLED: Final = 12


@dataclass_transform(field_specifiers=(dataclasses.field,))
def record(
    *, slots: Literal[True], frozen: bool = False, eq: bool = True, repr: bool = True, unsafe_hash: bool = False
) -> Callable[[type[_T]], type[_T]]:
    """What `dataclasses.dataclass` does, by the same arguments, but for the time at which it does it."""

    def decorate(cls: type[_T]) -> type[_T]:
        own = dict(vars(cls))
        # A class of its own, since slots cannot be added to one: what a second class of this body must not have.
        own.pop("__dict__", None)
        own.pop("__weakref__", None)
        kept = own.get("__annotations__", {}).items()
        names = tuple([name for name, annotation in kept if "ClassVar" not in str(annotation)])
        body = {
            **_METHODS,
            **(_FROZEN if frozen else {}),
            **(_SHOWN if repr else {}),
            **(_COMPARED if eq else {}),
            **(_HASHED if unsafe_hash or (eq and frozen) else {}),
            **own,
        }
        for name in names:
            body.pop(name, None)
        definition = _Definition(own, names, {"frozen": frozen, "eq": eq, "repr": repr, "unsafe_hash": unsafe_hash})
        body |= {"__slots__": names, "__qualname__": cls.__qualname__, "__record__": definition}
        kind: Any = type(cls)
        definition.cls = kind(cls.__name__, cls.__bases__, body)
        return definition.cls

    return decorate


class _Definition:
    """What a record was written as, and what follows from that when somebody asks."""

    cls: type[Any]

    def __init__(self, own: dict[str, Any], names: tuple[str, ...], options: dict[str, bool]) -> None:
        self.own = own
        self.names = names
        self.options = options
        self.filled = 0
        self._fields: list[_Field] | None = None
        self._filling: _Filling | None = None
        # All values of an object.
        self.values = (
            attrgetter(*names) if len(names) > 1 else lambda made: tuple(getattr(made, name) for name in names)
        )

    @property
    def fields(self) -> list[_Field]:
        """The fields that the class body declares; a record does not inherit any."""
        if self._fields is None:
            self._fields = []
            for name in self.names:
                given = self.own.get(name, dataclasses.MISSING)
                if isinstance(given, dataclasses.Field):
                    self._fields.append((name, given.init, given.default, given.default_factory, given.repr))
                else:
                    self._fields.append((name, True, given, dataclasses.MISSING, True))
        return self._fields

    def as_dataclass(self, **chosen: bool) -> type[Any]:
        """A dataclass of the same body."""
        bare = type(self.cls.__name__, self.cls.__bases__, self.own.copy())
        return dataclasses.dataclass(slots=True, **chosen)(bare)

    def arguments(self, given: tuple[object, ...], keywords: dict[str, object]) -> dict[str, object] | None:
        """The value of each field; None if these are not its arguments: the compiled method says what is wrong."""
        if self._filling is None:
            self._filling = _filling(self.fields)
        places, defaults, factories = self._filling
        values = {**defaults, **dict(zip(places, given, strict=False)), **keywords}
        for name, factory in factories.items():
            if name not in values:
                values[name] = factory()
        is_right = (
            len(values) == len(self.names) and len(given) <= len(places) and keywords.keys() <= {*places[len(given) :]}
        )
        return values if is_right else None

    def compile_init(self) -> Callable[..., None]:
        """Give the class an `__init__` of its own, which is several times as fast, and tells its arguments."""
        made = self.as_dataclass(frozen=self.options["frozen"], eq=False, repr=False)
        init: Callable[..., None] = vars(made)["__init__"]
        init.__qualname__ = f"{self.cls.__qualname__}.__init__"
        self.cls.__init__ = init
        return init


def _filling(fields: list[_Field]) -> _Filling:
    return (
        [name for name, init, *_ in fields if init],
        {name: default for name, _, default, *_ in fields if default is not dataclasses.MISSING},
        {name: factory for name, _, _, factory, _ in fields if factory is not dataclasses.MISSING},
    )


class _Asked:
    """An attribute of a class until `dataclasses` asks for it."""

    def __init__(self, name: str, **chosen: bool) -> None:
        self._name = name
        self._chosen = chosen

    def __get__(self, instance: object, owner: type[Any]) -> object:
        definition: _Definition = owner.__record__
        made = definition.as_dataclass(**(self._chosen or definition.options))
        value = getattr(made, self._name)
        setattr(definition.cls, self._name, value)
        return value


class _Signature:
    """None, as if there were no signature: `inspect` then looks at `__init__`, which shows its arguments now."""

    def __get__(self, instance: object, owner: type[Any]) -> None:
        definition: _Definition = owner.__record__
        if "__init__" not in definition.own:
            definition.compile_init()


class _Places:
    """The names of the fields for `match`."""

    def __get__(self, instance: object, owner: type[Any]) -> tuple[str, ...]:
        return tuple(name for name, init, *_ in owner.__record__.fields if init)


def _init(self: Any, *arguments: Any, **keywords: Any) -> None:
    """Set the fields: of most classes a run makes a few objects."""
    definition: _Definition = self.__record__
    definition.filled += 1
    values = definition.arguments(arguments, keywords) if definition.filled <= _FILLED else None
    if values is None:
        definition.compile_init()(self, *arguments, **keywords)
        return
    for name, value in values.items():
        object.__setattr__(self, name, value)
    if (check := getattr(self, "__post_init__", None)) is not None:
        check()


@reprlib.recursive_repr()
def _repr(self: Any) -> str:
    shown = [name for name, *_, is_shown in self.__record__.fields if is_shown]
    return f"{type(self).__qualname__}({', '.join([f'{name}={getattr(self, name)!r}' for name in shown])})"


def _eq(self: Any, other: Any) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    values = self.__record__.values
    return values(self) == values(other)


def _hash(self: Any) -> int:
    return hash(self.__record__.values(self))


def _refuse_to_set(self: object, name: str, value: object) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(self: object, name: str) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _state(self: Any) -> list[Any]:
    return [getattr(self, name) for name in self.__record__.names]


def _set_state(self: Any, state: list[Any]) -> None:
    for name, value in zip(self.__record__.names, state, strict=True):
        object.__setattr__(self, name, value)


_METHODS: Final = {
    "__init__": _init,
    "__signature__": _Signature(),
    "__match_args__": _Places(),
    "__dataclass_fields__": _Asked("__dataclass_fields__", init=False, eq=False, repr=False),
    "__dataclass_params__": _Asked("__dataclass_params__"),
}
_SHOWN: Final = {"__repr__": _repr}
_COMPARED: Final = {"__eq__": _eq, "__hash__": None}
_HASHED: Final = {"__hash__": _hash}
_FROZEN: Final = {
    "__setattr__": _refuse_to_set,
    "__delattr__": _refuse_to_delete,
    "__getstate__": _state,
    "__setstate__": _set_state,
}
