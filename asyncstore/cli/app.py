"""The application and its commands. A command is loaded only when it runs, so `asyncstore --help` answers at once."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from asyncstore.cli import options, running
from asyncstore.cli.exit_codes import ExitCode
from asyncstore.cli.output import documented_log

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping, Sequence

SUMMARY: Final = (
    "Send whole imaging archives to a PACS by DICOM C-STORE: fast, resumable, and exact about every instance."
)
COMMANDS: Final = {
    "storescu": "Send DICOM files and directories to a Storage SCP (C-STORE).",
    "echoscu": "Check that a peer answers (C-ECHO).",
    "storescp": "Receive instances (C-STORE) and keep or discard them.",
    "scan": "List what would be sent, by SOP class and transfer syntax.",
    "verify": "Check that a peer has what was sent (C-FIND).",
    "report": "Summarise a ledger: counts, failures by reason, CSV, JSON.",
    "enqueue": "Share out a migration among many sender hosts.",
    "worker": "Send batches of a migration, as one of many hosts.",
    "pause": "Pause a migration of many hosts.",
    "resume": "Have a paused migration go on.",
    "limit": "Limit the associations of all hosts of a migration.",
    "retry": "Send again what a migration has given up.",
    "peers": "List the named peers of the configuration file.",
    "demo": "Send sample files to a throw-away SCP on this machine.",
    "schema": "Print the JSON Schema of --json and of .jsonl reports.",
    "man": "Print the manual page of all commands.",
}


_WITHOUT_ARGUMENTS: Final = ("peers", "demo", "schema", "man")
_NAMED_PEER: Final = ("@", "--config")
_COLUMNS_OF_ONE_LINE: Final = "10000"
_COMPLETION: Final = ("install_completion", "show_completion")


class DocumentedCommand(TyperCommand):
    """A command whose help is laid out as manual pages are."""

    def get_help_option(self, ctx: Any) -> Any:
        """The option --help, in the panel of the general options and not in one of its own."""
        option: Any = super().get_help_option(ctx)
        if option is not None:
            option.rich_help_panel = options.GENERAL
        return option

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line; @NAME in the place of ADDR PORT is a peer of the configuration file."""
        if self.takes_peer and any(word.startswith(_NAMED_PEER) for word in args):
            from asyncstore.cli import peers

            try:
                args = peers.expanded(self, ctx, args, _options_of_peers)
            except typer.BadParameter:
                if not ctx.resilient_parsing:  # as it is to complete a command line
                    raise
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Call the function with the context, and with the parameters that it declares itself."""
        function: Any = self.callback
        added = options.added_options(function)
        own = {name: value for name, value in ctx.params.items() if name not in added}
        return ctx.invoke(function, ctx, **own)

    @property
    def takes_peer(self) -> bool:
        """Whether it has the arguments ADDR PORT."""
        return any(param.name == "addr" for param in self.params)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The usage line: `[OPTIONS] ADDR PORT [PATH]...`, where typer writes `{ADDR} {PORT} [PATH]`."""
        pieces = [self.options_metavar or ""]
        for param in self.get_params(ctx):
            if param.param_type_name == "argument":
                name = str(param.metavar) if param.required else f"[{param.metavar}]"
                pieces.append(f"{name}..." if param.nargs == -1 else name)
        return pieces


class LazyGroup(TyperGroup):
    """Knows the names of its commands from the start, and loads a command when it runs."""

    def __init__(self, names: Iterable[str], *options_for_completion: Any) -> None:
        # Without rich, a usage error is one plain line that can be searched for, and needs no import.
        super().__init__(
            params=[_version_option(), *options_for_completion],
            commands={name: TyperCommand(name, help=COMMANDS[name]) for name in names},
            help=SUMMARY,
            context_settings={"help_option_names": ["-h", "--help"]},
            no_args_is_help=True,
            rich_markup_mode=None,
        )

    def get_params(self, ctx: Any) -> list[Any]:
        """The options, with those for shell completion behind the others."""
        return sorted(super().get_params(ctx), key=lambda param: param.name in _COMPLETION)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in COMMANDS:
            self.add_command(load(args[0]), args[0])
        return super().resolve_command(ctx, args)


def load(name: str) -> Any:
    """The command `name`: the function of that name, in the module of that name, and --version."""
    module = importlib.import_module(f"asyncstore.cli.commands.{name}")
    function = getattr(module, name)
    command = DocumentedCommand(
        name,
        params=[*options.parameters(function)],
        callback=function,
        help=f"{COMMANDS[name]}\n\n{module.DETAILS}",
        epilog=options.ENVIRONMENT_NOTE,
        context_settings=dict(options.CONTEXT_SETTINGS),
        no_args_is_help=name not in _WITHOUT_ARGUMENTS,
        rich_markup_mode="rich",
    )
    if command.takes_peer:
        command.params.append(
            TyperOption(
                param_decls=["--config"],
                expose_value=False,
                metavar="FILE",
                help=options.CONFIG_HELP,
                rich_help_panel=options.NETWORK,
            )
        )
    command.params.append(_version_option(options.GENERAL))
    return command


def _version_option(panel: str | None = None) -> TyperOption:
    return TyperOption(
        param_decls=["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        allow_from_autoenv=False,  # scripts that install programs may have a variable of this name
        callback=lambda context, param, wanted: print_version(wanted),
        help="Print the version and exit.",
        rich_help_panel=panel,
    )


def _options_of_peers() -> set[str]:
    """The parameters of all commands that take a peer."""
    commands = filter(lambda command: command.takes_peer, map(load, COMMANDS))
    return {param.name for command in commands for param in command.params}


def print_version(wanted: bool) -> None:
    """Print the version and exit."""
    if wanted:
        from asyncstore import __version__

        running.Results().print(f"asyncstore {__version__}")
        raise typer.Exit


def _answer_shell(variables: MutableMapping[str, str]) -> None:
    """When a shell asks for completions: it takes each line for one, so no help may be broken into lines.

    bash splits words at @: make `@` and `arch` one word again.
    """
    asked = variables.get("_ASYNCSTORE_COMPLETE")
    if asked is not None:
        variables["COLUMNS"] = _COLUMNS_OF_ONE_LINE
    if asked != "complete_bash":
        return
    words = variables.get("COMP_WORDS", "").split("\n")
    place = int(variables.get("COMP_CWORD", "0"))
    for split in range(len(words) - 1, 0, -1):
        if words[split - 1] == "@":
            words[split - 1 : split + 1] = ["@" + words[split]]
            place -= split <= place
    variables.update(COMP_WORDS="\n".join(words), COMP_CWORD=str(place))


def run_command_line(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name and return the exit code; by default the arguments of the process."""
    _answer_shell(os.environ)
    words = sys.argv[1:] if arguments is None else arguments
    try:
        # A command that runs needs no other, and no options that install shell completion: they are slow to make.
        is_named = bool(words) and words[0] in COMMANDS
        more = (words[:1],) if is_named else (COMMANDS, *typer.main.get_install_completion_arguments())
        LazyGroup(*more).main(arguments, prog_name="asyncstore")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.__context__, BrokenPipeError):  # the help had no reader, which typer calls 1
            code = ExitCode.CANNOT_RECORD
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except (running.ResultsLost, OSError):  # from --version or --help; a command handles its own errors
        code = ExitCode.CANNOT_RECORD
    except Exception as error:
        with documented_log.installed(logging.ERROR):
            code = running.internal_error(error)
    else:
        code = 0
    return running.close_streams(code)
