import pytest

from errata_server.domain.errors import InvalidInputError
from errata_server.domain.ids import ModelId
from errata_server.rpc.convert import edits

MODEL = ModelId("m")


def named(count):
    return [f"models/m/edits/e-{number:012x}" for number in range(count)]


def test_the_most_edits_of_one_request_are_read():
    assert len(edits.edit_ids(named(edits.MOST_EDITS), MODEL)) == edits.MOST_EDITS


def test_more_edits_than_that_are_refused_before_any_name_is_read():
    with pytest.raises(InvalidInputError, match="at most 10000"):
        edits.edit_ids(["junk"] * (edits.MOST_EDITS + 1), MODEL)
