"""Patterns for paths: what each matches and what it does not."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.inputs.globs import glob_pattern


@pytest.mark.parametrize(
    ("glob", "matches", "others"),
    [
        ("*.dcm", ["a.dcm", "x/y/a.dcm", ".dcm"], ["a.dcm/b", "a.DCM", "a.dcmx"]),
        ("/*.dcm", ["a.dcm"], ["x/a.dcm"]),
        ("CT/*", ["CT/1", "x/CT/1"], ["CT/1/2", "ACT/1", "CT"]),
        ("/CT/**", ["CT/1", "CT/1/2/3"], ["x/CT/1", "CT"]),
        ("backup/", ["backup/1", "x/backup/y/1"], ["backup", "mybackup/1"]),
        ("/backup/", ["backup/1/2"], ["x/backup/1"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b", "z/a/b"], ["a/xb", "ab"]),
        ("IM?????", ["IM00001", "x/IM00001"], ["IM1", "IM000/1"]),
        ("**", ["a", "a/b"], []),
        ("*", ["a", "a/b"], []),
        ("/*", ["a"], ["a/b"]),
        ("[ab]?", ["ax", "bx"], ["cx", "a/"]),
        ("[!ab]", ["c"], ["a", "b"]),
        ("x[!a]y", ["xby"], ["xay", "x/y"]),
        ("[0-9]*", ["1", "12x"], ["x1"]),
        ("[]]", ["]"], ["["]),
        ("[\\^]", ["^"], ["a"]),
        ("*.{dcm,ima}", ["a.dcm", "b.ima"], ["a.dc", "a.dcm,ima"]),
        ("{a,b{c,d}}", ["a", "bc", "bd"], ["b", "cd"]),
        ("a,b", ["a,b"], ["a", "b"]),
        ("a}b", ["a}b"], []),
        ("\\*\\{", ["*{"], ["a{"]),
        ("a.b", ["a.b"], ["axb"]),
        ("a\nb", ["a\nb"], []),
        ("?", ["\n", "ü"], []),
    ],
)
def test_a_pattern_matches_the_end_of_a_path(glob: str, matches: list[str], others: list[str]) -> None:
    pattern = glob_pattern(glob)
    assert [path for path in matches if not pattern.fullmatch(path)] == []
    assert [path for path in others if pattern.fullmatch(path)] == []


@pytest.mark.parametrize(
    ("glob", "reason"),
    [
        ("", "it is empty"),
        ("/", "it is empty"),
        ("a[b", r"a \[ has no \]"),
        ("{a", r"a \{ has no \}"),
        ("a\\", "it ends in a backslash"),
        ("[z-a]", "it is not a pattern: bad character range"),
    ],
)
def test_what_is_not_a_pattern_is_refused_with_a_reason(glob: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        glob_pattern(glob)


@given(st.text("ab*?.[]!", min_size=1, max_size=8), st.text("ab.", max_size=8))
def test_for_file_names_it_agrees_with_the_shell(glob: str, name: str) -> None:
    try:
        pattern = glob_pattern(glob)
    except ValueError:
        return
    assert bool(pattern.fullmatch(name)) == bool(re.fullmatch(fnmatch.translate(glob), name))
