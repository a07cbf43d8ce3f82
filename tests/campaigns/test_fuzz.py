"""The fuzzer: a short run of it over the decoders, and that it does notice what it is there to notice."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import pytest

from asyncstore.errors import RemoteProtocolError
from asyncstore.upper_layer.machine import UpperLayer
from tests.campaigns import fuzz
from tests.campaigns.fuzz_support import Target, pieces_of
from tests.campaigns.fuzz_targets import TARGETS, run_machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.upper_layer.machine import UpperLayerEvent

CORPUS = (bytes(range(40)), b"\x04\0\0\0\0\x2a" + bytes(42))
HELD: list[bytes] = []


def raises_key_error(data: bytes) -> None:
    if 0x99 in data:
        raise KeyError("0x99")


def uses_memory(data: bytes) -> None:
    if data:
        HELD[:] = [bytes(4 << 20)]


def takes_long(data: bytes) -> None:
    until = time.process_time() + 0.2
    while data and time.process_time() < until:
        pass


class Forgetful(UpperLayer):
    """Looks only at the first bytes of all that comes at once."""

    def receive_data(self, data: bytes | bytearray | memoryview, now: float) -> list[UpperLayerEvent]:
        return super().receive_data(data[:12], now)


def forgetful() -> UpperLayer:
    machine = Forgetful(acceptor=True)
    machine.transport_opened(0.0)
    return machine


def found_in(run: Callable[[bytes], object], inputs: int = 5000) -> fuzz.Finding | None:
    return fuzz.fuzz({"broken": Target(run, CORPUS)}, inputs, seed=1)


def assert_finds_nothing(inputs: int) -> None:
    counts: Counter[str] = Counter()
    assert fuzz.fuzz(TARGETS, inputs, seed=20, counts=counts) is None
    assert counts.keys() == TARGETS.keys()


def test_2000_inputs_give_nothing_but_events_messages_and_protocol_errors() -> None:
    assert_finds_nothing(2_000)


@pytest.mark.campaign
def test_20000_inputs_give_nothing_but_events_messages_and_protocol_errors() -> None:
    assert_finds_nothing(20_000)


def test_every_entry_of_a_corpus_is_taken_as_it_is() -> None:
    problems = [fuzz.attempt(name, target, data) for name, target in TARGETS.items() for data in target.corpus]
    assert not any(problems)


def test_another_exception_is_found_and_made_small() -> None:
    finding = found_in(raises_key_error)
    assert finding is not None
    assert finding.data == b"\x99"
    assert finding.kind.startswith("KeyError")
    assert "raises_key_error" in finding.problem


def test_the_number_of_a_finding_makes_the_same_input_again() -> None:
    finding = found_in(raises_key_error)
    assert finding is not None
    assert finding.number is not None
    target = Target(raises_key_error, CORPUS)
    assert fuzz.fuzz({"broken": target}, 1, seed=1, first=finding.number) == finding


def test_memory_out_of_proportion_is_found() -> None:
    finding = found_in(uses_memory)
    assert finding is not None
    assert finding.kind == "memory"
    HELD.clear()


def test_time_out_of_proportion_is_found() -> None:
    finding = found_in(takes_long)
    assert finding is not None
    assert finding.kind == "time"


def test_a_machine_that_depends_on_how_its_bytes_are_split_is_found() -> None:
    finding = found_in(partial(run_machine, forgetful()))
    assert finding is not None
    assert finding.kind == "Violation split bytes make another course"


def test_a_protocol_error_is_no_finding() -> None:
    def refuses(data: bytes) -> None:
        try:
            raise RemoteProtocolError("no", pdu="any", field="any")
        except RemoteProtocolError:
            return

    assert found_in(refuses, 100) is None


@pytest.mark.parametrize("data", [b"", b"1", b"12345", bytes(100), bytes(range(256)) * 9])
def test_pieces_are_the_whole_again(data: bytes) -> None:
    assert b"".join(pieces_of(data)) == data
    assert pieces_of(data)


def test_a_finding_is_printed_and_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    targets = {"broken": Target(raises_key_error, CORPUS)}
    assert fuzz.main(["--inputs", "5000"], targets) == 1
    assert "FOUND in broken, seed 1, number" in capsys.readouterr().out
    assert fuzz.main(["--target", "broken", "--replay", "0099"], targets) == 1
    assert "--target broken --replay 0099" in capsys.readouterr().out


def test_nothing_found_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["--inputs", "200", "--target", "pdu", "--target", "messages"]) == 0
    assert "nothing found" in capsys.readouterr().out
    assert fuzz.main(["--target", "pdu", "--replay", "0400ff"]) == 0
