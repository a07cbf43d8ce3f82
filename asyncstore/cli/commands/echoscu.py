"""`asyncstore echoscu`: check that a peer answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from asyncstore import __version__
from asyncstore.cli import options, running, securing
from asyncstore.cli.advice import explain_failure
from asyncstore.cli.exit_codes import ExitCode, interrupted_by
from asyncstore.cli.output.documented_log import logger
from asyncstore.errors import AsyncStoreError
from asyncstore.instances.outcome import reason_of
from asyncstore.net.peer import Peer
from asyncstore.uids import UNCOMPRESSED_TRANSFER_SYNTAXES, VERIFICATION

if TYPE_CHECKING:
    from asyncstore.cli.output.documented_log import DocumentedLog

DETAILS = """Exit codes: 0 the peer answered with success, 1 no association, 2 usage, 3 the peer answered with another \
status or not at all, 129, 130 or 143 interrupted."""


@securing.calls
def echoscu(
    context: typer.Context,
    addr: options.Address,
    port: options.PeerPort,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    log_level: options.LogLevel = None,
    calling_aet: options.CallingAET = "ECHOSCU",
    called_aet: options.CalledAET = "ANY-SCP",
    acse_timeout: options.AcseTimeout = 30,
    dimse_timeout: options.DimseTimeout = 30,
    network_timeout: options.NetworkTimeout = 30,
    connect_timeout: options.ConnectTimeout = 10,
    source_address: options.SourceAddress = None,
    max_pdu: options.MaxPDU = 16382,
    request_little: options.RequestLittle = False,
    request_big: options.RequestBig = False,
    request_implicit: options.RequestImplicit = False,
    repeat: options.Annotated[
        int,
        options.option(
            parser=options.whole_number(1, 1_000_000, "a number of requests"),
            metavar="N",
            help="Number of requests to send, one after another.",
            panel=options.MISCELLANEOUS,
        ),
    ] = 1,
    abort: options.Annotated[
        bool,
        options.option(
            "--abort",
            help="Abort the association after the last answer, instead of releasing it.",
            panel=options.MISCELLANEOUS,
        ),
    ] = False,
) -> None:
    """Send C-ECHO requests; the help is made from DETAILS."""
    syntax = options.transfer_syntax(context)
    peer = Peer(addr, port, called_aet, source_address, securing.caller_tls(context))
    identity = securing.user_identity(context)
    timeouts, level = options.timeouts(context), options.log_level(context)

    def command(log: DocumentedLog) -> int:
        logger.debug("asyncstore echoscu v%s", __version__)
        logger.debug("")
        proposal: dict[str, Any] = {
            "contexts": [(VERIFICATION, (syntax,) if syntax else UNCOMPRESSED_TRANSFER_SYNTAXES)],
            "calling_ae_title": calling_aet,
            "timeouts": timeouts,
            "maximum_length": max_pdu,
            "user_identity": identity,
            "allow_plaintext_credentials": context.params["allow_plaintext_credentials"],
        }
        return running.run_async(_verify, peer, proposal, repeat, abort, log)

    raise typer.Exit(running.run(level, securing.telling(context, command)))


async def _verify(peer: Peer, proposal: dict[str, Any], repeat: int, abort: bool, log: DocumentedLog) -> int:
    """Send the requests; the first signal aborts the association."""
    import anyio

    from asyncstore.services.scu import associate

    code: int = ExitCode.NO_ASSOCIATION
    with anyio.CancelScope() as scope, running.interrupts(scope.cancel, scope.cancel) as received:
        try:
            async with associate(peer, **proposal) as association:
                code = ExitCode.SOME_FAILED
                answers = [await association.echo() for _ in range(repeat)]
                if abort:
                    await association.abort()
            refused = [status for status in answers if status.value]
            for status in refused:
                logger.error("The peer answered: %s", reason_of(status))
            code = ExitCode.SOME_FAILED if refused else ExitCode.STORED
        except AsyncStoreError as error:
            explain_failure(error, peer, proposal["calling_ae_title"], log)
    return code if received.signal_number is None else interrupted_by(received.signal_number)
