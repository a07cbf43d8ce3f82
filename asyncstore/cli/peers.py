"""The named peers of the configuration file: `@archive` in the place of ADDR PORT, with options of its own.

    [peers.archive]
    address = "pacs.example"
    port = 11112
    called_aet = "ARCHIVE"
    associations = 4

The keys are the long names of options. What the command line or the environment says comes first.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from typing import TYPE_CHECKING, Any, Final, NoReturn

import typer

from asyncstore.cli.output.plain_text import path_text
from asyncstore.errors import AsyncStoreError
from asyncstore.net.peer import Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typer.core import TyperCommand

_TABLE: Final = "peers"
_LONGEST_BYTES: Final = 1 << 18
_MOST_DOTS: Final = 500
_KEYS_OF_ARGUMENTS: Final = {"addr": "address", "port": "port"}
# What a file cannot say for a run: where it is itself, and what the run is about.
_LEFT_OUT: Final = ("config", "help", "version", "paths", "sources", "dsn", "name", "roots")


def path_of(given: str | None) -> str:
    """The configuration file: the one that was given, here or in the environment, or that of the user."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return given or os.environ.get("ASYNCSTORE_CONFIG") or os.path.join(home, "asyncstore", "peers.toml")


class PeersFile:
    """The tables of a configuration file, by the name of the peer. Raises typer.BadParameter for one that is wrong.

    `asked_by` is what on the command line asks for the file.
    """

    def __init__(self, path: str, asked_by: str = "@NAME") -> None:
        self._path = path
        self._asked_by = asked_by
        try:
            with open(path, "rb") as file:
                data = file.read(_LONGEST_BYTES + 1)
            if len(data) > _LONGEST_BYTES:
                self._refuse(f"it is longer than {_LONGEST_BYTES:,} bytes")
            if any(line.count(b".") > _MOST_DOTS for line in data.splitlines()):  # tomllib's time grows as their square
                self._refuse(f"a line has more than {_MOST_DOTS} dots")
            content = tomllib.loads(data.decode())
        except FileNotFoundError as error:
            self._refuse(f"{error.strerror}: it has a table for each named peer, such as [{_TABLE}.archive]")
        except OSError as error:
            self._refuse(error.strerror or str(error))
        except RecursionError:
            self._refuse("it is nested too deep")
        except ValueError as error:  # of the text, of TOML, and of a number that is too long
            self._refuse(str(error))
        for name in content:
            if name != _TABLE:
                self._refuse(f"[{name}] is not known; a peer is a table such as [{_TABLE}.archive]")
        self.tables: dict[str, Any] = content.get(_TABLE, {})
        if not isinstance(self.tables, dict):
            self._refuse(f"{_TABLE} is not a table, such as [{_TABLE}.archive]")

    def peer(self, name: str) -> Peer:
        """The peer of that name, without what else its table says."""
        table = self._table(name)
        try:
            return Peer(str(table["address"]), int(table["port"]), str(table.get("called_aet", "ANY-SCP")))
        except (AsyncStoreError, TypeError, ValueError) as error:
            self._refuse(f"[{_TABLE}.{name}] {error}")

    def options(self, command: TyperCommand, context: typer.Context, name: str, known: Callable[[], set[str]]) -> Any:
        """The options that the table gives to a command, and its address and port, by the name of the parameter.

        `known` are the parameters of all commands: a table may have options that only another command knows.
        """
        params = {param.name: param for param in command.params}
        return {
            parameter: self._value(params[parameter], value, context, f"[{_TABLE}.{name}] {key}")
            for parameter, key, value in self._entries(name, known)
            if parameter in params
        }

    def _table(self, name: str) -> dict[str, Any]:
        table = self.tables.get(name)
        if table is None:
            self._refuse(f"there is no [{_TABLE}.{name}]{_nearest(name, self.tables)}")
        if not isinstance(table, dict):
            self._refuse(f"{_TABLE}.{name} is not a table")
        for key in _KEYS_OF_ARGUMENTS.values():
            if key not in table:
                self._refuse(f"[{_TABLE}.{name}] has no {key}")
        return table

    def _entries(self, name: str, known: Callable[[], set[str]]) -> Iterator[tuple[str, str, Any]]:
        arguments = {key: parameter for parameter, key in _KEYS_OF_ARGUMENTS.items()}
        options = known().difference(_LEFT_OUT, arguments.values())
        for key, value in self._table(name).items():
            parameter = arguments.get(key) or key.replace("-", "_")
            if key not in arguments and parameter not in options:
                self._refuse(f"[{_TABLE}.{name}] {key} is not an option{_nearest(key, {*options, *arguments})}")
            yield parameter, key, value

    def _value(self, param: Any, value: Any, context: typer.Context, where: str) -> Any:
        """A value as the command line would give it: the text of a number, true or false, or several."""
        if getattr(param, "is_flag", False):
            if not isinstance(value, bool):
                self._refuse(f"{where} = {value!r}: it is true or false")
            return value
        values = value if param.multiple and isinstance(value, list) else [value]
        for each in values:
            if isinstance(each, bool | list | dict):
                self._refuse(f"{where} = {each!r}: it is text or a number{', or a list' if param.multiple else ''}")
        texts = [str(each) for each in values]
        if any("\0" in each for each in texts):
            self._refuse(f"{where}: it has a NUL, as no word of a command line can")
        given = texts if param.multiple else texts[0]
        try:
            param.type_cast_value(context, given)
        except typer.BadParameter as error:
            self._refuse(f"{where}: {error.message}")
        return given

    def _refuse(self, reason: str) -> NoReturn:
        raise typer.BadParameter(path_text(f"{self._path}: {reason}"), param_hint=self._asked_by)


