"""Compressed files, what independent programs make of them, and codecs that are broken."""

from __future__ import annotations

import contextlib
import os
import subprocess
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pydicom
from pydicom.pixels import get_decoder  # type: ignore[attr-defined]

from asyncstore.errors import SourceError
from asyncstore.inputs.opening import instance_from
from asyncstore.uids import RLE_LOSSLESS, UNCOMPRESSED_TRANSFER_SYNTAXES
from tests.support.peers import require

if TYPE_CHECKING:
    from collections.abc import Iterator

BUNDLED: Final = Path(pydicom.__file__).parent / "data" / "test_files"

# Modules that do this instead of decoding. In color, pydicom asks gdcm first for every JPEG; in gray, imagecodecs is.
_BROKEN_CODECS: Final = {
    "gdcm.py": """\
import os, signal, time
class Version:
    GetVersion = staticmethod(lambda: "3.2.6")
def Fragment():
    {}
""",
    "imagecodecs.py": """\
import os, signal, time
def jpeg8_decode(frame):
    {}
jpegls_decode = jpeg8_decode
""",
}
CRASHES: Final = "os.kill(os.getpid(), signal.SIGSEGV)"
NEVER_ENDS: Final = "signal.pause()"
TAKES_ALL_MEMORY: Final = "return bytearray(1 << 40)"


def broken_codec(directory: Path, does: str) -> Path:
    """A directory for sys.path with codecs that do this."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in _BROKEN_CODECS.items():
        (directory / name).write_text(text.format(does))
    return directory


def compressed_files() -> Iterator[Path]:
    """pydicom's files with compressed pixels."""
    for path in sorted(BUNDLED.glob("*.dcm")):
        with contextlib.suppress(SourceError):
            instance = instance_from(path)
            if (
                instance.transfer_syntax_uid not in UNCOMPRESSED_TRANSFER_SYNTAXES
                and b"\xe0\x7f\x10\0OB" in path.read_bytes()
            ):
                yield path


def with_another_uid(path: Path, copy: Path, number: int) -> None:
    """Copy a file under another SOP Instance UID, which ends in this number: some of pydicom's files share one."""
    uid = instance_from(path).sop_instance_uid.encode("ascii")
    copy.write_bytes(path.read_bytes().replace(uid, uid[:-3] + b"%03d" % (100 + number)))


def decoded_by_another(path: Path, directory: Path) -> pydicom.Dataset:
    """The file as a program decodes it that shares nothing with pydicom: DCMTK's, for JPEG 2000 GDCM's."""
    syntax = pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID
    program, package = next(
        (program, package) for program, package, syntaxes in _DECODERS if str(syntax).startswith(syntaxes)
    )
    result = directory / "by_another.dcm"
    options = ["--raw"] if program == "gdcmconv" else []
    subprocess.run([require(program, package), *options, os.fspath(path), result], check=True, capture_output=True)
    return pydicom.dcmread(result)


_JPEG: Final = "1.2.840.10008.1.2.4."
_DECODERS: Final = (
    ("dcmdrle", "dcmtk", (RLE_LOSSLESS,)),
    ("dcmdjpls", "dcmtk", (f"{_JPEG}80", f"{_JPEG}81")),
    ("gdcmconv", "libgdcm-tools", (f"{_JPEG}90", f"{_JPEG}91")),
    ("dcmdjpeg", "dcmtk", (f"{_JPEG}5", f"{_JPEG}70")),
)


def stored_pixels(data_set: pydicom.Dataset) -> object:
    """The pixels without the bits above Bits Stored, as a numpy array."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_decoder(data_set.file_meta.TransferSyntaxUID).as_array(data_set, raw=True)[0]
