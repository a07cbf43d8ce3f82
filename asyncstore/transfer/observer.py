"""Tells a program what happens while a transfer runs."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Final

from asyncstore.errors import LocalProtocolError

if TYPE_CHECKING:
    from asyncstore.errors import AsyncStoreError
    from asyncstore.instances.outcome import Outcome
    from asyncstore.transfer.report import Report, Waiting

_logger = logging.getLogger("asyncstore.transfer")


class Observer:
    """Is told what happens while a transfer runs. Override the calls that you need; the others do nothing.

        class Watch(asyncstore.Observer):
            def on_pause(self, waiting):
                print("sends nothing:", waiting)

        report = await asyncstore.store(["study/"], to=peer, observer=Watch())

    All calls come from the event loop that the transfer runs in. They are ordinary functions, not coroutines, and the
    transfer stands while one runs: return at once, and hand on what takes long. A call may use `drain`, `abort` and
    `limit` of the transfer. For how far the run is at a moment, look at `Transfer.report` and `Transfer.view()`.

    An observer cannot break a run: if a call raises an Exception, that is logged with its traceback by the logger
    "asyncstore.transfer", once for each of the calls, and the run goes on.
    """

    def on_association_opened(self, number: int) -> None:
        """Association `number` is established. Numbers count from 1, and an Outcome has that of its association."""

    def on_association_ended(self, number: int, error: AsyncStoreError | None) -> None:
        """Association `number` has ended; `error` is why, None if the run ended it itself.

        One that could not be established ends too: with an error, and without `on_association_opened`.
        """

    def on_outcome(self, outcome: Outcome) -> None:
        """An instance has its final outcome, or a file without one has. These are the outcomes that a Transfer yields.

        The call comes before the caller of the Transfer gets the outcome, and in the same order.
        """

    def on_pause(self, waiting: Waiting) -> None:
        """The run sends nothing for a while: `waiting` has the reason, and until when.

        It comes again, without `on_resume` in between, when the run waits for something else.
        """

    def on_resume(self) -> None:
        """The run sends again. It does not come if the run ends while it waits."""

    def on_finish(self, report: Report) -> None:
        """The run has ended and its ledger is closed: `report` is final. The last call, whatever ended the run."""


_ON_OUTCOME: Final = "on_outcome"
CALLS: Final = tuple(name for name in vars(Observer) if name.startswith("on_"))


class Teller:
    """Tells an observer, and gets over its mistakes. Raises LocalProtocolError for what cannot be an observer."""

    def __init__(self, observer: Observer) -> None:
        if not isinstance(observer, Observer):
            hint = ": make one of it" if isinstance(observer, type) else ""
            raise LocalProtocolError(f"observer is {observer!r:.200}: it is an Observer{hint}")
        for name in CALLS:
            call = getattr(observer, name)
            if not callable(call) or inspect.iscoroutinefunction(call):
                what = "a coroutine function, which nothing awaits" if callable(call) else f"{call!r:.80}"
                raise LocalProtocolError(f"{name} of the observer is {what}: it is an ordinary function")
        self._observer = observer
        own = getattr(observer, _ON_OUTCOME)
        self.tells_outcomes: bool = getattr(own, "__func__", None) is not getattr(Observer, _ON_OUTCOME)
        self._failed: set[str] = set()
        self._waiting: Waiting | None = None

    def opened(self, number: int) -> None:
        """Tell that an association is established."""
        self._call("on_association_opened", number)

    def ended(self, number: int, error: AsyncStoreError | None) -> None:
        """Tell that an association has ended."""
        self._call("on_association_ended", number, error)

    def outcome(self, outcome: Outcome) -> None:
        """Tell of a final outcome."""
        self._call(_ON_OUTCOME, outcome)

    def look(self, waiting: Waiting | None) -> None:
        """Tell what the run waits for, if that has changed; None: it sends."""
        if waiting == self._waiting:
            return
        self._waiting = waiting
        if waiting is None:
            self._call("on_resume")
        else:
            self._call("on_pause", waiting)

    def finished(self, report: Report) -> None:
        """Tell that the run has ended."""
        self._call("on_finish", report)

    def _call(self, name: str, *arguments: object) -> None:
        try:
            getattr(self._observer, name)(*arguments)
        except Exception:
            if name not in self._failed:
                self._failed.add(name)
                _logger.exception("%s of the observer failed; if it fails again, that is not logged", name)
