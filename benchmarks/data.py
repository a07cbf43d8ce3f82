"""Makes the DICOM files that the benchmarks send, once, and finds them again on the next run.

    python benchmarks/data.py small ct          make (or find) these sets of files, print where they are
    python benchmarks/data.py --smoke           tiny variants of all of them, in a second

Every file is a PS3.10 file with a preamble, File Meta Information and an Explicit VR Little Endian data set of a CT
slice (the big ones: a multi-frame secondary capture). SOP Instance UIDs are distinct within and among the sets. The
files lie in `study-NNNN/series-N` directories below the system's temporary directory, or below
ASYNCSTORE_BENCHMARK_DATA. They are written as plain bytes, because a million files by pydicom would take an hour.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import struct
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# Raised whenever the bytes of the files change, so that files of an older layout are made again.
LAYOUT: Final = 1
SERIES_PER_STUDY: Final = 4

CT_IMAGE_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.2"
MULTI_FRAME_WORD_SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7.3"
EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"
IMPLEMENTATION_CLASS_UID: Final = "2.25.301442977420417963424951926117716203913"

_LONG_VRS: Final = frozenset({"OB", "OW", "OF", "SQ", "UT", "UN"})
_TEXT_VRS: Final = frozenset({"CS", "DA", "TM", "SH", "LO", "PN", "AS", "DS", "IS", "ST"})


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one set of files is: how many, and how large an image each holds."""

    name: str
    count: int
    side: int
    frames: int = 1
    files_per_series: int = 100

    @property
    def frame_bytes(self) -> int:
        """The length of one frame: `side` x `side` pixels of 16 bits."""
        return self.side * self.side * 2


RECIPES: Final[dict[str, Recipe]] = {
    recipe.name: recipe
    for recipe in (
        Recipe("small", 10_000, 64),
        Recipe("many", 60_000, 64),
        Recipe("ct", 2_000, 512),
        Recipe("big", 4, 512, frames=512, files_per_series=2),
        Recipe("tree", 1_000_000, 8, files_per_series=10_000),
        Recipe("smoke-small", 60, 64, files_per_series=15),
        Recipe("smoke-many", 120, 64, files_per_series=15),
        Recipe("smoke-ct", 8, 512, files_per_series=4),
        Recipe("smoke-big", 1, 512, frames=16),
        Recipe("smoke-tree", 400, 8, files_per_series=100),
    )
}


@dataclass(frozen=True, slots=True)
class Files:
    """A set of files that is complete on disk: everything below `root` is an instance, and nothing else is there."""

    name: str
    kind: str
    root: Path
    count: int
    total_bytes: int

    def paths(self) -> Iterator[Path]:
        """The files, directory by directory."""
        for directory, names, files in os.walk(self.root):
            names.sort()
            for file in sorted(files):
                yield Path(directory, file)


def cache_directory(*, on_disk: bool = False) -> Path:
    """Where the sets are kept: ASYNCSTORE_BENCHMARK_DATA, else a directory below the system's temporary one.

    Those that must be on a disk are kept in ASYNCSTORE_BENCHMARK_DISK, since the former may be in memory.
    """
    named = os.environ.get("ASYNCSTORE_BENCHMARK_DISK" if on_disk else "ASYNCSTORE_BENCHMARK_DATA")
    return Path(named or Path(tempfile.gettempdir(), "asyncstore-benchmarks"))


def element(group: int, number: int, vr: str, value: str | bytes | int) -> bytes:
    """One data element in Explicit VR Little Endian (PS3.5 7.1.2), its value padded to an even length."""
    if isinstance(value, int):
        data = struct.pack("<H" if vr == "US" else "<I", value)
    else:
        data = value.encode("ascii") if isinstance(value, str) else value
    if len(data) % 2:
        data += b" " if vr in _TEXT_VRS else b"\0"
    if vr in _LONG_VRS:
        return struct.pack("<HH2sHI", group, number, vr.encode(), 0, len(data)) + data
    return struct.pack("<HH2sH", group, number, vr.encode(), len(data)) + data


def uid(name: str, number: int) -> str:
    """A UID below 2.25 that is the same on every machine: `number` counts within `name`."""
    first = int.from_bytes(hashlib.sha256(f"asyncstore benchmarks {name}".encode()).digest()[:16], "big")
    # The highest bit keeps all of them 39 digits long, the lower half is what counts.
    return f"2.25.{(first | 1 << 127) & ~0xFFFFFFFF | number}"


