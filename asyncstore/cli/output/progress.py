"""What a run looks like: the lines of the display on a terminal, and the one line of `--stats`."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

from asyncstore.cli.output.plain_text import count_text, duration_text, path_text, peer_text, rate_text, size_text
from asyncstore.cli.output.screen import Span, cut_in_the_middle, width_of
from asyncstore.errors import StoreFailed
from asyncstore.instances.outcome import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore.cli.output.outlook import AssociationRates, Glance
    from asyncstore.cli.output.screen import Line
    from asyncstore.transfer.view import AssociationView, TransferView, Trouble

_REASON_CHARACTERS: Final = 200
# A peer may need this long for an answer without anybody wondering.
_SILENT_SECONDS: Final = 5.0
_STARVED_SECONDS: Final = 1.0
_NAME_COLUMNS: Final = 24
_FRACTION_COLUMNS: Final = 10
_MOST_ROWS: Final = 64  # of a very high terminal


class Marks:
    """The characters that a terminal can show."""

    def __init__(self, *, unicode: bool) -> None:
        self.done, self.left = ("━", "─") if unicode else ("=", "-")
        self.cut = "…" if unicode else "..."
        self._has_unicode = unicode

    def name(self, path: str) -> str:
        """A path as one line."""
        text = path_text(path)
        return text if self._has_unicode else text.encode("ascii", "backslashreplace").decode("ascii")

    def bar(self, share: float, columns: int) -> tuple[Span, Span]:
        """A bar of which a share is done; never full before all is."""
        done = min(columns, int(share * columns))
        return Span(self.done * done, "green"), Span(self.left * (columns - done), "dim")

    def moving_bar(self, now: float, columns: int) -> tuple[Span, ...]:
        """A bar that shows only that something goes on: nobody knows how much there is."""
        block = max(1, columns // 6)
        begin = int(now * 8) % max(1, columns - block + 1)
        rest = columns - block - begin
        return Span(self.left * begin, "dim"), Span(self.done * block, "green"), Span(self.left * rest, "dim")


# -- the display -------------------------------------------------------------------------------------------------------


def display_lines(glance: Glance, now: float, marks: Marks, size: tuple[int, int]) -> list[Line]:
    """The lines of the display for a terminal of so many columns and rows: the sums, then a row per association."""
    columns, rows = size[0] - 1, size[1] - 1
    lines: list[Line] = [_bar_line(glance, now, marks, columns), [Span(_joined(_sums(glance), columns))]]
    lines.extend(_wrapped([*_stored(glance), *_counters(glance)], columns))
    waits = waits_text(glance)
    if waits:
        lines.append([Span(f"{waits[0].upper()}{waits[1:]}", "yellow")])
    lines.extend(_association_lines(glance, marks, columns, min(_MOST_ROWS, rows - len(lines))))
    return lines


def _bar_line(glance: Glance, now: float, marks: Marks, columns: int) -> Line:
    report = glance.report
    is_known = glance.totals.are_final and glance.totals.instances > 0
    percent = f"{int(100 * glance.done_share):3} % " if is_known else "    "
    left = f"  {time_left_text(glance)}" if time_left_text(glance) else ""
    end = f"{left}  {duration_text(report.elapsed_seconds, digits=0)} elapsed"
    room = max(4, columns - len(percent) - len(end))
    bar = marks.bar(glance.done_share, room) if is_known else marks.moving_bar(now, room)
    return [Span(percent, "bold"), *bar, Span(end)]


def _sums(glance: Glance) -> list[str]:
    report, known = glance.report, glance.totals
    of = "/" if known.are_final else " of at least "
    return [
        f"{report.finished_instances:,}{of}{count_text(known.instances, 'instance')}",
        f"{size_text(glance.done_bytes)}{f'/{size_text(known.size_bytes)}' if known.are_final else ''}",
        f"{size_text(glance.bytes_per_second)}/s",
        f"{rate_text(glance.instances_per_second)}/s",
        count_text(report.associations_open, "association"),
    ]


def _stored(glance: Glance) -> list[Span]:
    states = glance.report.states
    stored = states[State.STORED] + states[State.WARNING]
    return [Span(f"{stored:,} stored")] if stored else []


def _counters(glance: Glance) -> list[Span]:
    """The other counts that are not 0, those first that a user should see."""
    report, view = glance.report, glance.view
    # One that may have ended its association itself is sent without others beside it.
    alone = f" ({view.suspected:,} of them alone)" if view.suspected else ""
    counts = (
        (report.failed, "failed", "red"),
        (view.retrying, f"to be sent again{alone}", "yellow"),
        (report.states[State.WARNING], "with a warning", "yellow"),
        (report.resumed, "stored earlier", ""),
        (report.duplicates, "duplicate", ""),
        (report.skipped, "not DICOM", "dim"),
    )
    return [Span(f"{count:,} {what}", style) for count, what, style in counts if count]


def _association_lines(glance: Glance, marks: Marks, columns: int, room: int) -> list[Line]:
    """A row per association, as far as there is room."""
    associations = glance.view.associations
    shown = associations if len(associations) <= room else associations[: max(0, room - 1)]
    lines = [_association_line(each, glance.rates[each.number], marks, columns) for each in shown]
    if len(shown) < len(associations) and room > 0:
        lines.append([Span(f"     and {count_text(len(associations) - len(shown), 'more association')}", "dim")])
    return lines


def _association_line(view: AssociationView, rates: AssociationRates, marks: Marks, columns: int) -> Line:
    """Number, state, file, and how it goes: `[2] /mnt/old/…/1.dcm  ━━━───  43 % of 1.07 GB  98.0 MB/s`."""
    number = Span(f"{f'[{view.number}]':>5} ", "dim")
    if not view.in_flight:
        return [number, Span("waiting for an instance" if view.state == "open" else view.state, "dim")]
    ending = f"  {view.state}" if view.state != "open" else ""
    details = _details(view, rates)
    fraction: tuple[Span, ...] = ()
    if view.written_bytes is not None:
        share = view.written_bytes / max(1, view.size_bytes)
        fraction = (Span("  "), *marks.bar(share, _FRACTION_COLUMNS))
        details[0] = f"{int(100 * share):3} % of {details[0]}"
    room = columns - len(number.text) - len(ending) - sum(len(each) + 2 for each in details)
    if room < _NAME_COLUMNS + 2 + _FRACTION_COLUMNS:
        fraction = ()
    while details and room < _NAME_COLUMNS:
        room += len(details.pop()) + 2
    room -= sum(width_of(span.text) for span in fraction)
    tail = "".join(f"  {each}" for each in details) + ending
    name = cut_in_the_middle(marks.name(view.path or "(in memory)"), max(1, room), marks.cut)
    is_silent = view.silent_seconds >= _SILENT_SECONDS
    padding = Span(" " * max(0, room - width_of(name)))
    return [number, Span(name), padding, *fraction, Span(tail, "yellow" if is_silent else "")]


def _details(view: AssociationView, rates: AssociationRates) -> list[str]:
    """Its size, its rate, and how long answers take; or how long there has been none. Each is always equally long."""
    if view.written_bytes is None:
        rate = f"{rate_text(rates.answers_per_second)}/s"
    else:
        rate = f"{size_text(rates.large_bytes_per_second)}/s" if rates.large_bytes_per_second else ""
    if view.silent_seconds >= _SILENT_SECONDS:
        answer = f"no answer {duration_text(view.silent_seconds, digits=0)}"
    elif rates.answer_seconds is None:
        answer = ""
    else:
        answer = f"answer {_short_time(rates.answer_seconds)}"
    return [f"{size_text(view.size_bytes):>9}", f"{rate:>11}", f"{answer:>14}"]


# -- one line ----------------------------------------------------------------------------------------------------------


def stats_line(glance: Glance) -> str:
    """The run as one plain line, for a log."""
    counters = [span.text for span in _counters(glance)]
    parts = [*_sums(glance), time_left_text(glance), *counters, waits_text(glance)]
    return ", ".join(filter(None, parts))


# -- what both say -----------------------------------------------------------------------------------------------------


def time_left_text(glance: Glance) -> str:
    """The time left, if it can be told."""
    seconds, is_final = glance.left_seconds, glance.totals.are_final
    if seconds is None or (not is_final and seconds < 1):
        return ""
    return f"{'' if is_final else 'at least '}{duration_text(seconds, digits=0)} left"


def waits_text(glance: Glance) -> str:
    """What the run waits for, in words; empty while all goes on."""
    view, report = glance.view, glance.report
    if view.is_stopping:
        return _stopping_text(view)
    if report.waiting_for is not None:
        return str(report.waiting_for)
    if report.committed is not None and report.scan_finished and report.finished_instances == report.found:
        return "waiting for the peer to commit to what it stored"
    if view.trouble is not None:
        return _trouble_text(view.trouble)
    if glance.starved_seconds >= _STARVED_SECONDS:
        return f"waiting for the source: no file was ready for {duration_text(glance.starved_seconds, digits=0)}"
    if view.retry_seconds is not None and not view.waiting and not view.in_flight:
        seconds = duration_text(view.retry_seconds, digits=0)
        return f"{count_text(view.retrying, 'instance')} to be sent again, the next in {seconds}"
    working = [each for each in view.associations if each.in_flight]
    silent = min(working, key=lambda each: each.silent_seconds, default=None)
    if silent is not None and silent.silent_seconds >= _SILENT_SECONDS:
        return _silence_text(silent)
    if not report.associations_open and not report.associations_established and view.associations:
        return "waiting for the peer to accept an association"
    return ""


def _stopping_text(view: TransferView) -> str:
    if not view.in_flight:
        return "stopping: the associations are ending"
    until = "" if view.drain_seconds is None else f", until {_clock_text(view.drain_seconds)} at most"
    return f"stopping: {count_text(view.in_flight, 'answer')} to come{until}"


def _silence_text(view: AssociationView) -> str:
    text = f"the peer has not answered for {duration_text(view.silent_seconds, digits=0)}"
    if view.answer_limit_seconds == math.inf:
        return text
    return f"{text}; -td ends its association after {duration_text(view.answer_limit_seconds, digits=0)}"


def _trouble_text(trouble: Trouble) -> str:
    """The time first: a terminal may cut the reason."""
    because = peer_text(str(trouble.because), _REASON_CHARACTERS)
    if trouble.left_seconds is None:
        return f"no association yet, trying again: {because}"
    what = "is out of resources" if isinstance(trouble.because, StoreFailed) else "takes nothing"
    return f"the peer {what}, trying until {_clock_text(trouble.left_seconds)}: {because}"


def _clock_text(seconds: float) -> str:
    """The local time in so many seconds."""
    return time.strftime("%H:%M:%S", time.localtime(time.time() + seconds))


def _short_time(seconds: float) -> str:
    if seconds < 0.9995:
        return f"{1000 * seconds:.{1 if seconds < 0.00995 else 0}f} ms"
    return f"{seconds:.1f} s" if seconds < 59.5 else duration_text(seconds, digits=0)


def _joined(parts: list[str], columns: int) -> str:
    """As many parts as fit into a line."""
    while len(parts) > 1 and len("  ".join(parts)) > columns:
        parts = parts[:-1]
    return "  ".join(parts)


def _wrapped(spans: list[Span], columns: int) -> Sequence[Line]:
    """The spans with two spaces between them, in as many lines as they need."""
    lines: list[list[Span]] = []
    room = 0
    for span in spans:
        room -= 2 + len(span.text)
        if room < 0:
            lines.append([span])
            room = columns - len(span.text)
        else:
            lines[-1] += [Span("  "), span]
    return lines
