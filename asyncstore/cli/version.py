"""Which version of the package this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """The version of the installed package; "(not installed)" when it runs from a source tree."""
    try:
        return version("asyncstore")
    except PackageNotFoundError:
        return "(not installed)"
