"""What `help()` says of each public name, and that a caller meets no type that the package does not have."""

from __future__ import annotations

import contextlib
import enum
import importlib
import inspect
import pkgutil
import re
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

import pytest

import asyncstore
from asyncstore.dimse import message_types

if TYPE_CHECKING:
    from collections.abc import Iterator

PUBLIC: Final = {name: getattr(asyncstore, name) for name in asyncstore._MODULE_OF}
CLASSES: Final = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}
ENUMS: Final = {name: value for name, value in CLASSES.items() if issubclass(value, enum.Enum)}
FUNCTIONS: Final = {name: value for name, value in PUBLIC.items() if inspect.isfunction(value)}
# A program that performs requests of a peer imports the classes of messages from asyncstore.dimse.
ELSEWHERE: Final = "asyncstore.dimse."
MESSAGES: Final = vars(message_types).keys()


def of_the_package(cls: type) -> Iterator[type]:
    """The class and those that it inherits from, as far as they are ours."""
    return (each for each in cls.__mro__ if each.__module__.partition(".")[0] == "asyncstore")


def public_members(cls: type) -> dict[str, Any]:
    """Its methods and properties without an underscore."""
    return {
        name: value
        for each in reversed(list(of_the_package(cls)))
        for name, value in vars(each).items()
        if not name.startswith("_") and isinstance(getattr(value, "__func__", value), property | FunctionType)
    }


def public_attributes(cls: type) -> set[str]:
    """Its attributes without an underscore: fields, and what its constructor sets."""
    names = {name for each in of_the_package(cls) for name in inspect.get_annotations(each)}
    for each in of_the_package(cls):
        if inspect.isfunction(constructor := vars(each).get("__init__")) and constructor.__module__ == each.__module__:
            with contextlib.suppress(OSError):  # one that a dataclass has made has no source
                names.update(re.findall(r"^ +self\.(\w+)(?:: .+)? = ", inspect.getsource(constructor), re.MULTILINE))
    return {name for name in names if not name.startswith("_")}


def parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters) - {"self", "cls"}


def says(text: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", text) is not None


def begins_with_a_sentence(text: str) -> bool:
    """Whether the first paragraph is a sentence, or begins with one, and the second one is set apart from it."""
    first = text.strip().split("\n\n")[0]
    return first[0].isupper() and re.search(r"[.:](\s|\Z)", first) is not None


@pytest.mark.parametrize("name", [*CLASSES, *FUNCTIONS])
def test_each_class_and_function_says_what_it_is_for(name: str) -> None:
    text = PUBLIC[name].__doc__
    assert text, "it has no docstring of its own"
    assert begins_with_a_sentence(text)


@pytest.mark.parametrize("name", CLASSES)
def test_each_method_and_property_says_what_it_does(name: str) -> None:
    texts = {member: inspect.getdoc(getattr(CLASSES[name], member)) for member in public_members(CLASSES[name])}
    assert [member for member, text in texts.items() if not text or not begins_with_a_sentence(text)] == []


@pytest.mark.parametrize("name", ENUMS)
def test_each_member_of_an_enum_is_explained(name: str) -> None:
    text = inspect.getdoc(ENUMS[name]) or ""
    assert [member.name for member in ENUMS[name] if not says(text, member.name)] == []


@pytest.mark.parametrize("name", CLASSES)
def test_each_field_and_each_argument_of_a_class_is_explained(name: str) -> None:
    cls = CLASSES[name]
    names = public_attributes(cls) - public_members(cls).keys()
    if not issubclass(cls, Exception | enum.Enum) and not getattr(cls, "_is_protocol", False):
        names |= parameters(cls)
    # Errors are read as a tree: what a base class explains is not said again.
    explained_by = of_the_package(cls) if issubclass(cls, Exception) else [cls]
    text = "\n".join(inspect.getdoc(each) or "" for each in explained_by)
    assert sorted(each for each in names if not says(text, each)) == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_argument_of_a_function_is_explained(name: str) -> None:
    text = FUNCTIONS[name].__doc__ or ""
    assert sorted(each for each in parameters(FUNCTIONS[name]) if not says(text, each)) == []


def classes_of_the_package() -> dict[str, set[type]]:
    """The classes that each name stands for, wherever in the library."""
    found: dict[str, set[type]] = {}
    for module in pkgutil.walk_packages(asyncstore.__path__, "asyncstore."):
        if ".cli" in module.name or module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if inspect.isclass(value) and value.__module__ == module.name:
                found.setdefault(name, set()).add(value)
    return found


def annotations_met(value: Any) -> Iterator[tuple[str, str]]:
    """Where a caller meets a type, and how it is written there."""
    if not inspect.isclass(value):
        for name, text in inspect.get_annotations(value).items():
            yield name, str(text)
        return
    for each in of_the_package(value):
        for name, text in inspect.get_annotations(each).items():
            if not name.startswith("_"):
                yield name, str(text)
        for name, member in {**public_members(each), "__init__": vars(each).get("__init__")}.items():
            function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            for parameter, text in inspect.get_annotations(function).items() if function else ():
                yield f"{name}, {parameter}", str(text)


@pytest.mark.parametrize("name", [*CLASSES, *FUNCTIONS])
def test_each_type_that_a_caller_meets_is_a_public_one(name: str) -> None:
    ours = classes_of_the_package()
    exported = set(map(id, PUBLIC.values()))
    unknown = [
        (where, word)
        for where, text in annotations_met(PUBLIC[name])
        for word in re.findall(r"[A-Za-z_]\w*", text)
        if word in ours.keys() - MESSAGES
        and not any(id(each) in exported or each.__module__.startswith(ELSEWHERE) for each in ours[word])
    ]
    assert unknown == []


def test_a_transfer_and_an_association_show_callers_only_what_is_theirs() -> None:
    peer = asyncstore.Peer("127.0.0.1", 104)
    transfer = asyncstore.Transfer(peer, [])
    association = asyncstore.associate(peer, contexts=[("1.2.840.10008.1.1", "1.2.840.10008.1.2")])
    shown = [{name for name in dir(value) if not name.startswith("_")} for value in (transfer, association)]
    assert shown == [
        {"peer", "options", "report", "limits", "limit", "take_ready", "view", "ledger_files", "drain", "abort"},
        {"peer", "timeouts", "contexts", "extended_negotiations", "window", "is_open", "failure", "outstanding"}
        | {"store", "find", "request_commitment", "echo", "release", "abort"},
    ]


@pytest.mark.parametrize("name", [*CLASSES, *FUNCTIONS])
def test_help_can_be_asked_for(name: str) -> None:
    import pydoc

    text = pydoc.plain(pydoc.render_doc(PUBLIC[name]))
    assert (PUBLIC[name].__doc__ or "").strip().splitlines()[0] in text
