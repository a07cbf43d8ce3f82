"""The options that convert: what a run says of instances that they would have let through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from asyncstore.cli.exit_codes import ExitCode
from tests.support import codecs, peers
from tests.support.command import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOSSY = codecs.BUNDLED / "SC_rgb_jpeg_dcmtk.dcm"
PLAIN = codecs.BUNDLED / "CT_small.dcm"
HINT = "1 instance compressed with loss: --decompress lossy sends uncompressed what the peer accepts so"
STEP = "storescu --decompress lossy"


@pytest.fixture(scope="module")
def uncompressed_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[peers.RunningPeer]:
    with peers.dcmtk_storescp(tmp_path_factory.mktemp("peer"), accept_all=False) as scp:
        yield scp


@pytest.mark.parametrize("more", [(), (PLAIN,)])
@pytest.mark.parametrize("ledger", [(), ("--ledger", "run.db")])
def test_what_was_refused_since_it_is_lossy_can_be_decompressed(
    uncompressed_only: peers.RunningPeer, more: tuple[Path, ...], ledger: tuple[str, ...], tmp_path: Path
) -> None:
    to = ("127.0.0.1", uncompressed_only.port)
    done = run("storescu", "--summary", *ledger, *to, LOSSY, *more, directory=tmp_path)
    assert done.returncode == ExitCode.SOME_FAILED
    assert f"E: {HINT}\n" in done.stderr
    (step,) = [line for line in done.stderr.splitlines() if STEP in line]
    again = run(*step.split()[step.split().index("storescu") :], directory=tmp_path)
    assert again.returncode == ExitCode.STORED, again.stderr


@pytest.mark.parametrize("options", [("--decompress", "no"), ("--decompress", "lossy")])
def test_nothing_is_advised_that_was_decided_otherwise_or_is_done(
    uncompressed_only: peers.RunningPeer, options: tuple[str, ...]
) -> None:
    done = run("storescu", "--summary", *options, "127.0.0.1", uncompressed_only.port, LOSSY)
    assert "compressed with loss" not in done.stderr
    assert STEP not in done.stderr
