"""User identities as pynetdicom decodes them, and as DCMTK sends them to us."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from asyncstore import Caller, StorageSCP
from tests.support import peers
from tests.support.command import FINISH_SECONDS, run
from tests.support.kept import TEST_FILES

if TYPE_CHECKING:
    from pathlib import Path

CT = TEST_FILES / "CT_small.dcm"


@pytest.mark.parametrize(
    ("options", "identity"),
    [
        (["--user", "scanner"], (1, b"scanner", b"")),
        (["--user", "scanner", "--passcode-file", "secret"], (2, b"scanner", b"hidden")),
        (["--kerberos-file", "secret"], (3, b"hidden\n", b"")),
        (["--saml-file", "secret"], (4, b"hidden", b"")),
        (["--jwt-file", "secret"], (5, b"hidden", b"")),
    ],
)
@pytest.mark.parametrize("confirms", [True, False])
def test_each_kind_arrives_and_is_confirmed_or_refused(
    tmp_path: Path, options: list[str], identity: tuple[int, bytes, bytes], confirms: bool
) -> None:
    (tmp_path / "secret").write_bytes(b"hidden\n")
    seen: list[Any] = []

    def decide(event: Any) -> tuple[bool, bytes | None]:
        seen.append((event.user_id_type, event.primary_field, event.secondary_field or b""))
        return confirms, b"response"

    # It never confirms a user name, and it rejects for now, not for good.
    confirmed = ["--require-identity-response"] if identity[0] > 2 else []
    options = [*options, *confirmed, "--allow-plaintext-credentials", "--outage-wait", "0"]
    with peers.pynetdicom_server(on_user_identity=decide) as peer:
        done = run("storescu", "localhost", peer.port, CT, *options, directory=tmp_path)
    assert seen[0] == identity
    assert done.returncode == (0 if confirms else 1)
    assert "hidden" not in done.stderr


def test_an_identity_that_pynetdicom_does_not_confirm(tmp_path: Path) -> None:
    with peers.pynetdicom_server() as peer:
        options = ["--user", "scanner", "--require-identity-response"]
        done = run("storescu", "localhost", peer.port, CT, *options, directory=tmp_path)
    assert done.returncode == 1
    assert "did not confirm the user identity" in done.stderr
    assert len(peer.received) == 0


async def test_dcmtk_storescu_is_authenticated() -> None:
    program = peers.require("storescu", "dcmtk")
    callers: list[Caller] = []

    def decide(caller: Caller) -> bool:
        callers.append(caller)
        return caller.user_identity is not None and caller.user_identity.secondary == b"hidden"

    async with StorageSCP(authenticate=decide) as scp:

        async def call(passcode: str) -> int:
            words = [program, "-usr", "scanner", "-pwd", passcode, "-rsp", "localhost", str(scp.port), str(CT)]
            with anyio.fail_after(FINISH_SECONDS):
                return (await anyio.run_process(words, check=False, stderr=subprocess.STDOUT)).returncode

        assert await call("hidden") == 0
        assert await call("guessed") != 0
        assert scp.stored == 1
    assert [caller.user_identity and caller.user_identity.user_name for caller in callers] == ["scanner", "scanner"]
