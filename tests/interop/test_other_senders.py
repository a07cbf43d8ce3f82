"""Other people's senders and our own storescp: what it keeps is, bit by bit, what they sent."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.support import peers
from tests.support.kept import TEST_FILES, Kept, assert_all_arrived, kept_by

COMPRESSED: Final = ("JPEG2000.dcm", "JPEGLSNearLossless_08.dcm", "SC_rgb_jpeg_dcmtk.dcm", "examples_ybr_color.dcm")
LITTLE_ENDIAN: Final = ("rtplan.dcm", "reportsi.dcm", "test-SR.dcm", "waveform_ecg.dcm", "CT_small.dcm")
FINISH_SECONDS: Final = 120


def chosen(directory: Path, *names: str) -> tuple[Path, list[Kept]]:
    """A new directory with these of pydicom's files, and what they hold."""
    directory.mkdir()
    paths = [Path(shutil.copy(TEST_FILES / name, directory / name)) for name in names]
    return directory, [Kept.at(path) for path in paths]


def run(*words: str | Path | int) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([str(word) for word in words], capture_output=True, timeout=FINISH_SECONDS, check=False)


def test_gdcmscus_instances_are_kept_bit_by_bit(tmp_path: Path) -> None:
    directory, sent = chosen(tmp_path / "sent", *COMPRESSED, *LITTLE_ENDIAN, "ExplVR_BigEnd.dcm", "image_dfl.dcm")
    program = peers.require("gdcmscu", "libgdcm-tools")
    with peers.asyncstore_storescp(tmp_path / "peer") as peer:
        # It fails at its own release, whoever the peer is: its exit code says nothing.
        run(program, "--store", peer.host, peer.port, "-i", directory)
    assert assert_all_arrived(sent, kept_by(peer)) == len(sent)


def test_pynetdicoms_instances_are_kept_bit_by_bit(tmp_path: Path) -> None:
    directory, sent = chosen(tmp_path / "sent", *COMPRESSED, *LITTLE_ENDIAN)
    # It encodes these anew.
    others, sent_anew = chosen(tmp_path / "others", "ExplVR_BigEnd.dcm", "image_dfl.dcm")
    with peers.asyncstore_storescp(tmp_path / "peer") as peer:
        for each in (directory, others):
            storescu = (sys.executable, "-m", "pynetdicom", "storescu", "-cx", "-r")
            assert run(*storescu, peer.host, peer.port, each).returncode == 0
    assert assert_all_arrived([*sent, *sent_anew], kept_by(peer)) >= len(sent)
    assert peer.output().splitlines()[-1] == "I: 11 instances received on 2 associations"


def test_dcmsends_instances_are_kept_bit_by_bit(tmp_path: Path) -> None:
    directory, _ = chosen(tmp_path / "files", *COMPRESSED, "rtplan.dcm", "image_dfl.dcm")
    converter, sender = peers.require("dcmconv", "dcmtk"), peers.require("dcmsend", "dcmtk")
    # What it sends is written anew by DCMTK; so is what it is to be held against.
    as_sent = tmp_path / "sent"
    as_sent.mkdir()
    for path in directory.iterdir():
        assert run(converter, path, as_sent / path.name).returncode == 0
    with peers.asyncstore_storescp(tmp_path / "peer") as peer:
        done = run(sender, "--scan-directories", "--decompress-never", peer.host, peer.port, as_sent)
    assert done.returncode == 0
    sent = [Kept.at(path) for path in as_sent.iterdir()]
    # The deflated one is deflated anew on the way.
    assert assert_all_arrived(sent, kept_by(peer)) == len(sent) - 1 == 5
    assert peer.output().splitlines()[-1] == "I: 6 instances received on 1 association"
