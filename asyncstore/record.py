"""Dataclasses that compile nothing while a module is imported, for most runs use few of the classes.

`dataclasses` writes the source of up to five methods of each class and compiles it at once: for this package that is an
eighth of the time that a command needs to start. A record compiles its `__init__`, for speed, when it has been used a
few times.
"""

from __future__ import annotations

import dataclasses
import reprlib
from dataclasses import field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, dataclass_transform

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
# Name, whether it is an argument, what it is if none is given, and whether a repr shows it.
_Field: TypeAlias = "tuple[str, bool, object, Any, bool]"

__all__ = ["field", "record"]


@dataclass_transform(field_specifiers=(dataclasses.field,))
def record(
    *, frozen: bool = False, slots: bool = False, eq: bool = True, repr: bool = True, unsafe_hash: bool = False
) -> Callable[[type[_T]], type[_T]]:
    """What `dataclasses.dataclass` does, by the same arguments, but for the time at which it does it."""

    def decorate(cls: type[_T]) -> type[_T]:
        own = {name: value for name, value in vars(cls).items() if name not in _NOT_OF_A_COPY}
        fields = _fields(own)

        def dataclass_of(**chosen: bool) -> type[Any]:
            return dataclasses.dataclass(slots=slots, **chosen)(type(cls.__name__, cls.__bases__, own.copy()))

        def compile_init() -> Callable[..., None]:
            if "__signature__" in vars(cls):
                del cls.__signature__  # type: ignore[attr-defined]
            made: Callable[..., None] = vars(dataclass_of(frozen=frozen, eq=False, repr=False))["__init__"]
            made.__qualname__ = f"{cls.__qualname__}.__init__"
            cls.__init__ = made  # type: ignore[method-assign]
            return made

        def have_fields() -> None:
            made = dataclass_of(init=False, eq=False, repr=False)
            cls.__dataclass_fields__ = made.__dataclass_fields__  # type: ignore[attr-defined]

        def have_parameters() -> None:
            made = dataclass_of(frozen=frozen, eq=eq, repr=repr, unsafe_hash=unsafe_hash)
            cls.__dataclass_params__ = made.__dataclass_params__  # type: ignore[attr-defined]

        more = _methods(fields, shown=repr, compared=eq, hashed=unsafe_hash or (eq and frozen))
        if frozen:
            more |= _FROZEN
        if "__init__" not in own:
            more |= {"__init__": _filling(fields, compile_init), "__signature__": _Asked("__signature__", compile_init)}
        if eq and "__eq__" not in own:
            more.setdefault("__hash__", None)
        more["__match_args__"] = tuple(name for name, init, *_ in fields if init)
        # For the functions of `dataclasses`.
        more["__dataclass_fields__"] = _Asked("__dataclass_fields__", have_fields)
        more["__dataclass_params__"] = _Asked("__dataclass_params__", have_parameters)
        more = {name: value for name, value in more.items() if name not in own}
        cls = _with_slots(cls, {**own, **more}, fields) if slots else _with_attributes(cls, more, fields)
        return cls

    return decorate


# How many objects are filled without a compiled `__init__`. One pays from about thirty on; a class of which a run makes
# hundreds should have it soon.
_FILLED = 12
# Of a class body: what a second class of it must not have.
_NOT_OF_A_COPY = frozenset(("__dict__", "__weakref__", "__slots__"))


def _fields(own: dict[str, Any]) -> list[_Field]:
    """The fields that a class body declares; a record does not inherit any."""
    fields: list[_Field] = []
    for name, annotation in own.get("__annotations__", {}).items():
        if str(annotation).removeprefix("typing.").startswith("ClassVar"):
            continue
        given = own.get(name, dataclasses.MISSING)
        if isinstance(given, dataclasses.Field):
            fields.append((name, given.init, given.default, given.default_factory, given.repr))
        else:
            fields.append((name, True, given, dataclasses.MISSING, True))
    return fields


