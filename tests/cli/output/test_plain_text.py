"""Text from peers and file systems is made safe to print; numbers are short enough to read."""

from __future__ import annotations

import pytest

from asyncstore.cli.output.plain_text import count_text, duration_text, path_text, peer_text, size_text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (8610, "8.61 kB"),
        (63_240_000, "63.2 MB"),
        (999_600, "1.00 MB"),
        (123e12, "123 TB"),
    ],
)
def test_sizes_have_three_digits(size_bytes: float, text: str) -> None:
    assert size_text(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.418, "0.42 s"), (12.3, "12 s"), (187.2, "3:07"), (93600, "26:00:00"), (3599.7, "1:00:00")]
)
def test_durations_grow_into_minutes_and_hours(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [(1, "instance", "1 instance"), (12000, "instance", "12,000 instances"), (0, "file", "0 files")],
)
def test_counts_agree_with_their_noun(count: int, noun: str, text: str) -> None:
    assert count_text(count, noun) == text


def test_a_long_path_is_capped() -> None:
    assert len(path_text("x" * 10_000)) == 4096
    assert path_text("x" * 4096) == "x" * 4096


def test_a_peers_text_is_capped_after_it_was_stripped() -> None:
    assert peer_text("a\x00b\x85c\u2028d", 128) == "abcd"
    assert peer_text("y" * 500, 10) == "y" * 9 + "…"
