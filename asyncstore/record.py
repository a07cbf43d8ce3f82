"""Dataclasses that compile their methods at the first use of the class, for most runs use few of the classes.

`dataclasses` writes the source of up to five methods of each class and compiles it while the module is imported: for
this package that is an eighth of the time that a command needs to start.
"""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

__all__ = ["field", "record"]


@dataclass_transform(field_specifiers=(dataclasses.field,))
def record(
    *, frozen: bool = False, slots: bool = False, eq: bool = True, repr: bool = True, unsafe_hash: bool = False
) -> Callable[[type[_T]], type[_T]]:
    """What `dataclasses.dataclass` does, by the same arguments, but for the time at which it does it."""
    wanted = {"frozen": frozen, "eq": eq, "repr": repr, "unsafe_hash": unsafe_hash}

    def decorate(cls: type[_T]) -> type[_T]:
        own = {name: value for name, value in vars(cls).items() if name not in _NOT_OF_A_COPY}
        cls = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots)(cls)

        def compile_methods() -> None:
            if "__signature__" in vars(cls):
                del cls.__signature__  # type: ignore[attr-defined]
            made: type[Any] = dataclasses.dataclass(slots=slots, **wanted)(type(cls.__name__, cls.__bases__, own))
            for name in deferred:
                method = vars(made)[name]
                method.__qualname__ = f"{cls.__qualname__}.{name}"
                setattr(cls, name, method)

        deferred = [name for name in _methods(**wanted) if name not in own]
        for name in deferred:
            setattr(cls, name, _deferred(name, compile_methods))
        if eq and "__hash__" not in (*own, *deferred):
            cls.__hash__ = None  # type: ignore[assignment]
        if "__init__" in deferred:
            cls.__init__ = _filling(cls, compile_methods)  # type: ignore[method-assign]
            cls.__signature__ = _Asked(compile_methods)  # type: ignore[attr-defined]
        if frozen:
            for name, method in _FROZEN.items():
                if name not in own:
                    setattr(cls, name, method)
        return cls

    return decorate


# How many objects are filled without a compiled `__init__`, which pays from about thirty on.
_FILLED = 8
# Of a class body: what a second class of it must not have.
_NOT_OF_A_COPY = frozenset(("__dict__", "__weakref__", "__slots__"))


def _methods(*, frozen: bool, eq: bool, repr: bool, unsafe_hash: bool) -> list[str]:
    """The methods that a dataclass with these arguments has."""
    methods = ["__init__"]
    if repr:
        methods.append("__repr__")
    if eq:
        methods.append("__eq__")
    if unsafe_hash or (eq and frozen):
        methods.append("__hash__")
    return methods


def _deferred(name: str, compile_methods: Callable[[], None]) -> Callable[..., Any]:
    """A method that puts the compiled ones into the class, itself among them, and goes on as that."""

    def method(self: object, *arguments: Any, **keywords: Any) -> Any:
        compile_methods()
        return getattr(self, name)(*arguments, **keywords)

    return method


class _Asked:
    """The signature of a class until it is asked for: then the compiled methods have it, as `help` shows it."""

    def __init__(self, compile_methods: Callable[[], None]) -> None:
        self._compile_methods = compile_methods

    def __get__(self, instance: object, owner: type) -> None:
        self._compile_methods()


def _filling(cls: type[Any], compile_methods: Callable[[], None]) -> Callable[..., None]:
    """An `__init__` that sets the fields of the first few objects itself: of most classes a run makes no more."""
    filled = 0

    def __init__(self: object, *arguments: Any, **keywords: Any) -> None:
        nonlocal filled
        filled += 1
        values = _values(cls, arguments, keywords) if filled <= _FILLED else None
        if values is None:
            compile_methods()
            cls.__init__(self, *arguments, **keywords)
            return
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if (check := getattr(self, "__post_init__", None)) is not None:
            check()

    return __init__


def _values(cls: type[Any], arguments: tuple[object, ...], keywords: dict[str, object]) -> dict[str, object] | None:
    """The value of each field; None if these are not its arguments: the compiled method says what is wrong."""
    fields = dataclasses.fields(cls)
    given: dict[str, object] = dict(zip((each.name for each in fields if each.init), arguments, strict=False))
    if len(given) < len(arguments) or given.keys() & keywords.keys():
        return None
    given |= keywords
    values: dict[str, object] = {}
    for each in fields:
        if each.init and each.name in given:
            values[each.name] = given.pop(each.name)
        elif each.default is not dataclasses.MISSING:
            values[each.name] = each.default
        elif each.default_factory is not dataclasses.MISSING:
            values[each.name] = each.default_factory()
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
