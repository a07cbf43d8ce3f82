"""The option --html, and the file that it writes."""

from __future__ import annotations

import typer

from asyncstore.cli import options, running
from asyncstore.cli.exit_codes import ExitCode
from asyncstore.cli.output.documented_log import logger
from asyncstore.cli.output.plain_text import path_text


def page_name(text: object) -> str:
    """The name of a page's file."""
    from asyncstore.cli.output import html_page

    if not html_page.is_page_name(str(text)):
        raise typer.BadParameter(f"{path_text(str(text))!r} must end in {' or '.join(html_page.SUFFIXES)}")
    return str(text)


PageFile = options.Annotated[
    str | None,
    options.option(
        "--html",
        parser=page_name,
        metavar="FILE",
        help="Also write one self-contained page, to be mailed or printed; replaces an earlier one.",
        panel=options.RESULTS,
    ),
]


def write(path: str, text: str) -> int:
    """Write a page; 0, or the exit code if that is not possible."""
    from asyncstore.cli.output import html_page

    try:
        html_page.write_page(path, text)
    except OSError as error:
        logger.error("cannot write the page %s: %s", path_text(path), running.system_text(error))
        return ExitCode.CANNOT_RECORD
    return 0
