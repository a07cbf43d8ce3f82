"""A table of old and new values, from a CSV file: `PatientID,PatientID,IssuerOfPatientID`."""

from __future__ import annotations

import csv
import hashlib
from typing import TYPE_CHECKING, Final

from asyncstore.errors import count_text
from asyncstore.preparation.attributes.edits import Action
from asyncstore.preparation.attributes.paths import AttributePath, BadRule, check_changeable, check_readable, path_of
from asyncstore.preparation.attributes.values import CannotChange, Value

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

_OLD: Final = "old "
_DELIMITERS: Final = ",;\t"
_LONGEST_LINE_BYTES: Final = 1 << 20


class ValueMap:
    """Rows of new values by old ones. The header names attributes: the first column is the old value, and so is each
    that begins with `old `; the others are new values. An empty new value leaves the attribute as it is.

        old PatientID,PatientID,IssuerOfPatientID
        4711,A-4711,HOSPITAL

    Reads the whole file, and checks each value. Raises BadRule for the first mistake, OSError if it cannot be read.
    """

    def __init__(self, file: str | os.PathLike[str]) -> None:
        self.keys: list[AttributePath] = []
        self.columns: list[AttributePath] = []
        self.header: list[str] = []
        self._rows: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._values: dict[tuple[int, str], Action] = {}
        self._digest = hashlib.sha256()
        with open(file, "rb") as stream:
            self._read(_lines(stream))
        self.digest: str = self._digest.hexdigest()[:32]
        names = " and ".join(path.text for path in self.keys)
        self._unknown = f"its {names} {'is' if len(self.keys) == 1 else 'are'} not in the map"

    def __len__(self) -> int:
        return len(self._rows)

    def row_of(self, key: tuple[str, ...]) -> list[tuple[AttributePath, Action]]:
        """The new values for old ones. Raises CannotChange if there is no such row."""
        row = self._rows.get(key)
        if row is None:
            raise CannotChange(self._unknown)
        return [
            (path, self._action(number, text))
            for number, (path, text) in enumerate(zip(self.columns, row, strict=True))
            if text
        ]

    def _action(self, number: int, text: str) -> Action:
        action = self._values.get((number, text))
        if action is None:
            path = self.columns[number]
            action = self._values[number, text] = Action(Value(path, text), f"{path} set from the map")
        return action

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read(self, lines: Iterator[str]) -> None:
        first = next(lines, "")
        if not first.strip():
            raise BadRule("line 1: the header with the names of attributes is missing")
        delimiter = max(_DELIMITERS, key=first.count)
        reader = csv.reader(_chained(first, lines), delimiter=delimiter, strict=True)
        line_of: dict[tuple[str, ...], int] = {}
        is_old: list[bool] = []
        try:
            for row in reader:
                if not is_old:
                    is_old = self._read_header(row)
                elif row:
                    self._add_row(row, is_old, reader.line_num, line_of)
        except csv.Error as error:
            raise BadRule(f"line {reader.line_num}: it is not CSV: {error}") from None
        if not self._rows:
            raise BadRule("it has no rows below the header")

    def _read_header(self, names: list[str]) -> list[bool]:
        self.header = [name.strip() for name in names]
        is_old = [not number or name.casefold().startswith(_OLD) for number, name in enumerate(self.header)]
        for old, name in zip(is_old, self.header, strict=True):
            try:
                path = path_of(name[len(_OLD) :] if name.casefold().startswith(_OLD) else name)
                if old:
                    check_readable(path)
                else:
                    check_changeable(path, is_set=True)
            except BadRule as error:
                raise BadRule(f"line 1: {error}") from None
            (self.keys if old else self.columns).append(path)
        if not self.columns:
            raise BadRule("line 1: there is no column of new values")
        for paths in (self.keys, self.columns):
            repeated = next((path for n, path in enumerate(paths) if path.steps in [p.steps for p in paths[:n]]), None)
            if repeated is not None:
                raise BadRule(f"line 1: {repeated} is there twice")
        return is_old

    def _add_row(self, row: list[str], is_old: list[bool], line: int, line_of: dict[tuple[str, ...], int]) -> None:
        if len(row) != len(is_old):
            raise BadRule(f"line {line}: it has {count_text(len(row), 'cell')}, the header has {len(is_old)}")
        key = tuple(cell.strip() for cell, old in zip(row, is_old, strict=True) if old)
        new = tuple(cell.strip() for cell, old in zip(row, is_old, strict=True) if not old)
        if key in line_of:
            raise BadRule(f"line {line}: its old value is that of line {line_of[key]}")
        line_of[key] = line
        for path, text in zip(self.columns, new, strict=True):
            if text:
                try:
                    Value(path, text)
                except BadRule as error:
                    raise BadRule(f"line {line}: {error}") from None
        self._rows[key] = new
        self._digest.update(repr((key, new)).encode("utf-8", "surrogatepass"))


def _lines(stream: object) -> Iterator[str]:
    """The lines of a file in UTF-8, with a byte order mark or without. Raises BadRule for other bytes."""
    for number, line in enumerate(iter(lambda: stream.readline(_LONGEST_LINE_BYTES), b""), 1):  # type: ignore[attr-defined]
        if len(line) >= _LONGEST_LINE_BYTES:
            raise BadRule(f"line {number}: it is longer than a line of CSV can be")
        if b"\0" in line:
            raise BadRule(f"line {number}: it has a zero byte: save the table as CSV in UTF-8")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise BadRule(f"line {number}: it is not UTF-8: save the table as CSV in UTF-8") from None


def _chained(first: str, others: Iterator[str]) -> Iterator[str]:
    yield first
    yield from others
