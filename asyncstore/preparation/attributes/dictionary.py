"""The attributes of the standard (PS3.6): pydicom's table of them, without the rest of pydicom.

Importing pydicom takes a quarter of a second, in which 500 files could be sent; its table is one file without imports.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from typing import Any, NamedTuple

_TABLE = "pydicom._dicom_dict"


class Attribute(NamedTuple):
    """The VR of an attribute, "US or SS" say, its value multiplicity, and its keyword."""

    vr: str
    vm: str
    keyword: str


_UNKNOWN = Attribute("UN", "1-n", "")


@functools.cache
def table() -> dict[int, tuple[str, str, str, str, str]]:
    """All attributes by tag: VR, VM, name, whether it is retired, and keyword."""
    module = sys.modules.get(_TABLE) or _loaded()
    found: dict[int, tuple[str, str, str, str, str]] = module.DicomDictionary
    return found


def _loaded() -> Any:
    package = importlib.util.find_spec("pydicom")
    assert package is not None, "pydicom is one of our requirements"
    assert package.origin is not None, "it is a package with an __init__"
    path = os.path.join(os.path.dirname(package.origin), "_dicom_dict.py")
    spec = importlib.util.spec_from_file_location("asyncstore._dicom_dict", path)
    if spec is None or spec.loader is None or not os.path.exists(path):
        return importlib.import_module(_TABLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def _tags() -> dict[str, int]:
    return {entry[4]: int(tag) for tag, entry in table().items() if entry[4]}


def tag_of(keyword: str) -> int | None:
    """The tag of a keyword; None if there is no such attribute."""
    return _tags().get(keyword)


def attribute(tag: int) -> Attribute:
    """What the standard says of a tag; VR "UN" for one that it does not have."""
    entry = table().get(tag)
    if entry is not None:
        return Attribute(entry[0], entry[1], entry[4])
    if tag >> 16 & 1 or not tag & 0xFFFF:
        return _UNKNOWN
    from pydicom import datadict  # which knows the groups that repeat, as those of overlays

    try:
        return Attribute(datadict.dictionary_VR(tag), datadict.dictionary_VM(tag), "")
    except KeyError:
        return _UNKNOWN
