"""What a row of a ledger says of a file that a later run finds: see the table in `protocol`."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from asyncstore.errors import LedgerError, MissingUID, NotDicom
from asyncstore.instances.outcome import Outcome, State
from asyncstore.instances.problem import ProblemKind
from asyncstore.ledger.packing import checked, status_value, storable
from asyncstore.ledger.protocol import STORED, Standing, Suspicion
from asyncstore.ledger.trace import TableChanged
from asyncstore.status import Status
from asyncstore.trace import emit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncstore.ledger.protocol import Offered


logger: Final = logging.getLogger(__name__)


class Kept(NamedTuple):
    """The part of a row that decides whether its file is sent again."""

    size_bytes: int
    mtime_ns: int
    state: str
    standing: int
    losses: int
    status: int
    reason: str


def settled_outcome(offered: Offered, kept: Kept | None) -> Outcome | Suspicion | None:
    """What a row says of a file that is unchanged since then: its outcome, or that it is suspected; else None."""
    if kept is None:
        return None
    size, mtime, state, kept_standing, losses, status, reason = kept
    stamp = offered.stamp()
    if stamp is None or (stamp[0], storable(stamp[1])) != (size, mtime):
        return None
    checked(reason, str)
    name, instance = offered.name, offered.instance
    if state in STORED:
        return Outcome(State.RESUMED, name, instance, attempts=0)
    value = status_value(status)
    answer = None if value is None else Status(value)
    if state == State.DUPLICATE:
        return Outcome(State.DUPLICATE, name, instance, answer, reason=reason, attempts=0)
    standing = Standing(kept_standing)
    is_wanted = offered.is_named  # a user who names a file wants to hear about it
    if standing is Standing.SUSPECTED or (standing is Standing.SET_ASIDE and is_wanted):
        return Suspicion(checked(losses, int))
    if standing is Standing.SET_ASIDE:
        reason = f"{reason}; set aside by an earlier run"
        return Outcome(
            State(state), name, instance, answer, reason=reason, attempts=0, losses=losses, is_set_aside=True
        )
    if is_wanted:
        return None
    kind = MissingUID if reason.startswith(ProblemKind.MISSING_UID.value) else NotDicom
    return Outcome(State(state), name, reason=reason, error=kind(reason), attempts=0)


def options_text(options: Mapping[str, Any]) -> str:
    """The options of a run as a ledger keeps them."""
    return json.dumps(options, default=str)


def check_changes(record: str, earlier_options: str | None, options: str) -> None:
    """Raise LedgerError if a run changes instances otherwise than the one before; both have options as JSON text.

    `record` is what has both of them, as an error names it.

    What is stored is not sent again, so it would stay as the earlier rules made it. A table of values may change, which
    is logged: it grows when a run has met instances that it did not know.
    """
    if earlier_options is None:
        return
    earlier, now = _changes_in(earlier_options), _changes_in(options)
    if earlier.rules != now.rules:
        which = _differing(earlier.options, now.options)
        raise LedgerError(
            f"{record} has instances that were sent under other rules for their attributes{which}: use another one"
        )
    if earlier.table != now.table:
        emit(logger, TableChanged())


class _Changes(NamedTuple):
    """What tells the changes of one run from those of another; `options` None: it is not known by which option."""

    rules: Any
    table: Any = None
    options: Mapping[str, Any] | None = None


def _changes_in(options: str) -> _Changes:
    rules = checked(json.loads(options), dict).get("prepare")
    if not isinstance(rules, dict):
        return _Changes(rules, options={} if rules is None else None)
    known = rules.get("options")
    compared = {name: value for name, value in rules.items() if name not in ("map", "options")}
    return _Changes(compared, rules.get("map"), known if isinstance(known, dict) else None)


def _differing(earlier: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    """The options that differ, in brackets; empty if they are not known."""
    if earlier is None or now is None:
        return ""
    names = sorted(name for name in earlier.keys() | now.keys() if earlier.get(name) != now.get(name))
    return f" ({', '.join(names)})" if names else ""
