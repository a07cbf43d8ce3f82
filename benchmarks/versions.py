"""Which of the compared programs are there, and in which version."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from functools import cache
from typing import Final

from benchmarks.measure import PROJECT, native_program, output_of, run_process


def _first_words(text: str | None, needle: str) -> str | None:
    for line in (text or "").splitlines():
        if needle in line:
            return line.replace("$", "").strip()
    return None


@cache
def dcmtk_version(program: str) -> str | None:
    """The version of DCMTK that has this program, or None."""
    path = native_program(program)
    text = _first_words(output_of([path, "--version"]), "dcmtk") if path else None
    return text.removeprefix("dcmtk:").strip() if text else None


@cache
def gdcm_version() -> str | None:
    """The version of gdcmscu, or None."""
    path = native_program("gdcmscu")
    text = output_of([path, "--version"]) if path else None
    return text.partition(": ")[2].partition("$")[0].strip() or None if text else None


@cache
def dicom_rs_program() -> str | None:
    """Where dicom-rs's dicom-storescu is, or None."""
    return os.environ.get("DICOM_RS_STORESCU") or shutil.which("dicom-storescu")


@cache
def dicom_rs_version() -> str | None:
    """The version of dicom-storescu, or None."""
    program = dicom_rs_program()
    text = output_of([program, "--version"]) if program else None
    return text.strip() if text else None


@cache
def pynetdicom_version() -> str | None:
    """The version of the pynetdicom of this interpreter, or None."""
    try:
        return f"pynetdicom {importlib.metadata.version('pynetdicom')}"
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def dcmjs_version() -> str | None:
    """The version of dcmjs-dimse where node can load it, or None."""
    if not shutil.which("node"):
        return None
    text = output_of(["node", "-e", _DCMJS_VERSION_SCRIPT])
    return f"dcmjs-dimse {text.strip()}" if text and text[0].isdigit() else None


_DCMJS_VERSION_SCRIPT: Final = (
    "const home = process.env.ASYNCSTORE_DCMJS_DIMSE;"
    "const load = (name) => require(home ? require('path').join(home, name) : name);"
    "console.log(load('dcmjs-dimse').version + ', node ' + process.version)"
)


@cache
def asyncstore_version(command: str = "storescu") -> str | None:
    """The version of the asyncstore beside this directory, or None while it has no such command."""
    run = run_process([sys.executable, "-m", "asyncstore", command, "--help"], timeout_seconds=60)
    if run.exit_code != 0:
        return None
    script = "import importlib.metadata, asyncstore; print(getattr(asyncstore, '__version__', ''))"
    text = output_of([sys.executable, "-c", script])
    commit = output_of(["git", "-C", str(PROJECT), "describe", "--always", "--dirty"])
    return " ".join(["asyncstore", *(text or "").split(), *(commit or "").split()[:1]])


@cache
def orthanc_version() -> str | None:
    """The version of Orthanc, or None."""
    program = native_program("Orthanc")
    text = output_of([program, "--version"]) if program else None
    return text.splitlines()[0] if text else None
