"""The options and arguments that commands share, and the checks of their values.

Each option can also be set in the environment, as ASYNCSTORE_ and the name of its parameter.
"""

from __future__ import annotations

import logging
import math
import re
from functools import cache
from inspect import get_annotations
from typing import TYPE_CHECKING, Any, Final, get_args, get_origin

import typer
from typer.core import TyperArgument, TyperOption

from asyncstore.cli.output.documented_log import QUIET
from asyncstore.errors import LocalProtocolError
from asyncstore.net.peer import Timeouts, check_ae_title, check_host
from asyncstore.uids import EXPLICIT_VR_BIG_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Annotated as Annotated


GENERAL: Final = "General Options"
INPUT: Final = "Input Options"
NETWORK: Final = "Network Options"
SYNTAX: Final = "Transfer Syntax Options"
MISCELLANEOUS: Final = "Miscellaneous Options"
BULK: Final = "Bulk Transfer Options"
RETRY: Final = "Retry Options"
RESULTS: Final = "Result Options"

CONTEXT_SETTINGS: Final[dict[str, Any]] = {"auto_envvar_prefix": "ASYNCSTORE", "help_option_names": ["-h", "--help"]}
ENVIRONMENT_NOTE: Final = (
    "Each option can also be set in the environment: ASYNCSTORE_LOG_LEVEL=info is --log-level info."
)

LOG_LEVELS: Final = {
    "critical": logging.CRITICAL,
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}
# A PDV header and the shortest data element (PS3.8 9.3.5.1, PS3.5 7.1.3): a shorter PDU has no room for data.
_SHORTEST_PDU_BYTES: Final = 14

_REQUESTED_SYNTAXES: Final = {
    "request_little": EXPLICIT_VR_LITTLE_ENDIAN,
    "request_big": EXPLICIT_VR_BIG_ENDIAN,
    "request_implicit": IMPLICIT_VR_LITTLE_ENDIAN,
}


# The help shows the name of an argument's parser as its type, so `number` and `text` are named for the user.
def whole_number(least: int, most: int, unit: str = "a whole number") -> Callable[[object], int]:
    """A parser of a whole number from `least` to `most`; its error message calls the number `unit`."""

    def number(text: object) -> int:
        try:
            value = int(str(text))
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise typer.BadParameter(f"{str(text)!r} is not {unit} from {least} to {most}")
        return value

    return number


def maximum_pdu(text: object) -> int:
    """The maximum length of P-DATA-TF PDUs in bytes; 0 means no limit."""
    number = whole_number(0, 0xFFFFFFFF, "a number of bytes")(text)
    if 0 < number < _SHORTEST_PDU_BYTES:
        raise typer.BadParameter(f"{number} bytes are too few: it is 0 (no limit) or at least {_SHORTEST_PDU_BYTES}")
    return number


def seconds(text: object) -> float:
    """A duration above 0."""
    number = _number(text)
    if not number > 0:
        raise typer.BadParameter(f"{str(text)!r} is not a number of seconds above 0")
    return number


def wait_seconds(text: object) -> float:
    """A duration that may be 0."""
    number = _number(text)
    if not number >= 0:
        raise typer.BadParameter(f"{str(text)!r} is not a number of seconds, 0 or more")
    return number


def _number(text: object) -> float:
    """A finite number, or NaN."""
    try:
        number = float(str(text))
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def read_by(read: Callable[[str], Any]) -> Callable[[object], Any]:
    """A parser that reads a value by a function that raises LocalProtocolError."""

    def text(given: object) -> Any:
        try:
            return read(str(given))
        except LocalProtocolError as error:
            raise typer.BadParameter(str(error)) from None

    return text


ae_title: Callable[[object], Any] = read_by(check_ae_title)


def source_address(text: object) -> tuple[str, int]:
    """ADDR, ADDR:PORT, [ADDR] or [ADDR]:PORT; an IPv6 address with a port needs the brackets. Port 0: any."""
    found = re.fullmatch(r"(\[[^]]+\]|[^:]+|[^][]*:[^][]*:[^][]*)(?::(\d{1,5}))?", str(text))
    if found is None or (found[2] and not 0 < int(found[2]) <= 0xFFFF):
        raise typer.BadParameter(f"{str(text)!r} is not an address, with :PORT or without")
    return found[1].removeprefix("[").removesuffix("]"), int(found[2] or 0)


