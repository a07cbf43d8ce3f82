"""How instances are stored, and stored again, is asked for in the same words of one sender and of many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.cli.app import run_command_line
from asyncstore.cli.sending import StorescuRun
from asyncstore.cli.working import Working
from asyncstore.dimse.messages import HIGH, LOW
from asyncstore.transfer.options import TransferOptions
from asyncstore.transfer.reactions import Reactions

if TYPE_CHECKING:
    from collections.abc import Callable

WORDS = {
    "storescu": ("storescu", "host", "104", "a.dcm", "--ledger", "postgresql://db/a"),
    "worker": ("worker", "postgresql://db/a", "--root", "nas1=/mnt"),
}


@pytest.fixture(params=WORDS)
def asked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TransferOptions]:
    """Parse a command line, and give the options that it asks for."""
    seen: list[TransferOptions] = []

    def remember(self: Any, *_: object) -> int:
        seen.append(self.options)
        return 0

    monkeypatch.setattr(StorescuRun, "run", remember)
    monkeypatch.setattr(Working, "run", remember)

    def parse(*more: str) -> TransferOptions:
        assert run_command_line([*WORDS[request.param], *more]) == 0
        return seen[-1]

    return parse


@pytest.mark.parametrize(
    ("words", "read", "expected"),
    [
        (("--window", "1"), lambda options: options.window, 1),
        (("-w", "4"), lambda options: options.window, 4),
        (("--max-send-pdu", "4096"), lambda options: options.maximum_send_length, 4096),
        (("--priority", "high"), lambda options: options.priority, HIGH),
        (("-xi",), lambda options: options.only_transfer_syntax, "1.2.840.10008.1.2"),
        (("-cx",), lambda options: options.only_needed_contexts, True),
        (("--strict-source",), lambda options: options.strict_source, True),
        (("--retries", "0"), lambda options: options.retry.retries, 0),
        (("--retry-wait", "0"), lambda options: options.retry.first_wait_seconds, 0),
        (("--outage-wait", "7"), lambda options: options.retry.outage_seconds, 7),
        (("--on-status", "A702=stop"), lambda options: options.retry.reaction_to(0xA702), Reactions.STOP.value),
        (("--on-duplicate", "failed"), lambda options: options.retry.on_duplicate, "failed"),
        (("--strict-warnings",), lambda options: options.retry.strict_warnings, True),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_it_is_asked_for_in_the_same_words(
    asked: Callable[..., TransferOptions], words: tuple[str, ...], read: Callable[[TransferOptions], Any], expected: Any
) -> None:
    assert read(asked(*words)) == expected
    assert read(asked()) != expected


def test_what_is_not_asked_for_is_as_in_the_library(asked: Callable[..., TransferOptions]) -> None:
    options, usual = asked(), TransferOptions().for_ledger()
    assert options.retry == usual.retry
    assert (options.window, options.priority, options.maximum_send_length) == (16, LOW, 0)


@pytest.mark.parametrize("command", WORDS)
def test_a_mistake_is_one_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line([*WORDS[command], "--on-status", "A702=perhaps"]) == 2
    assert "--on-status" in capsys.readouterr().err
