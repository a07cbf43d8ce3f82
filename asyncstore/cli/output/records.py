"""Outcomes as records for other programs: JSON lines and CSV, one record per final outcome, as it happens."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import stat
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from asyncstore.cli.output.opening import for_owner
from asyncstore.cli.output.plain_text import escaped
from asyncstore.instances.elements import tag_digits

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncstore.instances.outcome import Outcome
    from asyncstore.transfer.report import Report

RECORD_SUFFIXES: Final = (".jsonl", ".csv")
SCHEMA_FILE: Final = os.path.join(os.path.dirname(__file__), "json_lines.schema.json")
SCHEMA_VERSION: Final = 1  # the schema says when it grows

COLUMNS: Final = (
    "time",
    "state",
    "path",
    "sop_class_uid",
    "sop_instance_uid",
    "transfer_syntax_uid",
    "sent_transfer_syntax_uid",
    "status",
    "reason",
    "twin_path",
    "comment",
    "offending_elements",
    "retryable",
    "attempts",
    "bytes_sent",
    "note",
    "changes",
    "sent_sop_instance_uid",
)
# Every report begins with one of these, in all versions.
_CSV_START: Final = b"time,state,"
_JSON_START: Final = b'{"time":"'
# A spreadsheet reads a cell that begins like this as a formula, in some languages also by the wide form of the sign; a
# leading apostrophe makes it text again.
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


class TextOutput(Protocol):
    """A stream that takes text."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


class RecordWriter(Protocol):
    """Writes outcomes. Raises OSError if that is not possible."""

    def begin(self) -> None: ...

    def write(self, outcome: Outcome) -> None: ...


def record_of(outcome: Outcome) -> dict[str, Any]:
    """A final outcome as plain data, with the time in UTC. Undecodable bytes of a path are lone surrogates."""
    instance, status = outcome.instance, outcome.status
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "state": outcome.state.value,
        "path": outcome.path,
        "sop_class_uid": instance.sop_class_uid if instance else None,
        "sop_instance_uid": instance.sop_instance_uid if instance else None,
        "transfer_syntax_uid": instance.transfer_syntax_uid if instance else None,
        "sent_transfer_syntax_uid": outcome.transfer_syntax_uid or None,
        "status": f"{status.value:04X}" if status else None,
        "reason": outcome.reason,
        "twin_path": outcome.stored_path,
        "comment": status.comment if status else "",
        "offending_elements": [tag_digits(tag) for tag in status.offending_elements] if status else [],
        "retryable": outcome.retryable,
        "attempts": outcome.attempts,
        "set_aside": outcome.is_set_aside,
        "bytes_sent": outcome.bytes_sent,
        "note": outcome.note,
        "changes": list(outcome.changes),
        "sent_sop_instance_uid": outcome.sent_sop_instance_uid if outcome.attempts else None,
    }


def json_line(record: dict[str, Any]) -> str:
    """JSON in ASCII, which any terminal, pipe or locale can carry, with the version of its schema; no line end."""
    return json.dumps({**record, "schema": SCHEMA_VERSION}, separators=(",", ":"))


def event_line(event: str, data: dict[str, Any]) -> str:
    """A line of JSON that names its kind."""
    return json_line({"event": event, **data})


class JsonLines:
    """Outcomes and a summary as JSON lines, each with its kind as `event`."""

    def __init__(self, stream: TextOutput) -> None:
        self._stream = stream

    def begin(self) -> None:
        """Nothing to do: a stream has no earlier content."""

    def write(self, outcome: Outcome) -> None:
        self._put("outcome", record_of(outcome))

    def write_summary(self, report: Report, exit_code: int, *, input_files: int | None = None) -> None:
        """Write the last line; `input_files` is the number of files in the whole input, if it was counted."""
        self._put("summary", {**report.to_dict(), "input_files": input_files, "exit_code": exit_code})

    def _put(self, event: str, data: dict[str, Any]) -> None:
        self._stream.write(f"{event_line(event, data)}\n")
        self._stream.flush()


class RecordFile:
    """The file of `--report`: JSON lines, or CSV (RFC 4180) without formulas for a spreadsheet.

    Opening the file locks it, and `begin` empties it, so a run without any outcome keeps an earlier report. The system
    has the record when `write` returns. Raises OSError if the file cannot be opened or written, if another run writes
    it, or if it is not a report.
    """

    def __init__(self, path: str) -> None:
        self._is_csv = path.endswith(".csv")
        self._has_header = not self._is_csv
        self._file = open(path, "ab+", buffering=0, opener=for_owner)  # noqa: SIM115
        self._is_to_be_emptied = stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)
        try:
            if self._is_to_be_emptied:
                self._claim()
        except BaseException:
            self._file.close()
            raise

    def _claim(self) -> None:
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OSError(errno.EBUSY, "another run is writing it") from None
            except OSError:  # a file system without locks
                pass
        self._file.seek(0)
        start = _CSV_START if self._is_csv else _JSON_START
        if not start.startswith(self._file.read(len(start))):
            raise OSError(errno.EEXIST, "the file is not a report of an earlier run, and is left as it is")

    def begin(self) -> None:
        """Remove the records of an earlier run, once."""
        if self._is_to_be_emptied:
            self._file.truncate(0)
            self._is_to_be_emptied = False

    def write(self, outcome: Outcome) -> None:
        self.begin()
        record = record_of(outcome)
        if not self._has_header:
            self._put(csv_row(COLUMNS))
            self._has_header = True
        if self._is_csv:
            self._put(csv_row(cells_of(record, COLUMNS)))
        else:
            self._put(f"{json_line(record)}\n".encode("utf-8", "surrogateescape"))

    def _put(self, data: bytes) -> None:
        while data:
            data = data[self._file.write(data) :]

    def close(self) -> None:
        self._file.close()


def csv_row(cells: Iterable[str]) -> bytes:
    """A line of CSV (RFC 4180), in UTF-8; the bytes of a path that are not valid text are as they are."""
    row = io.StringIO()
    csv.writer(row).writerow(cells)
    return row.getvalue().encode("utf-8", "surrogateescape")


def cells_of(record: dict[str, Any], columns: Iterable[str]) -> list[str]:
    """The cells of a record: its changes are phrases, and so are not divided by spaces."""
    return [cell_text("; ".join(record[name]) if name == "changes" else record[name]) for name in columns]


def cell_text(value: object) -> str:
    """A value as the text of a CSV cell: on one line, and nothing that a terminal or a spreadsheet carries out.

    What cannot be printed is escaped as in the log: a program that needs the exact name of a file reads JSON lines.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = escaped(" ".join(map(str, value)) if isinstance(value, list) else str(value))
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def is_record_name(path: str) -> bool:
    """Whether the name of a report ends in one of the formats."""
    return os.path.splitext(path)[1] in RECORD_SUFFIXES