_UNIT_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def size(text: object) -> int:
    """A number of bytes: 500M, 20G or 1.5T, in KiB, MiB, GiB or TiB."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,3})?)([kmgt]?)", str(text), re.IGNORECASE | re.ASCII)
    size_bytes = int(float(found[1]) * 1024 ** _UNIT_POWERS[found[2].lower()]) if found else 0
    if not size_bytes:
        raise typer.BadParameter(f"{str(text)!r:.80} is not a size such as 500M, 20G or 1.5T")
    return size_bytes


def choice(*names: str) -> Callable[[object], str]:
    """A parser that accepts one of the names, in upper or lower case."""

    def parse(text: object) -> str:
        name = str(text).lower()
        if name not in names:
            raise typer.BadParameter(f"{str(text)!r} is not one of {', '.join(names)}")
        return name

    return parse


def text(given: object) -> str:
    """Text as it is: a path need not be valid in the encoding of the system. A variable that is not set leaves none."""
    if not given:
        raise typer.BadParameter("it is empty")
    return str(given)


class _Declared:
    """An option or argument as a command declares it: the class that typer has for it, its names and its settings."""

    type: Any

    def __init__(self, made_of: Any, names: tuple[str, ...], settings: dict[str, Any]) -> None:
        self.made_of = made_of
        self.names = names
        self.settings = settings


if not TYPE_CHECKING:

    class Annotated:
        """A type, and the option or argument that has it. A hundred of typing's own are too dear at each start."""

        def __class_getitem__(cls, given):
            given[1].type = given[0]
            return given[1]


def option(*names: str, panel: str, parser: Callable[[object], Any] | None = None, **settings: Any) -> Any:
    """An option in a panel of the help: a flag if it has no parser. By default it has the name of its parameter.

    ENVIRONMENT_NOTE covers the environment variables.
    """
    return _Declared(TyperOption, names, {"rich_help_panel": panel, "type": parser, "is_flag": not parser, **settings})


def argument(*, parser: Callable[[object], Any], **settings: Any) -> Any:
    """An argument, which has its place on the command line."""
    return _Declared(TyperArgument, (), {"type": parser, **settings})


def parameters(command: Callable[..., None]) -> Iterator[Any]:
    """The options and arguments of a command, as typer has them: its own, then those that decorators have added.

    typer would make the same of the function itself, but copies each several times. With typing's Annotated, that took
    6 % of the instructions of each start.
    """
    names = command.__code__.co_varnames[: command.__code__.co_argcount]
    values = command.__defaults__ or ()
    defaults = dict(zip(names[len(names) - len(values) :], values, strict=True))
    for name, declared in get_annotations(command, eval_str=True).items():
        if isinstance(declared, _Declared):
            yield _parameter(name, declared, default=defaults.get(name), required=name not in defaults)
    for name, declared in added_options(command).items():
        yield _parameter(name, declared, default=False if declared.type is bool else None)


def added_options(command: Callable[..., None]) -> dict[str, Any]:
    """The options that decorators have added: name in the context -> type. The function itself does not get them."""
    added: dict[str, Any] = vars(command).setdefault("added_options", {})
    return added


def _parameter(name: str, declared: _Declared, **settings: Any) -> Any:
    """One of them: repeatable if its type is a list, and then None if it is not given. `check` sees all its values."""
    settings = {"show_default": True, **settings, **declared.settings}
    check: Callable[[Any], Any] = settings.pop("check", lambda value: value)
    is_option = declared.made_of is TyperOption
    if _has_several(declared.type):
        settings |= {"multiple": True} if is_option else {"nargs": -1}
        settings["callback"] = lambda context, parameter, values: check(list(values) or None)
    elif "check" in declared.settings:
        settings["callback"] = lambda context, parameter, value: check(value)
    names = declared.names or ((f"--{name.replace('_', '-')}",) if is_option else ())
    return declared.made_of(param_decls=[name, *names], **settings)


@cache
def _has_several(kind: Any) -> bool:
    """Whether a type of values is a list, or a list or None."""
    return any(get_origin(each) is list for each in (kind, *get_args(kind)))


def default_text(default: str) -> str:
    """The default of an option in words, to put behind its help: typer would write `[default: (auto)]`."""
    return rf" [dim]\[default: {default}][/dim]"


# The types of the commands' parameters. They are read at run time.
Quiet = Annotated[
    bool,
    option("-q", "--quiet", help="Print no warnings or errors.", panel=GENERAL, show_default=False),
]
Verbose = Annotated[bool, option("-v", "--verbose", help="Log each event.", panel=GENERAL)]
Debug = Annotated[bool, option("-d", "--debug", help="Also log every PDU and DIMSE message.", panel=GENERAL)]
LogLevel = Annotated[
    str | None,
    option(
        "-ll",
        "--log-level",
        parser=choice(*LOG_LEVELS),
        metavar="LEVEL",
        help="Log this level and above: critical, error, warning, info, debug." + default_text("error"),
        panel=GENERAL,
    ),
]

CONFIG_HELP: Final = "The file that says what @NAME is." + default_text("~/.config/asyncstore/peers.toml")


def _complete_peers(context: typer.Context, words: list[str], incomplete: str) -> list[tuple[str, str]]:
    from asyncstore.cli.peers import completions

    return completions(incomplete)


