"""The faults that a FaultProxy can make, and how they are written on a command line."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class _Chosen:
    """Which associations a fault is for: the `first`, every `every`-th from there on, `times` of them (None: all)."""

    first: int = 1
    every: int = 1
    times: int | None = None

    def chooses(self, association: int) -> bool:
        nth, rest = divmod(association - self.first, self.every)
        return nth >= 0 and rest == 0 and (self.times is None or nth < self.times)


@dataclass(frozen=True)
class Cut(_Chosen):
    """Pass exactly `at` bytes of one direction (or a seeded choice below `within`), then end it or make it slow.

    "rst" resets both connections, "fin" closes both, "stall" passes nothing more in either direction and closes
    nothing, "dribble" goes on a byte at a time, `pause_seconds` apart. With `in_data` the bytes count from the first
    P-DATA-TF of that direction.
    """

    how: Literal["rst", "fin", "stall", "dribble"] = "rst"
    direction: Literal["up", "down"] = "up"
    at: int = 0
    within: int | None = None
    in_data: bool = False
    pause_seconds: float = 0.0


@dataclass(frozen=True)
class Abort(_Chosen):
    """Let an A-ABORT of the service user take the place of the `response`-th response, and close both connections."""

    response: int = 1


@dataclass(frozen=True)
class Reject(_Chosen):
    """Answer the A-ASSOCIATE-RQ with A-ASSOCIATE-RJ, by default transient, for congestion (PS3.8 Table 9-21)."""

    result: int = 2
    source: int = 3
    reason: int = 1


@dataclass(frozen=True)
class Limit:
    """Reject whatever would be more than so many associations at a time: local limit exceeded."""

    associations: int
    result: int = 2
    source: int = 3
    reason: int = 2


@dataclass(frozen=True)
class Latency:
    """Deliver every byte of both directions so much later, without a limit to the rate: a round trip is twice that."""

    seconds: float


@dataclass(frozen=True)
class Refuse:
    """Refuse new connections for `seconds` after the `after`-th was taken."""

    after: int
    seconds: float


@dataclass(frozen=True)
class SetStatus(_Chosen):
    """Replace the status of C-STORE-RSPs; first, every and times count responses that match, not associations.

    A response matches when its SOP Instance UID is among `uids` (all, when that is empty) and `predicate` holds.
    """

    status: int = 0xA700
    uids: frozenset[str] = frozenset()
    predicate: Callable[[str], bool] | None = None

    def matches(self, uid: str) -> bool:
        return (not self.uids or uid in self.uids) and (self.predicate is None or self.predicate(uid))


Fault: TypeAlias = Cut | Abort | Reject | Limit | Latency | Refuse | SetStatus
_FAULTS: Final[dict[str, type[Fault]]] = {
    "cut": Cut,
    "abort": Abort,
    "reject": Reject,
    "limit": Limit,
    "latency": Latency,
    "refuse": Refuse,
    "status": SetStatus,
}


def parse_fault(text: str) -> Fault:
    """A fault from the command line: "cut:how=fin,at=100", "status:status=0xA700,times=3,uids=1.2+1.3"."""
    name, _, rest = text.partition(":")
    kind = _FAULTS.get(name)
    if kind is None:
        raise ValueError(f"no fault is called {name!r}; there are {', '.join(_FAULTS)}")
    known = {field.name for field in fields(kind)}
    values: dict[str, object] = {}
    for pair in filter(None, rest.split(",")):
        key, _, value = pair.partition("=")
        if key not in known or key == "predicate":
            raise ValueError(f"{name} has no {key!r}")
        values[key] = _parse_value(key, value)
    return kind(**values)  # type: ignore[arg-type]


def _parse_value(key: str, value: str) -> object:
    if key in {"how", "direction"}:
        return value
    if key == "uids":
        return frozenset(value.split("+"))
    if key == "in_data":
        return value.lower() in {"1", "true", "yes"}
    return float(value) if "seconds" in key else int(value, 0)