def file_meta(sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """Preamble, prefix and File Meta Information (PS3.10 7.1)."""
    group = b"".join(
        (
            element(0x0002, 0x0001, "OB", b"\0\1"),
            element(0x0002, 0x0002, "UI", sop_class_uid),
            element(0x0002, 0x0003, "UI", sop_instance_uid),
            element(0x0002, 0x0010, "UI", EXPLICIT_VR_LITTLE_ENDIAN),
            element(0x0002, 0x0012, "UI", IMPLEMENTATION_CLASS_UID),
            element(0x0002, 0x0013, "SH", "BENCHMARKS_1"),
        )
    )
    return b"\0" * 128 + b"DICM" + element(0x0002, 0x0000, "UL", len(group)) + group


@dataclass(frozen=True, slots=True)
class _Series:
    """The elements that all instances of a series share, cut where the ones of the instance go."""

    before_uid: bytes
    after_uid: bytes
    before_pixels: bytes


def _series(recipe: Recipe, number: int) -> _Series:
    study = number // SERIES_PER_STUDY
    before_uid = (
        element(0x0008, 0x0005, "CS", "ISO_IR 100")
        + element(0x0008, 0x0008, "CS", "ORIGINAL\\PRIMARY\\AXIAL")
        + element(0x0008, 0x0016, "UI", _sop_class_uid(recipe))
    )
    return _Series(before_uid, _study_elements(recipe, study, number), _image_elements(recipe))


def _study_elements(recipe: Recipe, study: int, series: int) -> bytes:
    multi_frame = recipe.frames > 1
    return b"".join(
        (
            element(0x0008, 0x0020, "DA", "20240117"),
            element(0x0008, 0x0021, "DA", "20240117"),
            element(0x0008, 0x0022, "DA", "20240117"),
            element(0x0008, 0x0023, "DA", "20240117"),
            element(0x0008, 0x0030, "TM", "101523.000000"),
            element(0x0008, 0x0031, "TM", "101740.000000"),
            element(0x0008, 0x0032, "TM", "101741.120000"),
            element(0x0008, 0x0033, "TM", "101741.870000"),
            element(0x0008, 0x0050, "SH", f"A{study:08d}"),
            element(0x0008, 0x0060, "CS", "OT" if multi_frame else "CT"),
            *((element(0x0008, 0x0064, "CS", "WSD"),) if multi_frame else ()),
            element(0x0008, 0x0070, "LO", "Example Scanners"),
            element(0x0008, 0x0080, "LO", "Example Hospital"),
            element(0x0008, 0x0090, "PN", "Referring^Example"),
            element(0x0008, 0x1010, "SH", "CT01"),
            element(0x0008, 0x1030, "LO", "CT Thorax/Abdomen"),
            element(0x0008, 0x103E, "LO", f"Axial {series % SERIES_PER_STUDY + 1}"),
            element(0x0008, 0x1090, "LO", "Example 64"),
            element(0x0010, 0x0010, "PN", f"Patient^Number {study}"),
            element(0x0010, 0x0020, "LO", f"P{study:08d}"),
            element(0x0010, 0x0030, "DA", "19700101"),
            element(0x0010, 0x0040, "CS", "O"),
            element(0x0018, 0x0015, "CS", "CHEST"),
            element(0x0018, 0x0050, "DS", "1.25"),
            element(0x0018, 0x0060, "DS", "120"),
            element(0x0018, 0x1020, "LO", "1.0"),
            element(0x0018, 0x1030, "LO", "Thorax routine"),
            element(0x0018, 0x1151, "IS", "240"),
            element(0x0018, 0x1210, "SH", "STANDARD"),
            element(0x0018, 0x5100, "CS", "HFS"),
            element(0x0020, 0x000D, "UI", uid(f"{recipe.name} study", study)),
            element(0x0020, 0x000E, "UI", uid(f"{recipe.name} series", series)),
            element(0x0020, 0x0010, "SH", str(study)),
            element(0x0020, 0x0011, "IS", str(series % SERIES_PER_STUDY + 1)),
        )
    )


def _instance_elements(number: int) -> bytes:
    position = f"{number * 1.25:.2f}"
    return b"".join(
        (
            element(0x0020, 0x0013, "IS", str(number)),
            element(0x0020, 0x0032, "DS", f"-250\\-250\\{position}"),
            element(0x0020, 0x0037, "DS", "1\\0\\0\\0\\1\\0"),
            element(0x0020, 0x1041, "DS", position),
        )
    )


def _image_elements(recipe: Recipe) -> bytes:
    multi_frame = recipe.frames > 1
    length = recipe.frame_bytes * recipe.frames
    return b"".join(
        (
            element(0x0028, 0x0002, "US", 1),
            element(0x0028, 0x0004, "CS", "MONOCHROME2"),
            *((element(0x0028, 0x0008, "IS", str(recipe.frames)),) if multi_frame else ()),
            element(0x0028, 0x0010, "US", recipe.side),
            element(0x0028, 0x0011, "US", recipe.side),
            element(0x0028, 0x0030, "DS", "0.976562\\0.976562"),
            element(0x0028, 0x0100, "US", 16),
            element(0x0028, 0x0101, "US", 16),
            element(0x0028, 0x0102, "US", 15),
            element(0x0028, 0x0103, "US", 0),
            element(0x0028, 0x1050, "DS", "40"),
            element(0x0028, 0x1051, "DS", "400"),
            element(0x0028, 0x1052, "DS", "-1024"),
            element(0x0028, 0x1053, "DS", "1"),
            struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, length),
        )
    )


