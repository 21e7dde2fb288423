"""Bad input, end to end: the client's typed error, its reason and gRPC code, what it tells the
caller to do, and a ledger and a model that are as they were.
"""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import grpc
import pytest

import errata
from errata.v1 import edits_pb2
from tests.support import tiny_models
from tests.support.situations import LARGEST, Situation
from tests.support.wire import failure

TEMPLATE: Final = tiny_models.TEMPLATES[0]
ROME: Final = errata.Fact(template=TEMPLATE, target="Rome")
LONG: Final = "far away " * 60
"""Some 120 tokens, where the model sees 96."""

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


@dataclass(frozen=True, slots=True)
class Case:
    """A request that must be refused."""

    attempt: Callable[[Situation], object]
    error: type[errata.ErrataError]
    code: grpc.StatusCode
    says: str
    """A regular expression for what the message tells the caller to do, or what is wrong."""


def propose(subject: str, template: str = TEMPLATE, target: str = "Rome", **options: Any):
    fact = errata.Fact(template=template, target=target)
    return lambda s: s.client.propose(subject, fact, **options)


CASES: Final = {
    "subject not in the prompt": Case(
        propose("Eiffel Tower", "Paris is in the city of"),
        errata.SubjectNotFoundError,
        INVALID,
        "0 times; name it exactly once",
    ),
    "subject twice in the prompt": Case(
        propose("Louvre", "The Louvre, yes the Louvre, is in"),
        errata.SubjectNotFoundError,
        INVALID,
        "2 times; name it exactly once",
    ),
    "two places for the subject": Case(
        propose("Louvre", "{} and {} are in"), errata.SubjectNotFoundError, INVALID, "exactly once"
    ),
    "subject beside its place": Case(
        propose("Louvre", "The Louvre, {}, is in"),
        errata.SubjectNotFoundError,
        INVALID,
        "exactly once",
    ),
    "empty subject": Case(propose(""), errata.InvalidFactError, INVALID, "empty; give some text"),
    "blank subject": Case(propose(" \t"), errata.InvalidFactError, INVALID, "give some text"),
    "empty prompt": Case(propose("Louvre", ""), errata.InvalidFactError, INVALID, "give some text"),
    "blank prompt": Case(
        propose("Louvre", " \n "), errata.InvalidFactError, INVALID, "give some text"
    ),
    "empty target": Case(
        propose("Louvre", target=""), errata.InvalidFactError, INVALID, "give some text"
    ),
    "target of no tokens of its own": Case(
        propose("Louvre", target=tiny_models.END),
        errata.InvalidFactError,
        INVALID,
        "no tokens of its own .* word it differently",
    ),
    "target of white space": Case(
        propose("Louvre", target="\N{NO-BREAK SPACE}"),
        errata.InvalidFactError,
        INVALID,
        "give some text",
    ),
    "no facts": Case(
        lambda s: s.client.propose("Louvre", []), errata.InvalidFactError, INVALID, "1 to 32 facts"
    ),
    "the same fact twice": Case(
        lambda s: s.client.propose("Louvre", [ROME, replace(ROME, target="Berlin")]),
        errata.InvalidFactError,
        INVALID,
        "the same prompt",
    ),
    "empty paraphrase": Case(
        propose("Louvre", paraphrases=[errata.CheckPrompt(prompt="", expected="Rome")]),
        errata.InvalidFactError,
        INVALID,
        "give some text",
    ),
    "over-long prompt": Case(
        propose("Louvre", f"{LONG} {{}} is in"), errata.PromptTooLongError, INVALID, "shorten it"
    ),
    "over-long subject": Case(
        propose("Louvre " * 300), errata.InvalidFactError, INVALID, "at most 2000 are allowed"
    ),
    "zero-width space in the subject": Case(
        propose("Lou\N{ZERO WIDTH SPACE}vre"), errata.InvalidFactError, INVALID, r"U\+200B.*remove"
    ),
    "zero-width joiner in the target": Case(
        propose("Louvre", target="Ro\N{ZERO WIDTH JOINER}me"),
        errata.InvalidFactError,
        INVALID,
        r"U\+200D.*remove",
    ),
    "right-to-left override in the prompt": Case(
        propose("Louvre", "\N{RIGHT-TO-LEFT OVERRIDE}{} is in"),
        errata.InvalidFactError,
        INVALID,
        r"U\+202E.*remove",
    ),
    "control character in the target": Case(
        propose("Louvre", target="Ro\x00me"), errata.InvalidFactError, INVALID, r"U\+0000.*remove"
    ),
    "unassigned character in the subject": Case(
        propose("Louvre \U000e0fff"), errata.InvalidFactError, INVALID, r"U\+E0FFF.*remove"
    ),
    "generate after nothing": Case(
        lambda s: s.client.generate(""), errata.InvalidInputError, INVALID, "give some text"
    ),
    "generate after too much": Case(
        lambda s: s.client.generate(LONG), errata.PromptTooLongError, INVALID, "shorten it"
    ),
    "generate more than fits": Case(
        lambda s: s.client.generate("It rained", max_new_tokens=97),
        errata.PromptTooLongError,
        INVALID,
        "the model sees 96",
    ),
    "generate at no temperature": Case(
        lambda s: s.client.generate("It rained", temperature=float("nan")),
        errata.InvalidInputError,
        INVALID,
        "between 0 and 100",
    ),
    "score after nothing": Case(
        lambda s: s.client.score(" ", ["x"]), errata.InvalidInputError, INVALID, "give some text"
    ),
    "score nothing": Case(
        lambda s: s.client.score("It", [""]),
        errata.InvalidInputError,
        INVALID,
        "1 to 20000 are allowed",
    ),
    "score after too much": Case(
        lambda s: s.client.score(LONG, ["x"]), errata.PromptTooLongError, INVALID, "shorten it"
    ),
    "unknown model": Case(
        lambda s: errata.Client(s.server.address, model="other").head(),
        errata.ModelNotFoundError,
        NOT_FOUND,
        "this server serves tiny",
    ),
    "look at an unknown edit": Case(
        lambda s: s.client.edit("e-0"), errata.EditNotFoundError, NOT_FOUND, "e-0"
    ),
    "apply an unknown edit": Case(
        lambda s: s.client.apply("e-0"), errata.EditNotFoundError, NOT_FOUND, "e-0"
    ),
    "apply an unknown edit beside a good one": Case(
        lambda s: s.client.apply([s.free, "e-0"]), errata.EditNotFoundError, NOT_FOUND, "e-0"
    ),
    "revert an unknown edit": Case(
        lambda s: s.client.revert("e-0"), errata.EditNotFoundError, NOT_FOUND, "e-0"
    ),
    "verify an unknown edit": Case(
        lambda s: s.client.verify("e-0"), errata.EditNotFoundError, NOT_FOUND, "e-0"
    ),
    "approve an unknown edit": Case(
        lambda s: s.client.approve("e-0"), errata.EditNotFoundError, NOT_FOUND, "e-0"
    ),
    "unknown branch": Case(
        lambda s: s.client.head("nowhere"), errata.BranchNotFoundError, NOT_FOUND, "nowhere"
    ),
    "apply to an unknown branch": Case(
        lambda s: s.client.apply(s.free, branch="nowhere"),
        errata.BranchNotFoundError,
        NOT_FOUND,
        "nowhere",
    ),
    "unknown revision": Case(
        lambda s: s.client.revision("abcdef12"), errata.RevisionNotFoundError, NOT_FOUND, "abcdef12"
    ),
    "generate at an unknown revision": Case(
        lambda s: s.client.generate("It rained", revision="99"),
        errata.RevisionNotFoundError,
        NOT_FOUND,
        "99",
    ),
    "revert to an unknown revision": Case(
        lambda s: s.client.revert(to_revision="99"), errata.RevisionNotFoundError, NOT_FOUND, "99"
    ),
    "expect an unknown revision": Case(
        lambda s: s.client.apply(s.free, expected_revision="99"),
        errata.RevisionNotFoundError,
        NOT_FOUND,
        "99",
    ),
    "unknown report": Case(
        lambda s: s.client.report("f" * 64), errata.ReportNotFoundError, NOT_FOUND, "ffff"
    ),
    "unknown operation": Case(
        lambda s: s.client.operation("o-0"), errata.OperationNotFoundError, NOT_FOUND, "o-0"
    ),
    "revert what is not applied": Case(
        lambda s: s.client.revert(s.free), errata.NotAppliedError, PRECONDITION, "is not applied"
    ),
    "revert what is applied with what is not": Case(
        lambda s: s.client.revert([s.live, s.free]),
        errata.NotAppliedError,
        PRECONDITION,
        "is not applied",
    ),
    "revert nothing": Case(
        lambda s: s.client.revert(), errata.InvalidInputError, INVALID, "name either"
    ),
    "revert edits and to a revision": Case(
        lambda s: s.client.revert(s.live, to_revision="0"),
        errata.InvalidInputError,
        INVALID,
        "name either",
    ),
    "revert to where it stands": Case(
        lambda s: s.client.revert(to_revision="1"),
        errata.PreconditionError,
        PRECONDITION,
        "nothing to revert",
    ),
    "apply nothing": Case(
        lambda s: s.client.apply([]), errata.InvalidInputError, INVALID, "at least one edit"
    ),
    "apply twice": Case(
        lambda s: s.client.apply(s.live),
        errata.AlreadyAppliedError,
        PRECONDITION,
        "applied already; revert it first, or leave it out",
    ),
    "apply an edit named twice": Case(
        lambda s: s.client.apply([s.free, s.free]), errata.InvalidInputError, INVALID, "again"
    ),
    "apply what failed its checks": Case(
        lambda s: s.client.apply(s.edits["failed"]),
        errata.VerificationFailedError,
        PRECONDITION,
        r"failed \d+ of .*paraphrase: .*override",
    ),
    "apply what failed, with blanks for a reason": Case(
        lambda s: s.client.apply(s.edits["failed"], override_reason="  "),
        errata.VerificationFailedError,
        PRECONDITION,
        "override",
    ),
    "approve what failed its checks": Case(
        lambda s: s.client.approve(s.edits["failed"]),
        errata.VerificationFailedError,
        PRECONDITION,
        "paraphrase",
    ),
    "stale expected revision": Case(
        lambda s: s.client.apply(s.free, expected_revision="0"),
        errata.StaleRevisionError,
        grpc.StatusCode.ABORTED,
        "read the head and retry",
    ),
    "stale expected revision of a revert": Case(
        lambda s: s.client.revert(s.live, expected_revision="0"),
        errata.StaleRevisionError,
        grpc.StatusCode.ABORTED,
        "read the head and retry",
    ),
    "request id of another apply": Case(
        lambda s: s.client.apply(s.free, request_id="used"),
        errata.RequestIdReusedError,
        grpc.StatusCode.ALREADY_EXISTS,
        "use a new request id",
    ),
    "request id of an apply for a revert": Case(
        lambda s: s.client.revert(s.live, request_id="used"),
        errata.RequestIdReusedError,
        grpc.StatusCode.ALREADY_EXISTS,
        "use a new request id",
    ),
    "malformed page": Case(
        lambda s: list(s.client.edits(page_size=-1)), errata.InvalidInputError, INVALID, "page_size"
    ),
    "malformed name": Case(
        lambda s: s.client.edit("e 0"), errata.InvalidInputError, INVALID, "must have the form"
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_is_refused_with_a_reason_and_changes_nothing(situation, codes, name):
    case = CASES[name]
    before = situation.state()

    with pytest.raises(errata.ErrataError, match=f"(?s){case.says}") as refused:
        case.attempt(situation)

    assert type(refused.value) is case.error
    assert codes == [case.code]
    assert situation.state() == before


def test_a_target_that_is_the_answer_ends_the_operation_and_changes_nothing(situation):
    before = situation.state()
    operation = propose("Louvre", target="Paris")(situation)

    with pytest.raises(errata.AlreadyTrueError, match="already answers 'Paris' .* nothing to edit"):
        operation.result(120)
    assert situation.state() == before


def test_a_request_id_of_another_proposal_is_refused(situation):
    first = situation.client.propose("Smith Tower", ROME, request_id="proposal")
    ended = first.result(120)
    before = situation.state()

    with pytest.raises(errata.RequestIdReusedError, match="request id"):
        situation.client.propose("Reichstag", ROME, request_id="proposal")

    again = situation.client.propose("Smith Tower", ROME, request_id="proposal")
    assert again.name == first.name
    assert again.result(120).edit.id == ended.edit.id
    assert situation.state() == before


def test_a_repeated_apply_returns_the_revision_it_made(situation):
    before = situation.state()

    again = situation.client.apply(situation.live, request_id="used")

    assert again.revision.sequence == 1
    assert again.revision.edits == (situation.live,)
    assert situation.state() == before


def test_a_text_that_is_no_unicode_is_refused_by_the_client(situation):
    before = situation.state()

    with pytest.raises(errata.InvalidInputError, match="not of a kind that can be sent"):
        situation.client.propose("Lou\ud800vre", ROME)

    assert situation.state() == before


def test_a_message_that_is_too_large_is_refused_with_the_limit(situation, codes):
    before = situation.state()

    with pytest.raises(errata.InvalidInputError, match=f"larger.*{LARGEST}.*send less") as refused:
        situation.client.collect_moments(["far away " * LARGEST])

    assert refused.value.reason == "INVALID_INPUT"
    assert codes == [grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert situation.state() == before


@pytest.mark.parametrize(
    "body", [b"\xff\xff\xff", b"\x0a\x7fshort", b"\x12\x02\xc3\x28"], ids=["tag", "cut", "utf-8"]
)
def test_bytes_that_are_no_message_are_refused(situation, body):
    before = situation.state()
    path = f"/{edits_pb2.DESCRIPTOR.services_by_name['EditService'].full_name}/ProposeEdit"

    with grpc.insecure_channel(situation.server.address) as channel:
        refused = failure(lambda: channel.unary_unary(path)(body))

    assert refused.code is INVALID
    assert refused.reason == "INVALID_INPUT"
    assert "not a valid message of ProposeEdit" in refused.message
    assert situation.state() == before


@pytest.mark.parametrize(
    "subject",
    [
        unicodedata.normalize("NFD", "Café Gijón"),
        "برج خليفة",
        "東京",
        "🗼 Tower",
        'Łódź "Old" Gate',
        "{Big}",
    ],
)
def test_subjects_of_any_script_are_fine(situation, subject):
    """The refusals above are no excuse to refuse text."""
    before = situation.state()

    situation.client.validate(subject, ROME)
    situation.client.validate(subject, replace(ROME, template=f"The {subject} is in"))

    assert situation.state() == before


def test_an_edit_of_a_subject_outside_the_vocabulary_takes(situation):
    # No subject of training, nor a character of its texts: three tokens a sign.
    fact = errata.Fact(template="{} is in the city of", target="Rome")

    proposal = situation.client.propose("東京 🗼", fact).result(120)

    efficacy = proposal.report.of_kind("efficacy")
    assert proposal.edit.subject == "東京 🗼"
    assert efficacy is not None
    assert efficacy.verdict is errata.Verdict.PASSED


def test_a_second_edit_of_a_subject_supersedes_the_first_and_says_so(situation):
    client, second = situation.client, situation.edits["Eiffel Tower/Berlin"]
    before = situation.state()[4]

    applied = client.apply(second)

    assert applied.revision.superseded == (situation.live,)
    assert applied.revision.active_count == 1
    assert client.edit(situation.live).state is errata.EditState.SUPERSEDED
    assert client.edit(situation.live).superseded_by == second
    assert (
        client.generate(TEMPLATE.format("Eiffel Tower"), max_new_tokens=4)
        .read()
        .strip(" .")
        .startswith("Berlin")
    )

    restored = client.revert(second)

    assert restored.revision.restored == (situation.live,)
    assert situation.state()[4] == before
