"""`asyncstore storescp`: receive instances, keep them as files or discard them."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, Final

import typer

from asyncstore import __version__
from asyncstore.cli import options, running, securing
from asyncstore.cli.exit_codes import ExitCode
from asyncstore.cli.output.documented_log import logger
from asyncstore.cli.output.plain_text import count_text, path_text, peer_text, size_text
from asyncstore.status import SUCCESS, Status
from asyncstore.uids import name_of

if TYPE_CHECKING:
    from asyncstore.cli.output.documented_log import DocumentedLog
    from asyncstore.net.provider import ServiceProvider
    from asyncstore.services.storage_scp import Arrival, OnStore, StorageSCP

DETAILS = """Runs until Ctrl-C (SIGINT), SIGTERM or SIGHUP, then prints a summary at info level, and on a terminal at \
any level.

Listens on all addresses unless --bind-address names one, and any peer that reaches the port may store. --ae-title, \
--accept and --accept-calling restrict the AE titles; they do not authenticate a peer. --tls --tls-cert with \
--tls-client-ca does.

A file is named by its SOP Instance UID. The same data set again is answered with success and changes nothing; \
--on-existing is about another one of a stored UID. Unfinished files of a run that was killed are removed at the \
start. Connections that request no association take none \
from others: when too many wait, the one that has waited longest is closed.