def _methods(fields: list[_Field], *, shown: bool, compared: bool, hashed: bool) -> dict[str, Any]:
    """The methods that a dataclass has but for `__init__`: these need not be compiled for each class."""
    values = _values_of([name for name, *_ in fields])

    def __eq__(self: object, other: object) -> Any:
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    def __hash__(self: object) -> int:
        return hash(values(self))

    wanted = (("__repr__", shown, _repr), ("__eq__", compared, __eq__), ("__hash__", hashed, __hash__))
    methods: dict[str, Any] = {name: method for name, is_wanted, method in wanted if is_wanted}
    methods["__shown__"] = [name for name, *_, is_shown in fields if is_shown]
    return methods


@reprlib.recursive_repr()
def _repr(self: Any) -> str:
    parts = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__shown__)
    return f"{type(self).__qualname__}({parts})"


def _values_of(names: list[str]) -> Callable[[object], tuple[object, ...]]:
    """What gives the values of these attributes of an object."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda record: tuple(getattr(record, name) for name in names)


def _with_slots(cls: type[_T], body: dict[str, Any], fields: list[_Field]) -> type[_T]:
    """The class with a slot for each field: a class of its own, since slots cannot be added to one."""
    names = tuple(name for name, *_ in fields)
    for name in names:
        body.pop(name, None)
    kind: Any = type(cls)
    made: type[_T] = kind(cls.__name__, cls.__bases__, {**body, "__slots__": names, "__qualname__": cls.__qualname__})
    return made


def _with_attributes(cls: type[_T], more: dict[str, Any], fields: list[_Field]) -> type[_T]:
    """The class with more attributes, and the default of each field in place of what `field` returned."""
    for name, value in more.items():
        setattr(cls, name, value)
    for name, _, default, *_ in fields:
        if default is not dataclasses.MISSING:
            setattr(cls, name, default)
        elif name in vars(cls):
            delattr(cls, name)
    return cls


class _Asked:
    """An attribute of a class until it is asked for."""

    def __init__(self, name: str, set_it: Callable[[], object]) -> None:
        self._name = name
        self._set_it = set_it

    def __get__(self, instance: object, owner: type) -> object:
        self._set_it()
        return None if self._name == "__signature__" else getattr(owner, self._name)


def _filling(fields: list[_Field], compile_init: Callable[[], Callable[..., None]]) -> Callable[..., None]:
    """An `__init__` that sets the fields of the first few objects itself: of most classes a run makes no more."""
    filled = 0
    names = [name for name, init, *_ in fields if init]

    def __init__(self: object, *arguments: Any, **keywords: Any) -> None:
        nonlocal filled
        filled += 1
        values = _values(fields, names, arguments, keywords) if filled <= _FILLED else None
        if values is None:
            compile_init()(self, *arguments, **keywords)
            return
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if (check := getattr(self, "__post_init__", None)) is not None:
            check()

    return __init__


def _values(
    fields: list[_Field], names: list[str], arguments: tuple[object, ...], keywords: dict[str, object]
) -> dict[str, object] | None:
    """The value of each field; None if these are not its arguments: the compiled method says what is wrong."""
    given: dict[str, object] = dict(zip(names, arguments, strict=False))
    if len(given) < len(arguments) or given.keys() & keywords.keys():
        return None
    given |= keywords
    values: dict[str, object] = {}
    for name, init, default, default_factory, _ in fields:
        if init and name in given:
            values[name] = given.pop(name)
        elif default is not dataclasses.MISSING:
            values[name] = default
        elif default_factory is not dataclasses.MISSING:
            values[name] = default_factory()
        else:
            return None
    return None if given else values


def _refuse_to_set(self: object, name: str, value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(self: object, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _state(self: Any) -> list[Any]:
    return [getattr(self, each.name) for each in dataclasses.fields(self)]


def _set_state(self: Any, state: list[Any]) -> None:
    for each, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, each.name, value)


_FROZEN = {
    "__setattr__": _refuse_to_set,
    "__delattr__": _refuse_to_delete,
    "__getstate__": _state,
    "__setstate__": _set_state,
}
