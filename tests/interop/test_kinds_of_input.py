"""Whatever a tree is packed in or listed by, DCMTK's storescp keeps the same bytes of it."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest

from tests.support import command, peers
from tests.support.kept import TEST_FILES, copies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.peers import RunningPeer


@pytest.fixture(scope="module")
def medium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a CD: a DICOMDIR, and all the files that it references."""
    folder = tmp_path_factory.mktemp("medium") / "cd"
    shutil.copytree(TEST_FILES / "dicomdirtests", folder)
    for path in folder.glob("DICOMDIR-*"):
        path.unlink()
    shutil.rmtree(folder / "TINY_ALPHA")
    copies(folder / "more", 3)  # not referenced
    return folder


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPeer]:
    with peers.dcmtk_storescp(tmp_path_factory.mktemp("peer")) as running:
        yield running


def kept(peer: RunningPeer, *arguments: str | Path, stdin: bytes = b"") -> dict[str, bytes]:
    """Send, and take from the peer what it has kept: by name, which is made of the UIDs."""
    done = command.run("storescu", peer.host, peer.port, "-r", *arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr
    received = {path.name: path.read_bytes() for path in peer.received_files()}
    peer.clear()
    return received


def zipped(method: int) -> Callable[[Path, Path], Path]:
    def pack(medium: Path, folder: Path) -> Path:
        with zipfile.ZipFile(folder / "packed", "w", method) as archive:
            for path in medium.rglob("*"):
                archive.write(path, path.relative_to(medium.parent))
        return folder / "packed"

    return pack


def tarred(mode: str) -> Callable[[Path, Path], Path]:
    def pack(medium: Path, folder: Path) -> Path:
        with tarfile.open(folder / "packed", mode) as archive:  # type: ignore[call-overload]
            archive.add(medium, "cd")
        return folder / "packed"

    return pack


@pytest.mark.parametrize(
    "pack",
    [zipped(zipfile.ZIP_STORED), zipped(zipfile.ZIP_DEFLATED), tarred("w"), tarred("w:gz")],
    ids=["zip", "deflated zip", "tar", "tar.gz"],
)
def test_an_archive_sends_what_the_tree_sends(
    pack: Callable[[Path, Path], Path], medium: Path, peer: RunningPeer, tmp_path: Path
) -> None:
    expected = kept(peer, medium)
    assert len(expected) == 31 + 3
    assert kept(peer, pack(medium, tmp_path)) == expected


def test_lists_send_what_the_tree_sends(medium: Path, peer: RunningPeer, tmp_path: Path) -> None:
    expected = kept(peer, medium)
    paths = [path for path in medium.rglob("*") if path.is_file() and path.name not in ("DICOMDIR", "README.txt")]
    lines = "".join(f"{path}\n" for path in paths).encode()
    (tmp_path / "list").write_bytes(lines)
    assert kept(peer, "--files-from", tmp_path / "list") == expected
    assert kept(peer, "--files-from", "-", stdin=lines) == expected
    packed = zipped(zipfile.ZIP_DEFLATED)(medium, tmp_path)
    members = "".join(f"{packed}!/{path.relative_to(medium.parent)}\n" for path in paths).encode()
    assert kept(peer, "--files-from", "-", stdin=members) == expected


def test_a_dicomdir_sends_what_it_references(medium: Path, peer: RunningPeer) -> None:
    everything = kept(peer, medium)
    referenced = kept(peer, medium / "DICOMDIR")
    assert len(referenced) == 31
    assert referenced.items() < everything.items()
