"""The tables and options of a transfer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.errors import LocalProtocolError
from asyncstore.instances.outcome import State
from asyncstore.net.peer import Peer
from asyncstore.status import Status
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.options import RetryPolicy, TransferOptions
from asyncstore.transfer.proof.committing import CommitOptions
from asyncstore.transfer.reactions import Reaction, Reactions, StatusReaction, parse_overrides

if TYPE_CHECKING:
    from pathlib import Path


def test_every_status_code_has_a_reaction_and_only_stored_ones_are_stored() -> None:
    policy = RetryPolicy()
    for value in range(0x10000):
        assert (policy.reaction_to(value).final in (State.STORED, State.WARNING)) is Status(value).is_stored, hex(value)


@pytest.mark.parametrize(
    ("on_duplicate", "final"), [("duplicate", State.DUPLICATE), ("stored", State.STORED), ("failed", State.FAILED)]
)
def test_a_duplicate_counts_as_one_chooses(on_duplicate: str, final: State) -> None:
    assert RetryPolicy(on_duplicate=on_duplicate).reaction_to(0x0111) == Reaction(final)  # type: ignore[arg-type]


@pytest.mark.parametrize(("strict", "final"), [(False, State.WARNING), (True, State.FAILED)])
def test_discarded_elements_are_a_failure_where_warnings_are_strict(strict: bool, final: State) -> None:
    policy = RetryPolicy(strict_warnings=strict)
    assert policy.reaction_to(0xB006).final is final
    assert policy.reaction_to(0xB000).final is State.WARNING


def test_overrides_come_before_the_table() -> None:
    policy = RetryPolicy(overrides=parse_overrides(["A702=stop", "C000-C0FF=failed"]))
    assert policy.reaction_to(0xA702) == Reactions.STOP.value
    assert policy.reaction_to(0xA701) == Reactions.LATER.value
    assert policy.reaction_to(0xC0FF) == Reactions.FAILED.value
    assert policy.reaction_to(0xC100) == Reactions.AGAIN_ELSEWHERE.value


@pytest.mark.parametrize("name", [member.name.lower().replace("_", "-") for member in Reactions])
def test_every_reaction_can_be_chosen_by_name(name: str) -> None:
    (row,) = parse_overrides([f"a7ff={name.upper()}"])
    assert row == StatusReaction(0xA7FF, 0xA7FF, Reactions[name.upper().replace("-", "_")].value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("A702", "one of stored, warning"),
        ("A702=maybe", "one of stored, warning"),
        ("x=stop", "hexadecimal"),
        ("=stop", "hexadecimal"),
        ("A7FF-A700=stop", "0000 to FFFF"),
        ("10000=stop", "0000 to FFFF"),
        ("FF00=stored", "no answer to a C-STORE"),
    ],
)
def test_an_override_that_makes_no_sense_says_why(text: str, complaint: str) -> None:
    with pytest.raises(LocalProtocolError, match=complaint):
        parse_overrides([text])


@pytest.mark.parametrize(("failures", "longest"), [(0, 1), (1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (10_000, 300)])
def test_waits_double_up_to_the_cap_with_full_jitter(failures: int, longest: float) -> None:
    policy = RetryPolicy()
    assert policy.wait_seconds(failures, 1.0) == longest
    assert policy.wait_seconds(failures, 0.0) == 0
    assert 0 <= policy.wait_seconds(failures) <= longest


@pytest.mark.parametrize(
    "wrong",
    [
        {"associations": 0},
        {"window": 0},
        {"window": 65536},
        {"calling_ae_title": ""},
        {"calling_ae_title": "A" * 17},
        {"maximum_length": -1},
        {"maximum_length": 7},
        {"maximum_length": 1 << 32},
        {"maximum_send_length": -5},
        {"maximum_send_length": 3},
        {"priority": "high"},
        {"priority": 3},
        {"only_transfer_syntax": "x" * 70},
        {"only_transfer_syntax": ""},
        {"keep_together": "studies"},
        {"drain_seconds": -1},
        {"associations": "auto"},
        {"window": None},
        {"calling_ae_title": None},
        {"maximum_length": "16k"},
        {"drain_seconds": "long"},
        {"timeouts": 30.0},
        {"prepare": print},
        {"retry": 4},
    ],
)
def test_options_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(LocalProtocolError):
        TransferOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [0, 8, 0xFFFFFFFF])
def test_a_maximum_length_may_be_any_that_has_room_for_data(length: int) -> None:
    assert TransferOptions(maximum_length=length, maximum_send_length=length).maximum_length == length


@pytest.mark.parametrize(
    "wrong",
    [
        {"retries": -1},
        {"retries_at_start": -1},
        {"first_wait_seconds": -0.1},
        {"cap_seconds": math.nan},
        {"outage_seconds": -1},
        {"on_duplicate": "skip"},
        {"retries": 1.5},
        {"retries": None},
        {"outage_seconds": None},
        {"overrides": (("A702", "stop"),)},
        {"overrides": StatusReaction(0xA702, 0xA702, Reactions.STOP.value)},
    ],
)
def test_a_policy_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    (name,) = wrong
    with pytest.raises(LocalProtocolError, match=name):
        RetryPolicy(**wrong)  # type: ignore[arg-type]


def test_a_row_has_a_reaction_and_status_codes() -> None:
    with pytest.raises(LocalProtocolError, match=r"'Reactions\.STOP' is not a Reaction: its value is one"):
        StatusReaction(0xA702, 0xA702, Reactions.STOP)  # type: ignore[arg-type]
    with pytest.raises(LocalProtocolError, match="'stop' is not a Reaction"):
        StatusReaction(0xA702, 0xA702, "stop")  # type: ignore[arg-type]
    for first, last in ((-1, 0), (0xA702, 0xA701), (0, 0x10000)):
        with pytest.raises(LocalProtocolError, match="0000 to FFFF"):
            StatusReaction(first, last, Reactions.STOP.value)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [({}, 3600), ({"outage_seconds": 5.0}, 5), ({"outage_seconds": 0.0}, 0)],
)
def test_with_a_ledger_an_outage_may_last_longer(given: dict[str, float], seconds: float) -> None:
    assert RetryPolicy(**given).outage_seconds == given.get("outage_seconds", 60)  # type: ignore[arg-type]
    assert RetryPolicy.for_ledger(**given).outage_seconds == seconds


@pytest.mark.parametrize(
    ("given", "at_start"), [({}, 4), ({"retries": 2}, 2), ({"retries": 2, "retries_at_start": 0}, 0)]
)
def test_with_a_ledger_the_first_association_is_asked_for_as_often_as_an_instance(
    given: dict[str, int], at_start: int
) -> None:
    assert RetryPolicy.for_ledger(**given).retries_at_start == at_start


def test_a_transfer_with_a_ledger_has_its_policy_unless_another_was_given(tmp_path: Path) -> None:
    peer, ledger = Peer("pacs.example", 104), tmp_path / "run.db"
    assert Transfer(peer, [], ledger=ledger).options.retry == RetryPolicy.for_ledger()
    assert Transfer(peer, [], ledger=ledger, window=1).options.retry == RetryPolicy.for_ledger()
    assert Transfer(peer, []).options.retry == RetryPolicy()
    given = RetryPolicy()
    assert Transfer(peer, [], options=TransferOptions(retry=given), ledger=ledger).options.retry is given


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"peer": "pacs.example"}, "peer is 'pacs.example': it is a Peer"),
        ({"peer": None}, "peer is None"),
        ({"options": {"window": 1}}, "options is .*: it is a TransferOptions"),
        ({"ledger": 5}, "ledger is 5: it is the path of a file, or a Ledger"),
        ({"commit": 11113}, "commit is 11113: it is a CommitOptions"),
        ({"options": TransferOptions(user_identity="me")}, "user_identity is 'me'"),  # type: ignore[arg-type]
    ],
)
def test_a_transfer_refuses_at_once_what_is_of_the_wrong_type(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(LocalProtocolError, match=text):
        Transfer(**{"peer": Peer("pacs.example", 104), "sources": [], **wrong})


def test_a_port_for_commitment_is_a_number() -> None:
    with pytest.raises(LocalProtocolError, match="port is '11113': it is a number"):
        CommitOptions(port="11113")  # type: ignore[arg-type]
