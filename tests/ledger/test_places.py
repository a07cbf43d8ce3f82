"""Where files are: the name of each below its root, whichever was asked for before."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from asyncstore.ledger.postgresql.places import Places

PATHS = st.lists(
    st.sampled_from(["/nas/a/1", "/nas/a/2", "/nas/1", "/nas/a/b/1", "b/1", "/nasty/1", "/nas/ö\udcff/\udcff", "/1"])
)


@given(PATHS)
def test_a_file_has_the_same_name_whichever_was_before_it(paths: list[str]) -> None:
    places = Places(1, {1: "/nas"}, "/nas/a")
    for path in paths:
        whole = os.fsencode(os.path.join("/nas/a", path)).removeprefix(b"/nas/")
        directory, name = places.key(path)
        assert directory + name == whole
        assert b"/" not in name
