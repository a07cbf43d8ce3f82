"""Options of a transfer and its policy for retries, as data with units in the names.

Nothing here waits, reads a clock or knows of a socket.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias, get_args

from asyncstore.dimse.messages import HIGH, LOW, MEDIUM
from asyncstore.errors import LocalProtocolError
from asyncstore.inputs.selection import Selection
from asyncstore.instances.outcome import State
from asyncstore.net.peer import Timeouts, check_ae_title, check_length, check_seconds, check_type, check_window
from asyncstore.preparation.conversions import LOSSLESS_TARGETS, Conversions, Decompress
from asyncstore.record import field, record
from asyncstore.transfer.limits import Limits
from asyncstore.transfer.reactions import STATUS_REACTIONS, Reaction, Reactions, StatusReaction
from asyncstore.uids import can_be_sent

if TYPE_CHECKING:
    from asyncstore.preparation.prepare import Preparer
    from asyncstore.upper_layer.user_information import UserIdentity

ABORTS_UNTIL_POISON: Final = 3  # an instance is set aside after this many associations ended on it
# A run with a ledger often works unattended, overnight: a restart of the archive must not end it.
_OUTAGE_SECONDS_WITH_LEDGER: Final = 3600.0

OnDuplicate: TypeAlias = Literal["duplicate", "stored", "failed"]
KeepTogether: TypeAlias = Literal["directory", "study"]


def _check_count(name: str, count: object, *, least: int = 0) -> None:
    if not isinstance(count, int):
        raise LocalProtocolError(f"{name} is {count!r}: it is a whole number")
    if count < least:
        raise LocalProtocolError(f"{name} is {count}: it is {least} or more")


def _check_choice(name: str, chosen: object, choices: tuple[str, ...]) -> None:
    if chosen not in choices:
        raise LocalProtocolError(f"{name} is {chosen!r}: it is one of {', '.join(choices)}")


@record(frozen=True, slots=True)
class RetryPolicy:
    """How often and when an instance is sent again.

        RetryPolicy(retries=2, overrides=(StatusReaction(0xA702, 0xA702, Reactions.STOP.value),))

    retries             most requests for an instance after the first one
    retries_at_start    how often to retry the first association; 0 reports a wrong address at once
    first_wait_seconds  upper limit of the first wait, which is random; it doubles with each failure in a row
    cap_seconds         upper limit of every wait; while the peer takes nothing, waits are at most 15 s
    outage_seconds      how long to keep trying while the peer accepts nothing; then the run stops and leaves the rest
    overrides           reactions to status codes, looked up before the usual ones
    on_duplicate        count an instance that the peer already has (0111) as "duplicate", "stored" or "failed"
    strict_warnings     treat "Elements discarded" (B006) as a failure

    Raises LocalProtocolError for a value that makes no sense.
    """

    retries: int = 4
    retries_at_start: int = 0
    first_wait_seconds: float = 1.0
    cap_seconds: float = 300.0
    outage_seconds: float = 60.0
    overrides: tuple[StatusReaction, ...] = ()
    on_duplicate: OnDuplicate = "duplicate"
    strict_warnings: bool = False

    def __post_init__(self) -> None:
        _check_count("retries", self.retries)
        _check_count("retries_at_start", self.retries_at_start)
        check_seconds("first_wait_seconds", self.first_wait_seconds)
        check_seconds("cap_seconds", self.cap_seconds)
        check_seconds("outage_seconds", self.outage_seconds)
        if not isinstance(self.overrides, tuple | list) or not all(
            isinstance(r, StatusReaction) for r in self.overrides
        ):
            raise LocalProtocolError(f"overrides is {self.overrides!r:.200}: it is a tuple of StatusReaction")
        _check_choice("on_duplicate", self.on_duplicate, get_args(OnDuplicate))

    @classmethod
    def for_ledger(cls, **overrides: Any) -> Self:
        """The policy of a run with a ledger: it tries for an hour while the peer is away, also at the start.

        `overrides` are arguments of RetryPolicy that replace these values. A Transfer with a ledger has this policy
        unless its options were made with another.
        """
        policy = cls(**{"outage_seconds": _OUTAGE_SECONDS_WITH_LEDGER, **overrides})
        if "retries_at_start" in overrides:
            return policy
        return dataclasses.replace(policy, retries_at_start=policy.retries)

    def reaction_to(self, status_value: int) -> Reaction:
        """The reaction to a status code of C-STORE-RSP."""
        rows = itertools.chain(self.overrides, STATUS_REACTIONS)
        reaction = next(row.reaction for row in rows if row.first <= status_value <= row.last)
        if reaction.final is State.DUPLICATE and self.on_duplicate != "duplicate":
            return Reaction(State(self.on_duplicate))
        if status_value == 0xB006 and self.strict_warnings:
            return Reactions.FAILED.value
        return reaction

    def wait_seconds(self, failures: int, random_fraction: float | None = None) -> float:
        """How long to wait after that many failures in a row: random, so that several senders do not return as one."""
        import random

        longest = min(self.cap_seconds, self.first_wait_seconds * 2.0 ** min(max(failures - 1, 0), 62))
        return longest * (random.random() if random_fraction is None else random_fraction)


_NO_LIMITS: Final = Limits()
# The policy of TransferOptions that were made without one; recognised by its identity.
_USUAL_RETRY: Final = RetryPolicy()
_EVERYTHING: Final = Selection()


@record(frozen=True, slots=True)
class TransferOptions:
    """The options of a transfer; the defaults are those of `asyncstore storescu`.

    calling_ae_title      our AE title
    associations          how many to keep open; None: as many as pay, up to 8
    limits                how much of the network and of the day to take; `Transfer.limit` changes them
    window                asynchronous operations window to propose (PS3.7 D.3.3.3); 1: none
    maximum_length        longest PDU to receive, in bytes; 0: no limit
    maximum_send_length   longest PDU to send, in bytes, if the peer accepts longer ones; 0: only the peer's limit
    timeouts              how long to wait for the peer
    priority              LOW, MEDIUM or HIGH, in each C-STORE request
    only_transfer_syntax  propose this transfer syntax alone, and convert to it
    only_needed_contexts  propose only the presentation contexts that the input needs
    keep_together         "directory": files of one directory share an association where possible; "study": a study is
                          never split over two
    recursive             include subdirectories
    selection             which files are sent, and in which order; see Selection
    convert               False: send an instance in its own transfer syntax or not at all
    decompress            which compressed instances are decompressed if the peer refuses their transfer syntax:
                          "lossless": those of reversible ones; "lossy": also the others; "no": none
    transcode             compress uncompressed instances without loss where the peer accepts this transfer syntax: RLE,
                          JPEG-LS, JPEG 2000 (Lossless Only) or Deflated
    check                 decompress what was compressed, and compare, before it is sent
    workers               how many processes decompress and compress at once; None: as many as there are cores
    retry                 by default RetryPolicy(), or RetryPolicy.for_ledger() with a ledger
    retry_set_aside       send instances again that an earlier run with the same ledger has set aside
    strict_source         do not send an instance with a `meta_difference`: it fails
    fail_fast             stop at the first instance that fails
    drain_seconds         how long `Transfer.drain` waits for instances in flight
    user_identity         user identity to propose (PS3.7 D.3.3.7)
    allow_plaintext_credentials  send a passcode, ticket or token also without TLS
    prepare               what makes of each instance what is sent, a Preparer; None: each is sent as it is, or
                          converted as `convert` says

    Raises LocalProtocolError for a value that makes no sense.
    """

    calling_ae_title: str = "STORESCU"
    associations: int | None = None
    window: int = 16
    maximum_length: int = 16382
    maximum_send_length: int = 0
    timeouts: Timeouts = field(default_factory=Timeouts)
    priority: int = LOW
    only_transfer_syntax: str | None = None
    only_needed_contexts: bool = False
    keep_together: KeepTogether = "directory"
    recursive: bool = True
    selection: Selection = _EVERYTHING
    convert: bool = True
    decompress: Decompress = "lossless"
    transcode: str | None = None
    check: bool = True
    workers: int | None = None
    retry: RetryPolicy = _USUAL_RETRY
    retry_set_aside: bool = False
    strict_source: bool = False
    fail_fast: bool = False
    drain_seconds: float = 30.0
    user_identity: UserIdentity | None = None
    allow_plaintext_credentials: bool = False
    limits: Limits = _NO_LIMITS
    prepare: Preparer | None = None

    def __post_init__(self) -> None:
        check_ae_title(self.calling_ae_title)
        if self.associations is not None:
            _check_count("associations", self.associations, least=1)
        check_type("timeouts", self.timeouts, Timeouts)
        check_type("retry", self.retry, RetryPolicy)
        check_type("limits", self.limits, Limits)
        check_type("selection", self.selection, Selection)
        check_window(self.window)
        check_length("maximum_length", self.maximum_length)
        check_length("maximum_send_length", self.maximum_send_length)
        if self.priority not in (LOW, MEDIUM, HIGH):
            raise LocalProtocolError(f"priority is {self.priority!r}: it is LOW, MEDIUM or HIGH")
        if self.only_transfer_syntax is not None and not can_be_sent(self.only_transfer_syntax):
            raise LocalProtocolError(f"only_transfer_syntax is {self.only_transfer_syntax!r}: it is a UID")
        _check_choice("keep_together", self.keep_together, get_args(KeepTogether))
        _check_choice("decompress", self.decompress, get_args(Decompress))
        if self.transcode is not None:
            _check_choice("transcode", self.transcode, LOSSLESS_TARGETS)
        if self.workers is not None:
            _check_count("workers", self.workers, least=1)
        check_seconds("drain_seconds", self.drain_seconds)
        if self.prepare is not None and not callable(getattr(self.prepare, "prepare", None)):
            raise LocalProtocolError(f"prepare is {self.prepare!r:.200}: it is a Preparer")

    @property
    def conversions(self) -> Conversions:
        """What may be done to an instance whose transfer syntax the peer refuses."""
        return Conversions(self.convert, self.decompress, self.transcode, self.check, self.workers)

    @property
    def of_each_association(self) -> dict[str, Any]:
        """The arguments of `associate` that every association of a run takes, whatever it is for."""
        return {
            "calling_ae_title": self.calling_ae_title,
            "timeouts": self.timeouts,
            "user_identity": self.user_identity,
            "allow_plaintext_credentials": self.allow_plaintext_credentials,
        }

    def for_ledger(self) -> TransferOptions:
        """These options, with RetryPolicy.for_ledger() if they were made without a policy."""
        return dataclasses.replace(self, retry=RetryPolicy.for_ledger()) if self.retry is _USUAL_RETRY else self


def options_as_data(options: TransferOptions) -> dict[str, Any]:
    """The options of a run as a ledger keeps them: plain data; of the user identity only its kind.

    Of a Preparer it is the `record` of it, plain data too, else the name of its class.
    """
    identity, preparer = options.user_identity, options.prepare
    data = dataclasses.asdict(dataclasses.replace(options, user_identity=None, prepare=None))
    return data | {
        "user_identity": None if identity is None else {"kind": identity.kind},
        "prepare": None if preparer is None else getattr(preparer, "record", type(preparer).__qualname__),
    }
