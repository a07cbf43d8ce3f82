"""The real `asyncstore echoscu`."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from asyncstore.dimse.messages import CEchoRQ, CEchoRSP
from asyncstore.status import Status
from asyncstore.upper_layer.pdu import Abort, AssociateRJ, AssociateRQ
from tests.support import command
from tests.support.peers import LOOPBACK, free_port
from tests.support.wire import ScriptedSCP, Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.peers import RunningPeer

USUAL_REASONS = (
    "E: Possible reasons: the port expects TLS (--tls), or the peer does not allow our host or the AE titles"
)


def test_an_answer_is_code_0_and_the_steps_are_logged(storescp: RunningPeer) -> None:
    done = command.run("echoscu", storescp.host, storescp.port, "-v", "--repeat", "2")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == (
        "I: Requesting Association\n"
        "I: Association Accepted\n"
        "I: Sending Echo Request: MsgID 1\n"
        "I: Received Echo Response (Status: 0x0000 - Success)\n"
        "I: Sending Echo Request: MsgID 2\n"
        "I: Received Echo Response (Status: 0x0000 - Success)\n"
        "I: Releasing Association\n"
    )


def test_nobody_listening_is_code_1() -> None:
    done = command.run("echoscu", LOOPBACK, free_port())
    assert done.returncode == 1
    assert done.stderr.startswith("E: Association request failed: unable to connect to remote\n")


def test_the_call_comes_from_the_source_address() -> None:
    source_port = free_port()
    with socket.create_server((LOOPBACK, 0)) as listener:
        process = command.start(
            "echoscu", LOOPBACK, listener.getsockname()[1], "--source-address", f"127.0.0.2:{source_port}"
        )
        with process:
            connection, address = listener.accept()
            connection.close()
            process.communicate(timeout=command.FINISH_SECONDS)
    assert address == ("127.0.0.2", source_port)


def test_a_source_address_of_another_machine_is_told() -> None:
    done = command.run("echoscu", LOOPBACK, free_port(), "--source-address", "192.0.2.1")
    assert (done.returncode, done.stderr) == (
        1,
        "E: Association request failed: unable to connect to remote\n"
        "E: TCP Initialisation Error: cannot call from 192.0.2.1: it is not an address of this machine\n",
    )


@pytest.mark.parametrize("end", [Wire.fin, Wire.rst])
def test_a_connection_that_ends_before_the_answer_is_code_1_with_the_usual_reasons(
    end: Callable[[Wire], object],
) -> None:
    def ends(wire: Wire) -> None:
        wire.expect(AssociateRQ)
        end(wire)

    with ScriptedSCP(ends) as scp:
        done = command.run("echoscu", scp.host, scp.port)
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first.startswith("E: Connection lost: ")
    assert second == USUAL_REASONS


def test_a_connection_that_ends_later_has_other_reasons() -> None:
    def ends(wire: Wire) -> None:
        wire.accept()
        wire.read_message()

    with ScriptedSCP(ends) as scp:
        done = command.run("echoscu", scp.host, scp.port)
    assert (done.returncode, done.stderr) == (3, "E: Connection lost: the peer closed the connection\n")


def test_another_answer_than_success_is_code_3_and_told() -> None:
    def refuses(wire: Wire) -> None:
        wire.accept()
        echo = wire.read_message()
        assert isinstance(echo.message, CEchoRQ)
        wire.send_message(echo.context_id, CEchoRSP(echo.message.message_id, Status(0x0122)))
        wire.answer_release()

    with ScriptedSCP(refuses) as scp:
        done = command.run("echoscu", scp.host, scp.port)
    assert done.returncode == 3
    assert done.stderr == "E: The peer answered: SOP class not supported (0x0122)\n"


@pytest.mark.parametrize(("status", "code"), [(0x0000, 0), (0x0122, 3)])
def test_the_association_is_aborted_on_demand_after_the_last_answer(status: int, code: int) -> None:
    def answers_two(wire: Wire) -> None:
        wire.accept()
        for message_id in (1, 2):
            wire.send_message(wire.read_message().context_id, CEchoRSP(message_id, Status(status)))
        assert wire.expect(Abort).source == 0
        wire.expect_closed()

    with ScriptedSCP(answers_two) as scp:
        done = command.run("echoscu", scp.host, scp.port, "-v", "--repeat", 2, "--abort")
    assert done.returncode == code
    assert [line for line in done.stderr.splitlines() if line[0] == "I"][-1] == "I: Aborting Association"


@pytest.mark.parametrize(
    ("option", "syntax"), [("-xe", "Explicit VR Little Endian"), ("-xb", "Explicit VR Big Endian")]
)
def test_one_transfer_syntax_can_be_requested_alone(storescp: RunningPeer, option: str, syntax: str) -> None:
    done = command.run("echoscu", storescp.host, storescp.port, "-d", option)
    assert f"D:     Proposed Transfer Syntax:\nD:       ={syntax}\nD: Requested Extended" in done.stderr
    assert done.returncode == 0


def test_a_rejected_ae_title_is_explained() -> None:
    def rejects(wire: Wire) -> None:
        wire.expect(AssociateRQ)
        wire.send(AssociateRJ(1, 1, 3))

    with ScriptedSCP(rejects) as scp:
        done = command.run("echoscu", scp.host, scp.port, "-aet", "ME", "-aec", "PACS")
    assert done.returncode == 1
    assert done.stderr.endswith("\nE: We are ME and called PACS: -aet and -aec set other AE titles\n")
