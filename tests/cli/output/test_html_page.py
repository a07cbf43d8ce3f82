"""The page that `scan` and `report` write: safe, whatever it shows, and complete in itself."""

from __future__ import annotations

import errno
import html.parser
import os
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.cli.output import html_page
from asyncstore.cli.output.html_page import chart, fact, facts, section, table, tag
from asyncstore.cli.output.plain_text import path_text

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = "</td><script>alert(1)</script>\x1b[2J\u202e\udcff\"' onload=x &amp;"


class Reader(html.parser.HTMLParser):
    """What a browser makes of a page: its elements, and the text in them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(name)
        self.attributes.extend(attributes)
        if name != "meta":
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_nothing_that_is_shown_becomes_markup() -> None:
    page = html_page.page(
        HOSTILE,
        facts(fact(HOSTILE, HOSTILE, "bad")),
        section(HOSTILE, table((HOSTILE, "#n"), [(HOSTILE, 1), (HOSTILE, HOSTILE)])),
        chart([1, 0, 2], label=HOSTILE, top=HOSTILE, left=HOSTILE, right=HOSTILE, bands=[(0, 0.5)]),
    )
    page.encode("utf-8")  # no lone surrogate is left
    read = Reader(page)
    assert not read.open
    assert "script" not in read.tags
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    assert "\x1b" not in page
    assert "\u202e" not in page
    shown = "</td><script>alert(1)</script>\\x1b[2J\\u202e\\xff\"' onload=x &amp;"
    assert read.text.count(shown) == 12
    assert ("aria-label", shown) in read.attributes


@given(st.text(), st.text())
def test_any_text_comes_back_as_it_is_or_escaped(text: str, attribute: str) -> None:
    read = Reader(tag("p", text, class_=attribute))
    assert read.tags == ["p"]
    assert "".join(read.text) == path_text(text)
    assert read.attributes == ([("class", path_text(attribute))] if attribute else [])


def test_the_page_loads_nothing() -> None:
    page = html_page.page("a", chart([1.0], label="rate", top="1/s", left="begin", right="end"))
    assert "default-src &#x27;none&#x27;" in page
    assert not re.search(r"https?:|url\(|@import|<(script|link|img|iframe|object)\b| (src|href)=", page)


@pytest.mark.parametrize("bars", [[], [0.0], [0.0, 0.0, 5.0], [1.0] * 500])
def test_a_chart_has_a_bar_for_each_value_above_zero(bars: list[float]) -> None:
    read = Reader(chart(bars, label="rate", top="1/s", left="begin", right="end"))
    assert read.tags.count("rect") == sum(bar > 0 for bar in bars)
    sizes = [float(value or "") for name, value in read.attributes if name in ("height", "width", "x", "y")]
    assert all(0 <= size <= 1000 for size in sizes)


def test_a_page_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    for title in ("one", "two"):
        html_page.write_page(str(path), html_page.page(title))
        assert f"<h1>{title}</h1>" in path.read_text()
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]
    path.write_text("shopping list")
    with pytest.raises(OSError, match="not an HTML page of an earlier run"):
        html_page.write_page(str(path), html_page.page("three"))
    assert path.read_text() == "shopping list"
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(IsADirectoryError):
        html_page.write_page(str(tmp_path / "folder.html"), html_page.page("four"))
    with pytest.raises(FileNotFoundError):
        html_page.write_page(str(tmp_path / "missing" / "page.html"), "")


def test_a_page_that_cannot_be_finished_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "page.html"
    html_page.write_page(str(path), html_page.page("one"))
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        html_page.write_page(str(path), html_page.page("two"))
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]
    assert "<h1>one</h1>" in path.read_text()
