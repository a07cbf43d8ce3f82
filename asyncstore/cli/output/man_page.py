"""The manual page, made of what the commands say of themselves."""

from __future__ import annotations

import textwrap
import time
from typing import TYPE_CHECKING, Any, Final

from asyncstore import __version__
from asyncstore.cli import options

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LINE_CHARACTERS: Final = 78
_ESCAPES: Final = str.maketrans({"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"})
_FILES: Final = (
    ("~/.config/asyncstore/peers.toml", "The named peers; $XDG_CONFIG_HOME takes the place of ~/.config if it is set."),
)


def page(summary: str, commands: Iterable[Any]) -> Iterator[str]:
    """The lines of asyncstore(1), in the man macros of roff. `summary` says what the program is for."""
    commands = list(commands)
    yield f'.TH ASYNCSTORE 1 "{time.strftime("%Y-%m-%d")}" "asyncstore {__version__}" "User Commands"'
    yield from (".SH NAME", _text(f"asyncstore - {summary.rstrip('.')}"))
    yield from (".SH SYNOPSIS", ".B asyncstore", ".I command", "[OPTIONS] ...")
    yield ".SH COMMANDS"
    for command in commands:
        yield from _command(command)
    yield from (".SH ENVIRONMENT", _text(options.ENVIRONMENT_NOTE))
    yield ".SH FILES"
    for path, meaning in _FILES:
        yield from (".TP", f".I {_text(path)}", _text(meaning))


def _command(command: Any) -> Iterator[str]:
    """A command: how it is called, what it does, and its options by panel."""
    context = command.make_context(command.name, [], resilient_parsing=True)
    pieces = " ".join(command.collect_usage_pieces(context))
    yield from (f'.SS "asyncstore {command.name}"', f".B asyncstore {command.name}", _text(pieces))
    for paragraph in _plain(command.help).split("\n\n"):
        yield from (".PP", _text(paragraph))
    params = command.get_params(context)
    for param in params:
        if param.param_type_name == "argument":
            yield from _entry(rf"\fI{_text(param.metavar)}\fR", param)
    panels = dict.fromkeys(param.rich_help_panel for param in params if param.param_type_name == "option")
    for panel in panels:
        yield from (".PP", rf"\fB{_text(panel)}\fR")
        for param in params:
            if param.param_type_name == "option" and param.rich_help_panel == panel:
                yield from _entry(_names(param), param)


def _names(param: Any) -> str:
    """The names of an option and its value: \\fB-j\\fR, \\fB--associations\\fR \\fIN|auto\\fR."""
    names = ", ".join(rf"\fB{_text(name)}\fR" for name in (*param.opts, *param.secondary_opts))
    return names if param.is_flag else rf"{names} \fI{_text(param.metavar)}\fR"


def _entry(names: str, param: Any) -> Iterator[str]:
    text = _plain(param.help or "")
    has_default = param.param_type_name == "option" and param.show_default and not param.is_flag
    if has_default and param.default not in (None, "") and "[default:" not in text:
        text += f" [default: {param.default}]"
    yield from (".TP", names, _text(text))


def _plain(markup: str) -> str:
    """A text of the help without its markup."""
    from rich.text import Text

    return Text.from_markup(markup).plain.strip()


def _text(text: str) -> str:
    """A paragraph in short lines, in which roff finds neither an escape nor a request, and typographs nothing."""
    escaped = "".join(each if each.isascii() else rf"\[u{ord(each):04X}]" for each in text.translate(_ESCAPES))
    lines = textwrap.wrap(escaped, _LINE_CHARACTERS, break_long_words=False, break_on_hyphens=False)
    return "\n".join(rf"\&{line}" if line.startswith(".") else line for line in lines)