Address = Annotated[
    str,
    argument(
        parser=read_by(check_host),
        metavar="ADDR",
        help="Host name or address of the peer. @NAME in the place of ADDR PORT is a peer of the configuration file.",
        autocompletion=_complete_peers,
    ),
]
PeerPort = Annotated[
    int, argument(parser=whole_number(1, 65535, "a TCP port"), metavar="PORT", help="TCP port of the peer.")
]
Progress = Annotated[
    bool | None,
    option(
        "--progress/--no-progress",
        help="Show the progress on stderr." + default_text("if stderr is a terminal"),
        panel=RESULTS,
        show_default=False,
    ),
]
SourceAddress = Annotated[
    Any,
    option(
        "--source-address",
        parser=source_address,
        metavar="ADDR[:PORT]",
        help="The address of this machine to call from, where it has several; a port serves one association at a time.",
        panel=NETWORK,
    ),
]
CallingAET = Annotated[
    str,
    option("-aet", "--calling-aet", parser=ae_title, metavar="AETITLE", help="Our AE title.", panel=NETWORK),
]
CalledAET = Annotated[
    str,
    option("-aec", "--called-aet", parser=ae_title, metavar="AETITLE", help="The peer's AE title.", panel=NETWORK),
]


def _timeout(*names: str, what: str) -> Any:
    return option(*names, parser=seconds, metavar="SECONDS", help=what, panel=NETWORK)


AcseTimeout = Annotated[
    float, _timeout("-ta", "--acse-timeout", what="Timeout for ACSE messages: association and release.")
]
DimseTimeout = Annotated[float, _timeout("-td", "--dimse-timeout", what="Timeout for a DIMSE response.")]
NetworkTimeout = Annotated[
    float, _timeout("-tn", "--network-timeout", what="Longest time without the peer accepting data.")
]
ConnectTimeout = Annotated[
    float, _timeout("--connect-timeout", what="Timeout for the host name look-up, the TCP connection and TLS.")
]


def _maximum_pdu(help_text: str) -> Any:
    return option("-pdu", "--max-pdu", parser=maximum_pdu, metavar="BYTES", help=help_text, panel=NETWORK)


_MAX_PDU_HELP: Final = "Longest PDU to receive; 0: no limit."
MaxPDU = Annotated[int, _maximum_pdu(_MAX_PDU_HELP)]
SendersMaxPDU = Annotated[
    int,
    _maximum_pdu(
        f"{_MAX_PDU_HELP} Some peers accept PDUs only as long as this: with 131072 they take longer ones, often twice "
        "as fast."
    ),
]
RequestLittle = Annotated[
    bool,
    option("-xe", "--request-little", help="Request explicit VR little endian only.", panel=SYNTAX),
]
RequestBig = Annotated[bool, option("-xb", "--request-big", help="Request explicit VR big endian only.", panel=SYNTAX)]
RequestImplicit = Annotated[
    bool,
    option(
        "-xi",
        "--request-implicit",
        help="Request implicit VR little endian only. Many peers then keep a private sequence as a value of bytes.",
        panel=SYNTAX,
    ),
]


def one_of(context: typer.Context, *names: str) -> str | None:
    """Which of the flags was given, if any. The command line overrules the environment.

    Raises typer.BadParameter when they contradict each other.
    """
    given = [name for name in names if context.params[name]]
    typed = [name for name in given if is_typed(context, name)]
    chosen = typed or given
    if len(chosen) > 1:
        spelled = " and ".join(f"--{name.replace('_', '-')}" for name in chosen)
        raise typer.BadParameter(f"{spelled} contradict each other: give one of them", ctx=context)
    return chosen[0] if chosen else None


def is_typed(context: typer.Context, name: str) -> bool:
    """Whether the command line has the option, and not only the environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def log_level(context: typer.Context) -> int:
    """The log level that the general options ask for. `-ll` wins; the default is error."""
    named: str | None = context.params["log_level"]
    chosen = one_of(context, "quiet", "verbose", "debug")
    if named is not None:
        return LOG_LEVELS[named]
    return {"quiet": QUIET, "verbose": logging.INFO, "debug": logging.DEBUG, None: logging.ERROR}[chosen]


def file_log_level(context: typer.Context) -> int:
    """The log level of a file: the one that was asked for, by default info. Quiet is about the terminal."""
    if context.params["log_level"] is not None or context.params["verbose"] or context.params["debug"]:
        return log_level(context)
    return logging.INFO


def transfer_syntax(context: typer.Context) -> str | None:
    """The only transfer syntax to request; None when no such option was given."""
    chosen = one_of(context, "request_little", "request_big", "request_implicit")
    return _REQUESTED_SYNTAXES[chosen] if chosen else None


def timeouts(context: typer.Context) -> Timeouts:
    """The timeouts of an association, from the four options."""
    given = context.params
    return Timeouts(given["connect_timeout"], given["acse_timeout"], given["dimse_timeout"], given["network_timeout"])
