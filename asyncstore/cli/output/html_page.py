"""Builds one self-contained HTML page, to be mailed or printed: it loads nothing and runs nothing.

Text becomes HTML only through `tag`, which escapes it: neither a path nor what a peer said can become markup.
"""

from __future__ import annotations

import errno
import html
import os
import time
from typing import TYPE_CHECKING, Final

from asyncstore.cli.output.opening import in_place_of
from asyncstore.cli.output.plain_text import path_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SUFFIXES: Final = (".html", ".htm")
_START: Final = "<!DOCTYPE html>\n"
# A browser holds to this even if the page were to ask for something.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"

_STYLE: Final = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1100px; padding: 2rem; background: #fff; color: #1d2733;
  font: 15px/1.5 system-ui, "Segoe UI", "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
h1 { margin: 0; font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 2.2rem 0 .6rem; font-size: 1.15rem; }
p { margin: .3rem 0; overflow-wrap: anywhere; }
.faint { color: #5c6b7a; }
.facts { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0 .8rem; }
.fact { flex: 1 1 9rem; padding: .7rem .9rem; border: 1px solid #d8dfe6; border-radius: 6px; }
.fact b { display: block; font-size: 1.45rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.good b { color: #11703c; }
.bad b, p.bad, span.bad { color: #b3261e; }
table { width: 100%; border-collapse: collapse; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid #e3e8ed; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #b9c4cf; font-weight: 600; }
td.long { overflow-wrap: anywhere; }
th.number, td.number { width: 1%; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 12px system-ui, Arial, "DejaVu Sans", sans-serif; fill: #5c6b7a; }
footer { margin-top: 2.5rem; padding-top: .6rem; border-top: 1px solid #d8dfe6; font-size: .85rem; }
@page { margin: 15mm; }
@media print {
  html { font-size: 12px; }
  body { max-width: none; padding: 0; font-size: 9pt; }
  h2, section > p { break-after: avoid; }
  th, td { padding: .2rem .4rem; }
  .fact { flex-basis: 6rem; padding: .4rem .6rem; }
  tr, svg, .fact { break-inside: avoid; }
  thead { display: table-header-group; }
}
"""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, *children: str, **attributes: object) -> Markup:
    """An element; children and attributes that are not Markup are escaped, also what is not printable.

    An attribute's name may end with an underscore (`class_`), and an underscore in it is a hyphen (`stroke_width`). One
    without a value is left out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escaped(str(value))}"'
        for key, value in attributes.items()
        if value != ""
    )
    inside = "".join(child if isinstance(child, Markup) else _escaped(child) for child in children)
    return Markup(f"<{name}{written}>{inside}</{name}>")


def joined(parts: Iterable[Markup]) -> Markup:
    """Elements one after another."""
    return Markup("".join(parts))


def _escaped(text: str) -> str:
    return html.escape(path_text(text))


def fact(value: str, name: str, kind: str = "") -> Markup:
    """A figure that is seen at first glance; `kind` is good, bad or neither."""
    return tag("div", tag("b", value), name, class_=f"fact {kind}".rstrip())


def facts(*each: Markup) -> Markup:
    """A row of facts."""
    return tag("div", *each, class_="facts")


def table(columns: Sequence[str], rows: Iterable[Sequence[str | int]]) -> Markup:
    """A table. The name of a column begins with "#" if it has numbers, with "~" if a text may be broken anywhere."""
    kinds = [_KINDS_OF_COLUMNS.get(name[:1], "") for name in columns]
    head = (tag("th", name.lstrip("#~"), class_=kind) for name, kind in zip(columns, kinds, strict=True))
    body = (
        tag("tr", *(tag("td", _text(value), class_=kind) for value, kind in zip(row, kinds, strict=True)))
        for row in rows
    )
    return tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body))


_KINDS_OF_COLUMNS: Final = {"#": "number", "~": "long"}


def _text(value: str | int) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def section(title: str, *content: Markup) -> Markup:
    """A part of the page with a heading."""
    return tag("section", tag("h2", title), *content)


def page(title: str, *content: Markup) -> str:
    """The whole page, with the time at which it was made."""
    from asyncstore import __version__

    made = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    head = joined(
        (
            Markup('<meta charset="utf-8">'),
            Markup(f'<meta http-equiv="Content-Security-Policy" content="{_escaped(_POLICY)}">'),
            Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            tag("title", title),
            tag("style", Markup(_STYLE)),
        )
    )
    footer = tag("footer", f"Made by asyncstore {__version__} at {made}", class_="faint")
    body = tag("body", tag("h1", title), *content, footer)
    return f"{_START}{tag('html', tag('head', head), body, lang='en')}\n"


def check_page(path: str) -> None:
    """Raise OSError if a page may not take the place of what is there: only an earlier page is replaced."""
    try:
        with open(path, "rb") as file:
            start = file.read(len(_START))
    except FileNotFoundError:
        return
    if start and start != _START.encode():
        raise OSError(errno.EEXIST, "the file is not an HTML page of an earlier run, and is left as it is")


def write_page(path: str, text: str) -> None:
    """Write a page, all of it or nothing. Raises OSError."""
    check_page(path)
    unfinished = f"{path}.{os.getpid()}.part"
    with open(unfinished, "x", encoding="utf-8", newline="\n", opener=in_place_of(path)) as file:
        try:
            file.write(text)
            file.flush()
            os.replace(unfinished, path)
        except BaseException:
            os.unlink(unfinished)
            raise


def is_page_name(path: str) -> bool:
    """Whether the name of a file says that it is a page."""
    return os.path.splitext(path)[1].lower() in SUFFIXES


def chart(
    bars: Sequence[float], *, label: str, top: str, left: str, right: str, bands: Sequence[tuple[float, float]] = ()
) -> Markup:
    """Bars over time as an inline SVG: `top` says how much the highest is, `left` and `right` what the ends are.

    `label` says it all in words, for who cannot see it. `bands` are parts (begin, end) of the whole width, from 0 to 1,
    that are shaded.
    """
    width, height, foot, at_left = 1000.0, 200.0, 24.0, 4.0
    highest = max(bars, default=0.0) or 1.0
    step = (width - at_left) / max(1, len(bars))
    drawn = [
        tag("rect", x=f"{at_left + begin * (width - at_left):.1f}", y=20, height=height - 20,
            width=f"{max(1.0, (end - begin) * (width - at_left)):.1f}", fill="#eef3f8")
        for begin, end in bands
    ]  # fmt: skip
    for number, bar in enumerate(bars):
        size = bar / highest * (height - 24)
        if size > 0:
            drawn.append(
                tag("rect", x=f"{at_left + number * step:.1f}", y=f"{height - max(size, 1.0):.1f}",
                    width=f"{max(0.8, step - 1):.1f}", height=f"{max(size, 1.0):.1f}", fill="#2f6fb0")
            )  # fmt: skip
    drawn.append(tag("line", x1=0, x2=width, y1=height, y2=height, stroke="#8a97a5"))
    drawn.append(tag("line", x1=0, x2=width, y1=24, y2=24, stroke="#d8dfe6", stroke_dasharray="4 4"))
    drawn.append(tag("text", top, x=at_left, y=17))
    drawn.append(tag("text", left, x=at_left, y=height + foot - 6))
    drawn.append(tag("text", right, x=width, y=height + foot - 6, text_anchor="end"))
    return tag("svg", *drawn, viewBox=f"0 0 {width:.0f} {height + foot:.0f}", role="img", aria_label=label)
