"""Page tokens."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata_server.domain.errors import InvalidInputError
from errata_server.rpc.convert import pages


@given(st.text(min_size=1), st.lists(st.text()))
def test_a_token_leads_back_to_its_place(place, query):
    token = pages.token(place, *query)
    if len(token) <= 1_000:
        assert pages.place(token, *query) == place


def test_no_token_is_the_first_page_and_the_last_page_has_none():
    assert pages.place("", "edits") == ""
    assert pages.token("", "edits") == ""


@pytest.mark.parametrize("query", [(), ("edits",), ("edits", "b"), ("revisions", "a")])
def test_a_token_is_good_for_its_own_list_alone(query):
    token = pages.token("7", "edits", "a")

    with pytest.raises(InvalidInputError, match="another list"):
        pages.place(token, *query)


@given(st.text(min_size=1))
def test_any_other_text_is_refused(text):
    with pytest.raises(InvalidInputError):
        pages.place(text, "edits")


@pytest.mark.parametrize(
    "content", [b"1", b'{"a": 1}', b"[1, 2]", b'["edits"', b"[" * 700, b"\xff"]
)
def test_anything_else_in_base64_is_refused(content):
    token = base64.urlsafe_b64encode(content).decode().rstrip("=")

    with pytest.raises(InvalidInputError):
        pages.place(token, "edits")
