"""SuiteService over the wire, and suites that come with proposals."""

import grpc
import pytest

from errata.v1 import edits_pb2, types_pb2
from errata.v1 import suites_pb2 as pb
from tests.support.wire import PARENT, failure, proposal


def add(wire, suite="capitals", prompts=(("Louvre stands in", "Paris"),), **fields):
    listed = [types_pb2.CheckPrompt(prompt=prompt, expected=said) for prompt, said in prompts]
    request = pb.AddSuiteRequest(
        parent=PARENT, suite=suite, prompts=listed, actor="ana", reason="ours", **fields
    )
    return wire.suites.AddSuite(request).suite


def test_a_suite_is_stored_read_and_listed(wire):
    first = add(wire)
    second = add(wire, prompts=[("Space Needle stands in", "Seattle"), ("Prado is in", "Madrid")])

    assert (first.name, first.version) == (f"{PARENT}/suites/capitals@1", 1)
    assert (second.version, second.prompt_count, len(second.prompts)) == (2, 2, 2)
    assert (second.actor, second.reason) == ("ana", "ours")
    get = wire.suites.GetSuite
    assert get(pb.GetSuiteRequest(name=f"{PARENT}/suites/capitals")).suite == second
    assert get(pb.GetSuiteRequest(name=first.name)).suite == first
    listed = wire.suites.ListSuites(pb.ListSuitesRequest(parent=PARENT)).suites
    assert [(s.name, s.prompt_count, len(s.prompts)) for s in listed] == [(second.name, 2, 0)]
    versions = wire.suites.ListSuites(pb.ListSuitesRequest(parent=PARENT, suite="capitals")).suites
    assert [s.version for s in versions] == [2, 1]


def test_lists_are_paged(wire):
    for suite in ("a", "b", "c"):
        add(wire, suite)

    first = wire.suites.ListSuites(pb.ListSuitesRequest(parent=PARENT, page_size=2))
    rest = wire.suites.ListSuites(
        pb.ListSuitesRequest(parent=PARENT, page_size=2, page_token=first.next_page_token)
    )

    assert [s.name[-3:] for s in (*first.suites, *rest.suites)] == ["a@1", "b@1", "c@1"]
    assert rest.next_page_token == ""


def test_a_report_names_the_suites_that_judged_it(wire):
    stored = add(wire)
    given = [types_pb2.CheckPrompt(prompt="Prado stands in", expected="Madrid")]

    response = edits_pb2.ProposeEditResponse()
    wire.ended(wire.start(suite=given)).response.Unpack(response)

    assert [(s.name, s.digest) for s in response.report.suites] == [(stored.name, stored.digest)]
    (check,) = [check for check in response.report.checks if check.kind == "suite"]
    assert [a.prompt for a in check.answers] == ["Prado stands in", "Louvre stands in"]
    assert check.verdict == types_pb2.VERDICT_PASSED
    assert list(response.edit.suite) == given


def test_a_verification_takes_prompts_of_its_own(wire):
    edit = wire.proposed()
    request = edits_pb2.VerifyEditRequest(
        name=edit.name,
        suite=[types_pb2.CheckPrompt(prompt="Space Needle stands in", expected="Seattle")],
    )

    response = edits_pb2.VerifyEditResponse()
    wire.ended(wire.edits.VerifyEdit(request)).response.Unpack(response)

    assert not response.report.passed


@pytest.mark.parametrize(
    ("call", "code", "reason"),
    [
        (lambda w: add(w, "a b"), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT"),
        (
            lambda w: add(w, prompts=[("", "x")]),
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_FACT",
        ),
        (
            lambda w: w.suites.GetSuite(pb.GetSuiteRequest(name=f"{PARENT}/suites/none")),
            grpc.StatusCode.NOT_FOUND,
            "SUITE_NOT_FOUND",
        ),
        (
            lambda w: w.suites.GetSuite(pb.GetSuiteRequest(name=f"{PARENT}/suites/a@x")),
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_INPUT",
        ),
        (
            lambda w: w.edits.ProposeEdit(
                proposal(suite=[types_pb2.CheckPrompt(prompt="a", expected="b")] * 2)
            ),
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_INPUT",
        ),
    ],
    ids=["name", "prompt", "missing", "version", "twice"],
)
def test_what_cannot_be_done_is_refused_with_its_reason(wire, call, code, reason):
    refused = failure(lambda: call(wire))

    assert (refused.code, refused.reason) == (code, reason)
