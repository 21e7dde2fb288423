import pytest

from errata_server.domain.errors import InvalidInputError
from errata_server.domain.ids import RequestId
from errata_server.service.calls import Call, page_limit


def test_a_call_without_a_request_id_gets_a_fresh_one():
    first, second = Call(actor="ana"), Call(actor="ana")

    assert first.request_id
    assert first.request_id != second.request_id


def test_a_digest_is_of_what_is_asked_and_by_whom():
    call = Call(actor="ana", request_id=RequestId("r-1"))
    same = Call(actor="ana", request_id=RequestId("r-2"))

    assert call.digest("apply", edits=["e"]) == same.digest("apply", edits=["e"])
    others = {
        call.digest("apply", edits=["e"]),
        call.digest("revert", edits=["e"]),
        call.digest("apply", edits=["f"]),
        Call(actor="eve").digest("apply", edits=["e"]),
        Call(actor="ana", reason="x").digest("apply", edits=["e"]),
        Call(actor="ana", ticket="x").digest("apply", edits=["e"]),
    }
    assert len(others) == 6


def test_a_page_has_a_default_and_a_limit():
    assert [page_limit(size) for size in (0, 1, 1_000, 5_000)] == [50, 1, 1_000, 1_000]
    with pytest.raises(InvalidInputError):
        page_limit(-1)