def _nearest(name: str, names: Any) -> str:
    nearest = difflib.get_close_matches(name, sorted(names), 1, 0.0)
    return f"; the nearest name is {nearest[0]}" if nearest else ""


def expanded(
    command: TyperCommand, context: typer.Context, words: list[str], known: Callable[[], set[str]]
) -> list[str]:
    """A command line with ADDR PORT in the place of @NAME; the options of the peer become defaults of the command."""
    given = _parsed(command, context, words)
    place = _place_of_name(command)
    name = str(given.get(place) or "")
    if not name.startswith("@"):
        if given.get("config"):
            raise typer.BadParameter("it goes with @NAME in the place of ADDR PORT", param_hint="--config")
        return words
    if given.get("help") or given.get("version"):
        return words
    options = PeersFile(path_of(given.get("config"))).options(command, context, name[1:], known)
    address, port = options.pop("addr"), options.pop("port")
    context.default_map = {**(context.default_map or {}), **options}
    at = _word_of_name(command, context, words, name, place)
    return [*words[:at], address, port, *words[at + 1 :]]


def _place_of_name(command: TyperCommand) -> str:
    """The argument that @NAME is read as, which stands for two: the last one, if several paths come before it."""
    first = next(param for param in command.params if param.param_type_name == "argument")
    return "port" if first.nargs == -1 else "addr"


def _word_of_name(command: TyperCommand, context: typer.Context, words: list[str], name: str, place: str) -> int:
    """Where @NAME is that argument: it may also be the value of an option."""
    other = f"{name}@"
    return next(
        at
        for at in (at for at, word in enumerate(words) if word == name)
        if _parsed(command, context, [*words[:at], other, *words[at + 1 :]]).get(place) == other
    )


def _parsed(command: TyperCommand, context: typer.Context, words: list[str]) -> Any:
    """What the command line gives, as text and by the name of the parameter."""
    return command.make_parser(context).parse_args(list(words))[0]


def completions(incomplete: str) -> list[tuple[str, str]]:
    """The names that begin like this, each with its peer; none if the file is not as it should be."""
    if not incomplete.startswith("@"):
        return []
    try:
        file = PeersFile(path_of(None))
        names = [name for name in file.tables if f"@{name}".startswith(incomplete)]
        return [(f"@{name}", str(file.peer(name))) for name in names]
    except typer.BadParameter:
        return []
