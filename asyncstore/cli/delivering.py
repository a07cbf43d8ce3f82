"""The options that say how instances are requested to be stored, and what follows from the answers.

A command takes them by a decorator and reads them from its context. One that is not given has the default of the
library.
"""

from collections.abc import Callable
from typing import Any, Final, get_args

import typer

from asyncstore.cli import options, securing
from asyncstore.dimse.messages import HIGH, LOW, MEDIUM
from asyncstore.errors import LocalProtocolError
from asyncstore.transfer.options import OnDuplicate, RetryPolicy
from asyncstore.transfer.reactions import REACTION_NAMES, StatusReaction, parse_overrides

_PRIORITIES: Final = {"low": LOW, "medium": MEDIUM, "high": HIGH}

# Parameter -> its type.
_OPTIONS: Final[dict[str, Any]] = {
    "max_send_pdu": options.Annotated[
        int | None,
        options.option(
            parser=options.maximum_pdu,
            metavar="BYTES",
            help="Longest PDU to send, if the peer accepts longer ones; 0: only the peer's limit."
            + options.default_text("0"),
            panel=options.NETWORK,
        ),
    ],
    "request_little": options.RequestLittle,
    "request_big": options.RequestBig,
    "request_implicit": options.RequestImplicit,
    "single_context": options.Annotated[
        bool,
        options.option(
            "-cx",
            "--single-context",
            "--required-contexts",
            help="Request only the presentation contexts that the input needs.",
            panel=options.MISCELLANEOUS,
        ),
    ],
    "window": options.Annotated[
        int | None,
        options.option(
            "-w",
            "--window",
            parser=options.whole_number(1, 0xFFFF, "a number of operations"),
            metavar="N",
            help="Asynchronous operations window to propose; 1: none." + options.default_text("16"),
            panel=options.BULK,
        ),
    ],
    "priority": options.Annotated[
        str | None,
        options.option(
            parser=options.choice(*_PRIORITIES),
            metavar="low|medium|high",
            help="C-STORE priority." + options.default_text("low"),
            panel=options.BULK,
        ),
    ],
    "retries": options.Annotated[
        int | None,
        options.option(
            parser=options.whole_number(0, 1000, "a number of attempts"),
            metavar="N",
            help="Attempts after the first one." + options.default_text("4"),
            panel=options.RETRY,
        ),
    ],
    "retry_wait": options.Annotated[
        float | None,
        options.option(
            parser=options.wait_seconds,
            metavar="SECONDS",
            help="Upper limit of the first random wait; doubles each time." + options.default_text("1"),
            panel=options.RETRY,
        ),
    ],
    "outage_wait": options.Annotated[
        float | None,
        options.option(
            parser=options.wait_seconds,
            metavar="SECONDS",
            help="How long to keep trying while the peer accepts nothing."
            + options.default_text("3600 with a ledger, else 60"),
            panel=options.RETRY,
        ),
    ],
    "on_status": options.Annotated[
        list[str] | None,
        options.option(
            parser=options.text,
            metavar="CODE=REACTION",
            help="Override the reaction to a status or range, e.g. A702=stop or C000-C0FF=failed. Repeatable. "
            f"Reactions: {', '.join(REACTION_NAMES)}.",
            panel=options.RETRY,
        ),
    ],
    "on_duplicate": options.Annotated[
        str | None,
        options.option(
            parser=options.choice(*get_args(OnDuplicate)),
            metavar="STATE",
            help="How to count an instance that the peer already has (status 0111): duplicate, stored or failed."
            + options.default_text("duplicate"),
            panel=options.RETRY,
        ),
    ],
    "strict_warnings": options.Annotated[
        bool,
        options.option(
            "--strict-warnings", help="Treat 'Elements discarded' (B006) as a failure.", panel=options.RETRY
        ),
    ],
    "strict_source": options.Annotated[
        bool,
        options.option(
            "--strict-source",
            help="Treat a file whose UIDs contradict each other, are missing or not well-formed as a failure.",
            panel=options.RETRY,
        ),
    ],
}


def delivers(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of one that stores instances."""
    return securing.with_options(command, _OPTIONS)


def transfer_options(context: typer.Context, *, has_ledger: bool) -> dict[str, Any]:
    """The arguments of TransferOptions that the options give."""
    given = context.params
    priority = given["priority"]
    return _those_given(
        window=given["window"],
        maximum_send_length=given["max_send_pdu"],
        priority=None if priority is None else _PRIORITIES[priority],
    ) | {
        "only_transfer_syntax": options.transfer_syntax(context),
        "only_needed_contexts": given["single_context"],
        "strict_source": given["strict_source"],
        "retry": _retry_policy(given, has_ledger=has_ledger),
    }


def _retry_policy(given: dict[str, Any], *, has_ledger: bool) -> RetryPolicy:
    make = RetryPolicy.for_ledger if has_ledger else RetryPolicy
    return make(
        overrides=_status_reactions(given["on_status"]),
        strict_warnings=given["strict_warnings"],
        **_those_given(
            retries=given["retries"],
            first_wait_seconds=given["retry_wait"],
            outage_seconds=given["outage_wait"],
            on_duplicate=given["on_duplicate"],
        ),
    )


def _those_given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _status_reactions(texts: list[str] | None) -> tuple[StatusReaction, ...]:
    try:
        return parse_overrides(texts or ())
    except LocalProtocolError as error:
        raise typer.BadParameter(str(error), param_hint="--on-status") from None