def _sop_class_uid(recipe: Recipe) -> str:
    return CT_IMAGE_STORAGE if recipe.frames == 1 else MULTI_FRAME_WORD_SECONDARY_CAPTURE


@cache
def _noise(size_bytes: int) -> bytes:
    return random.Random(1).randbytes(size_bytes)


def _write_series(recipe: Recipe, directory: Path, series: int) -> int:
    """Write the files of one series into `directory` and return how many bytes they are."""
    directory.mkdir(parents=True, exist_ok=True)
    shared = _series(recipe, series)
    sop_class_uid = _sop_class_uid(recipe)
    noise = memoryview(_noise(recipe.frame_bytes * 2))
    first = series * recipe.files_per_series
    total_bytes = 0
    for number in range(first, min(first + recipe.files_per_series, recipe.count)):
        sop_instance_uid = uid(recipe.name, number)
        within = number - first
        head = b"".join(
            (
                file_meta(sop_class_uid, sop_instance_uid),
                shared.before_uid,
                element(0x0008, 0x0018, "UI", sop_instance_uid),
                shared.after_uid,
                _instance_elements(within + 1),
                shared.before_pixels,
            )
        )
        with open(f"{directory}/IM{within:06d}.dcm", "wb") as file:
            file.write(head)
            for frame in range(recipe.frames):
                # No two images alike: a receiver or a disk that looks for equal data finds none.
                start = (number * 62 + frame * 34) % recipe.frame_bytes
                file.write(noise[start : start + recipe.frame_bytes])
            total_bytes += file.tell()
    return total_bytes


def _series_directory(root: Path, series: int) -> Path:
    return root / f"study-{series // SERIES_PER_STUDY:04d}" / f"series-{series % SERIES_PER_STUDY}"


def _found(name: str, kind: str, directory: Path, count: int) -> Files | None:
    try:
        record = json.loads((directory / "complete.json").read_text())
    except (OSError, ValueError):
        return None
    if record.get("layout") != LAYOUT or record.get("count") != count:
        return None
    return Files(name, kind, directory / "files", count, record["total_bytes"])


def _complete(partial: Path, directory: Path, count: int, total_bytes: int) -> None:
    """Record that a set is whole and give it its name; another process that was first wins."""
    record = {"layout": LAYOUT, "count": count, "total_bytes": total_bytes}
    (partial / "complete.json").write_text(json.dumps(record))
    if directory.exists():
        shutil.rmtree(directory)
    partial.rename(directory)


def prepare(name: str, *, on_disk: bool = False) -> Files:
    """Find the set of files of that name, or make it."""
    recipe = RECIPES[name]
    kind = name.removeprefix("smoke-")
    directory = cache_directory(on_disk=on_disk) / name
    found = _found(name, kind, directory, recipe.count)
    if found is not None:
        return found
    partial = directory.with_name(f"{name}.{os.getpid()}.partial")
    total_bytes = 0
    started = time.monotonic()
    try:
        for series in range(-(-recipe.count // recipe.files_per_series)):
            total_bytes += _write_series(recipe, _series_directory(partial / "files", series), series)
        _complete(partial, directory, recipe.count, total_bytes)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"{name}: {recipe.count:,} files made in {time.monotonic() - started:.1f} s", file=sys.stderr)
    return Files(name, kind, directory / "files", recipe.count, total_bytes)


def part(files: Files, count: int) -> Files:
    """The first `count` files of a set, as a directory of its own made of hard links; the set itself if that is all."""
    if count >= files.count:
        return files
    name = f"{files.name}-first-{count}"
    directory = files.root.parent.with_name(name)
    found = _found(name, files.kind, directory, count)
    if found is not None:
        return found
    partial = directory.with_name(f"{name}.{os.getpid()}.partial")
    total_bytes = 0
    try:
        for path, _ in zip(files.paths(), range(count), strict=False):
            target = partial / "files" / path.relative_to(files.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
            total_bytes += target.stat().st_size
        _complete(partial, directory, count, total_bytes)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Files(name, files.kind, directory / "files", count, total_bytes)


def main() -> int:
    """Make the sets that were asked for and print what they hold."""
    parser = argparse.ArgumentParser(description="Make the DICOM files that the benchmarks send, or find them again.")
    parser.add_argument("names", nargs="*", metavar="SET", help=f"any of: {', '.join(RECIPES)}")
    parser.add_argument("--smoke", action="store_true", help="the tiny variants of all sets")
    arguments = parser.parse_args()
    names = arguments.names or [name for name in RECIPES if name.startswith("smoke-") == arguments.smoke]
    unknown = sorted(set(names) - set(RECIPES))
    if unknown:
        parser.error(f"no such set: {', '.join(unknown)}")
    for name in names:
        files = prepare(name)
        print(f"{name}: {files.count:,} files, {files.total_bytes:,} bytes in {files.root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
