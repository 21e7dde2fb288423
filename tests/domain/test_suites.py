import pytest

from errata_server.domain.errors import InvalidInputError
from errata_server.domain.facts import CheckPrompt, EditRequest
from errata_server.domain.policies import Policy
from errata_server.domain.suites import decode_prompts, encode_prompts, suite_name
from tests.support import edit_request

PROMPTS = (CheckPrompt(prompt="Louvre stands in", expected="Paris"),)


@pytest.mark.parametrize("name", ["", "a b", "a@1", "-a", "a/b", "x" * 65, "é"])
def test_a_name_that_cannot_stand_in_a_resource_name_is_refused(name):
    with pytest.raises(InvalidInputError, match="cannot name a suite"):
        suite_name(name)


def test_prompts_come_back_as_they_were_stored():
    assert decode_prompts(encode_prompts(PROMPTS)) == PROMPTS


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"{}",
        b'{"schema":"errata.suite/1"}',
        b'{"prompts":[],"schema":"other"}',
        b"\xff",
    ],
)
def test_another_artifact_is_no_suite(payload):
    with pytest.raises(InvalidInputError, match=r"no errata\.suite/1"):
        decode_prompts(payload)


def test_what_was_stored_before_there_were_suites_keeps_its_digest():
    request = edit_request()

    assert "suite" not in request.to_json()
    assert b"maximum_suite_drop" not in Policy().body
    assert Policy().digest == ("77b9022b9151303dcd05725595f1efdcc32ddad9f57566970a92e10f650b7d26")


def test_a_suite_and_its_threshold_are_part_of_what_is_stored():
    request = edit_request()
    with_suite = EditRequest(subject=request.subject, facts=request.facts, suite=PROMPTS)

    assert EditRequest.from_json(with_suite.to_json()) == with_suite
    assert Policy(maximum_suite_drop=0.1).digest != Policy().digest
