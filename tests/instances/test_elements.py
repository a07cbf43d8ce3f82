"""Tags as text: what is written of one names it again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.instances.elements import tag_digits, tag_from, tag_text


def test_a_tag_is_written_as_the_standard_writes_it_and_as_records_have_it() -> None:
    assert (tag_text(0x7FE00010), tag_digits(0x7FE00010)) == ("(7FE0,0010)", "7FE00010")


@given(tag=st.integers(0, 0xFFFFFFFF))
def test_what_is_written_of_a_tag_names_it(tag: int) -> None:
    for text in (tag_text(tag), tag_text(tag).strip("()"), tag_digits(tag)):
        assert tag_from(text) == tag_from(text.lower()) == tag


@pytest.mark.parametrize(
    "text", ["", "PatientID", "0010", "0010002", "(0010,002)", "(0010,0020)x", "(0019,*)", "0x100020"]
)
def test_another_text_names_no_tag(text: str) -> None:
    assert tag_from(text) is None