Exit codes: 0 stopped by a signal, 1 cannot listen on the port, 2 usage."""


_COUNT: Final = options.whole_number(0, 0xFFFF, "a number of associations")


@securing.is_called
def storescp(
    context: typer.Context,
    port: options.Annotated[
        int,
        options.argument(
            parser=options.whole_number(0, 65535, "a TCP port"),
            metavar="PORT",
            help="TCP port to listen on; 0: any free port (shown on a terminal, or with -v).",
        ),
    ],
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    log_level: options.LogLevel = None,
    ae_title: options.Annotated[
        str,
        options.option(
            "-aet",
            "--ae-title",
            parser=options.ae_title,
            metavar="AETITLE",
            help="Our AE title. Calls to any other title are rejected; ANY-SCP accepts all.",
            panel=options.NETWORK,
        ),
    ] = "ANY-SCP",
    bind_address: options.Annotated[
        str,
        options.option(
            "-ba",
            "--bind-address",
            parser=options.text,
            metavar="ADDR",
            help="Address to listen on.",
            panel=options.NETWORK,
        ),
    ] = "0.0.0.0",
    accept: options.Annotated[
        list[str] | None,
        options.option(
            parser=options.ae_title,
            metavar="AETITLE",
            help="Accept only calls to this AE title, whatever --ae-title is. Repeatable.",
            panel=options.NETWORK,
        ),
    ] = None,
    accept_calling: options.Annotated[
        list[str] | None,
        options.option(
            parser=options.ae_title,
            metavar="AETITLE",
            help="Accept only calls from this AE title. Repeatable.",
            panel=options.NETWORK,
        ),
    ] = None,
    acse_timeout: options.AcseTimeout = 30,
    max_pdu: options.MaxPDU = 131072,
    window: options.Annotated[
        int,
        options.option(
            "-w",
            "--window",
            parser=options.whole_number(1, 0xFFFF, "a number of operations"),
            metavar="N",
            help="Asynchronous operations window to grant; 1: none.",
            panel=options.NETWORK,
        ),
    ] = 16,
    max_associations: options.Annotated[
        int,
        options.option(
            "--max-associations",
            parser=_COUNT,
            metavar="N",
            help="Associations at a time; further ones are rejected for now. 0: no limit.",
            panel=options.NETWORK,
        ),
    ] = 256,
    max_per_address: options.Annotated[
        int,
        options.option(
            "--max-per-address",
            parser=_COUNT,
            metavar="N",
            help="Associations at a time with one address, or one IPv6 network (/64). 0: no limit.",
            panel=options.NETWORK,
        ),
    ] = 128,
    idle_timeout: options.Annotated[
        float,
        options.option(
            "--idle-timeout",
            parser=options.wait_seconds,
            metavar="SECONDS",
            help="Abort an association whose peer neither sends nor takes a byte for this long. 0: never.",
            panel=options.NETWORK,
        ),
    ] = 600,
    max_association_time: options.Annotated[
        float,
        options.option(
            "--max-association-time",
            parser=options.wait_seconds,
            metavar="SECONDS",
            help="Abort an association that is older, whatever its peer does. 0: never.",
            panel=options.NETWORK,
        ),
    ] = 0,
    any_class: options.Annotated[
        bool,
        options.option(
            "--any-class",
            help="Accept private and unknown SOP classes too: all but those known to be of another service.",
            panel=options.NETWORK,
        ),
    ] = False,
    output_directory: options.Annotated[
        str | None,
        options.option(
            "-od",
            "--output-directory",
            parser=options.text,
            metavar="DIRECTORY",
            help="Directory to keep the instances in, created if it does not exist."
            + options.default_text("the current directory"),
            panel=options.RESULTS,
        ),
    ] = None,
    on_existing: options.Annotated[
        str,
        options.option(
            "--on-existing",
            parser=options.choice("keep", "replace", "rename"),
            metavar="keep|replace|rename",
            help="What becomes of another data set whose SOP Instance UID is stored. keep: it is refused (0111); "
            "replace: it takes the place of the stored one; rename: both are kept.",
            panel=options.RESULTS,
        ),
    ] = "rename",
    max_disk: options.Annotated[
        int | None,
        options.option(
            "--max-disk",
            parser=options.size,
            metavar="SIZE",
            help="Answer A700 before the files of the output directory have more bytes: 500M, 20G, 1T (MiB, GiB, TiB)."
            + options.default_text("no limit"),
            panel=options.RESULTS,
        ),
    ] = None,
    sync: options.Annotated[
        bool,
        options.option(
            "--sync",
            help="Answer only when the file is on the disk: a power failure then loses nothing that was answered with "
            "success. Slower.",
            panel=options.RESULTS,
        ),
    ] = False,
    ignore: options.Annotated[
        bool,
        options.option("--ignore", help="Discard the instances.", panel=options.RESULTS),
    ] = False,
    commitment: options.Annotated[
        bool,
        options.option(
            "--commitment",
            help="Also answer queries (C-FIND, study root) about what came since the start, and commit to keep it "
            "(storage commitment; reports on the association of the request).",
            panel=options.RESULTS,
        ),
    ] = False,
) -> None:
    """Listen until a signal comes; the help is made from DETAILS."""
    if ignore and output_directory is not None:
        raise typer.BadParameter("--ignore and --output-directory contradict each other: give one of them")
    if ignore and commitment:
        raise typer.BadParameter("--ignore and --commitment contradict each other: nothing discarded can be committed")
    for name in ("max_disk", "on_existing", "sync"):
        if ignore and options.is_typed(context, name):
            raise typer.BadParameter(f"--ignore and --{name.replace('_', '-')} contradict each other: nothing is kept")
    directory = None if ignore else output_directory or "."
    is_new = directory is not None and _made(directory)
    settings: dict[str, Any] = {
        "host": bind_address,
        "port": port,
        "ae_title": ae_title,
        "output_directory": directory,
        "called_ae_titles": frozenset(accept) if accept else None,
        "calling_ae_titles": frozenset(accept_calling) if accept_calling else None,
        "any_class": any_class,
        "maximum_length": max_pdu,
        "window": window,
        "maximum_associations": max_associations,
        "maximum_associations_per_address": max_per_address,
        "acse_seconds": acse_timeout,
        "idle_seconds": idle_timeout,
        "association_seconds": max_association_time,
        "on_existing": on_existing,
        "maximum_disk_bytes": max_disk or 0,
        "sync": sync,
        "tls": securing.called_tls(context),
    }
    raise typer.Exit(
        running.run(
            options.log_level(context), lambda log: running.run_async(_listen, settings, is_new, commitment, log)
        )
    )


def _made(directory: str) -> bool:
    """Create the directory, with its parents, if it does not exist; whether it did not. It must be one to write to."""
    is_new = not os.path.lexists(directory)
    try:
        os.makedirs(directory, exist_ok=True)
        if not os.access(directory, os.W_OK):
            raise PermissionError("Permission denied")
    except (OSError, ValueError) as error:
        message = f"{path_text(directory)!r} is not a directory that can be written: {running.system_text(error)}"
        raise typer.BadParameter(message, param_hint="--output-directory") from None
    return is_new


async def _listen(settings: dict[str, Any], is_new: bool, commitment: bool, log: DocumentedLog) -> int:
    """Receive until the first signal."""
    import anyio

    from asyncstore.services.storage_scp import StorageSCP

    logger.debug("asyncstore storescp v%s", __version__)
    logger.debug("")
    if is_new:
        log.notice(logging.INFO, f"Created the directory {path_text(settings['output_directory'])}")
    on_store: OnStore = _say_what_came
    if commitment:
        on_store, settings["further_providers"] = _archive()
    scp = StorageSCP(**settings, on_store=on_store)
    with anyio.CancelScope() as scope, running.interrupts(scope.cancel, scope.cancel):
        try:
            await scp.__aenter__()
        except (OSError, UnicodeError) as error:
            where = f"{peer_text(scp.host)} port {scp.port}"
            logger.error("Cannot listen on %s: %s", where, running.system_text(error))
            return ExitCode.NO_ASSOCIATION
        try:
            how = ", by TLS only" if scp.tls is not None else ""
            log.notice(logging.INFO, f"Listening on {scp.host} port {scp.port} as {scp.ae_title}{how}")
            await anyio.sleep_forever()
        finally:
            await scp.__aexit__(None, None, None)
    log.notice(logging.INFO, _summary(scp))
    return ExitCode.STORED


def _summary(scp: StorageSCP) -> str:
    counts = {
        "refused": scp.failed,
        "the same again": scp.same_again,
        "kept beside another data set": scp.kept_beside,
        "in place of another data set": scp.replaced,
    }
    received = f"{count_text(scp.stored, 'instance')} received on {count_text(scp.associations, 'association')}"
    return ", ".join([received, *(f"{count:,} {what}" for what, count in counts.items() if count)])


def _archive() -> tuple[OnStore, dict[str, ServiceProvider]]:
    """What notes each instance that came, and the providers that answer for these."""
    import anyio.to_thread

    from asyncstore.inputs.opening import instance_from
    from asyncstore.instances.study import keys_of
    from asyncstore.services.archive_scp import CommitmentProvider, FindProvider, Holdings
    from asyncstore.services.references import Reference
    from asyncstore.uids import STORAGE_COMMITMENT_PUSH_MODEL, STUDY_ROOT_FIND

    holdings = Holdings()

    async def note(arrival: Arrival) -> Status:
        path = str(arrival.path)
        request = arrival.request
        reference = Reference(request.affected_sop_class_uid, request.affected_sop_instance_uid)

        def add() -> None:
            study, series = keys_of(instance_from(path))
            holdings.add(study or "", series or "", reference, path)

        await anyio.to_thread.run_sync(add)
        return _say_what_came(arrival)

    commitment = CommitmentProvider(holdings)
    return note, {STUDY_ROOT_FIND: FindProvider(holdings), STORAGE_COMMITMENT_PUSH_MODEL: commitment}


def _say_what_came(arrival: Arrival) -> Status:
    request = arrival.request
    logger.info(
        "Received %s %s from %s (%s, %s)%s",
        peer_text(name_of(request.affected_sop_class_uid)),
        peer_text(request.affected_sop_instance_uid),
        peer_text(arrival.calling_ae_title),
        name_of(arrival.transfer_syntax_uid),
        size_text(arrival.data_set_bytes),
        f": {path_text(str(arrival.path))}" if arrival.path else "",
    )
    return SUCCESS
