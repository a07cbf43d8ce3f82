"""The application: its commands, each loaded only when it is run, so that `asyncstore --help` answers at once."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from asyncstore.cli import options, running
from asyncstore.cli.exit_codes import ExitCode
from asyncstore.cli.output import documented_log

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS: Final = {
    "storescu": "Send DICOM files and directories to a Storage SCP, one or a million.",
    "echoscu": "Verify that a peer answers (C-ECHO).",
    "storescp": "Receive instances (C-STORE) and keep or discard them.",
    "scan": "Say what files and directories hold, before any byte is sent.",
    "report": "Say what a ledger knows: counts, failures by reason, records as CSV or JSON.",
    "demo": "Send real sample files to an SCP of our own on this machine.",
}


class LazyGroup(TyperGroup):
    """Knows the names of its commands from the start, and a command itself once it is run."""

    def __init__(self, **attributes: Any) -> None:
        # Without rich: plain usage errors, one line to search for, and no import that they would wait for.
        super().__init__(**{**attributes, "rich_markup_mode": None})
        for name, summary in COMMANDS.items():
            self.add_command(TyperCommand(name, help=summary))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in COMMANDS:
            self.add_command(load(args[0]), args[0])
        return super().resolve_command(ctx, args)


def load(name: str) -> Any:
    """The command of that name: the function of that name in the module of that name."""
    module = importlib.import_module(f"asyncstore.cli.commands.{name}")
    single = typer.Typer(add_completion=False, rich_markup_mode="rich")
    single.command(
        name,
        help=f"{COMMANDS[name]}\n\n{module.DETAILS}",
        epilog=options.ENVIRONMENT_NOTE,
        context_settings=dict(options.CONTEXT_SETTINGS),
        no_args_is_help=name not in ("demo",),
    )(getattr(module, name))
    return typer.main.get_command(single)


def print_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        from asyncstore import __version__

        running.Results().print(f"asyncstore {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=LazyGroup,
    help="A DICOM Storage SCU that moves whole archives: pipelined, parallel, and exact about every instance.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def asyncstore(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def run_command_line(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name (those of the process by default) and give the exit code."""
    try:
        typer.main.get_command(app).main(arguments, prog_name="asyncstore")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except (running.ResultsLost, OSError):  # the version or a help; a command's own errors do not come here
        code = ExitCode.CANNOT_RECORD
    except Exception as error:
        with documented_log.installed(logging.ERROR):
            code = running.internal_error(error)
    else:
        code = 0
    return running.close_streams(code)
