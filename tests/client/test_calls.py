"""What is sent: each call's method and request, from arguments alone."""

from fractions import Fraction
from typing import Any

import numpy
import pytest
from google.longrunning import operations_pb2

import errata
from errata import (
    _batch_calls,
    _branch_calls,
    _call_types,
    _calls,
    _evidence_calls,
    _model_calls,
    _trace_calls,
    _upkeep_calls,
)
from errata.v1 import edits_pb2, inference_pb2, ledger_pb2, models_pb2, traces_pb2, types_pb2

SCOPE = _call_types.Scope(model="models/m", actor="ana")
FACT = errata.Fact(template="{} is in", target="Rome")

EVERY_CALL: list[_call_types.Call[Any, Any]] = [
    _calls.propose("Louvre", FACT),
    _calls.validate("Louvre", FACT),
    _batch_calls.propose_edits([errata.EditProposal(subject="Louvre", facts=(FACT,))]),
    _calls.verify("e-1"),
    _upkeep_calls.verify_live(),
    _upkeep_calls.get_health(),
    _calls.approve("e-1", "looks right"),
    _calls.apply("e-1"),
    _calls.revert("e-1"),
    _calls.get_edit("e-1"),
    _calls.list_edits(None, 0)(""),
    _calls.get_report("abc"),
    _calls.get_head(""),
    _calls.get_revision("3"),
    _calls.list_revisions("", 0)(""),
    _calls.diff("1", "2"),
    _calls.watch("", 0),
    _calls.list_branches(0)(""),
    _branch_calls.create_branch("canary"),
    _branch_calls.promote("canary", "main"),
    _branch_calls.protect("main", "why"),
    _calls.audit(),
    _evidence_calls.get_checkpoint(0),
    _evidence_calls.get_inclusion_proof("e-1", 0),
    _evidence_calls.get_consistency_proof(1, 2),
    _evidence_calls.list_log_entries(0)(""),
    _calls.generate("Louvre is in"),
    _calls.score("Louvre is in", ["Rome"]),
    _model_calls.get_model(),
    _model_calls.list_models(0)(""),
    _model_calls.calibrate(0),
    _model_calls.collect_moments(()),
    _trace_calls.trace("Louvre is in", "Louvre"),
    _trace_calls.trace_facts(()),
    _trace_calls.fit_proxy(()),
    _trace_calls.locate("logit_lens", "Louvre is in", "Louvre"),
    _trace_calls.list_locators(0)(""),
    _calls.get_operation("op-1"),
    _calls.cancel_operation("operations/op-1"),
]


def sent(call):
    return call.build(SCOPE)


def rpcs():
    for file in (edits_pb2, inference_pb2, ledger_pb2, models_pb2, traces_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                yield f"/{service.full_name}/{method.name}", method


def test_every_rpc_of_ours_has_a_call():
    ours = {call.method for call in EVERY_CALL if "/errata." in call.method}

    assert ours == {path for path, _ in rpcs()}


@pytest.mark.parametrize("call", EVERY_CALL, ids=lambda call: call.method)
def test_a_call_sends_and_reads_the_messages_of_its_rpc(call):
    methods = dict(rpcs()) | {
        f"/google.longrunning.Operations/{method.name}": method
        for method in operations_pb2.DESCRIPTOR.services_by_name["Operations"].methods
    }

    assert call.build(SCOPE).DESCRIPTOR.full_name == methods[call.method].input_type.full_name
    assert call.reply.DESCRIPTOR.full_name == methods[call.method].output_type.full_name


@pytest.mark.parametrize("given", ["e-1", "models/m/edits/e-1"])
def test_an_edit_may_be_named_short_or_in_full(given):
    assert sent(_calls.get_edit(given)).name == "models/m/edits/e-1"


@pytest.mark.parametrize("given", ["", "edits/e-1", "models/m/reports/r-1", "a/b"])
def test_a_name_of_something_else_is_refused_before_it_is_sent(given):
    with pytest.raises(errata.InvalidInputError, match="names no edit"):
        sent(_calls.get_edit(given))


def test_one_fact_or_several_may_be_proposed():
    one = sent(_calls.propose("Louvre", FACT))
    two = sent(_calls.propose("Louvre", [FACT, errata.Fact(template="x {}", target="y")]))

    assert [fact.target for fact in one.facts] == ["Rome"]
    assert [fact.target for fact in two.facts] == ["Rome", "y"]


@pytest.mark.parametrize(
    "call",
    [
        _calls.propose("Louvre", FACT),
        _calls.verify("e-1"),
        _calls.approve("e-1", ""),
        _calls.apply("e-1"),
        _calls.revert("e-1"),
        _branch_calls.create_branch("canary"),
        _branch_calls.promote("canary", "main"),
        _branch_calls.protect("main", "why"),
        _branch_calls.unprotect("main", "why"),
        _model_calls.calibrate(0),
        _model_calls.collect_moments(()),
    ],
    ids=lambda call: call.method,
)
def test_a_mutation_is_signed_and_has_a_request_id_of_its_own(call):
    first, second = call.build(SCOPE), call.build(SCOPE)

    assert first.actor == "ana"
    assert len(first.request_id) == 36
    assert first.request_id != second.request_id


def test_a_given_actor_and_request_id_are_sent():
    request = sent(_calls.apply("e-1", actor="bob", request_id="r-1"))

    assert (request.actor, request.request_id) == ("bob", "r-1")


def test_all_options_of_a_change_are_sent():
    request = sent(
        _calls.apply(
            ["e-1", "e-2"],
            branch="canary",
            reason="why",
            ticket="T-1",
            override_reason="must",
            expected_revision="7",
            validate_only=True,
        )
    )

    assert list(request.names) == ["models/m/edits/e-1", "models/m/edits/e-2"]
    assert request.branch == "canary"
    assert (request.reason, request.ticket, request.override_reason) == ("why", "T-1", "must")
    assert request.expected_revision == "models/m/revisions/7"
    assert request.validate_only


def test_the_head_is_meant_where_no_revision_is_given():
    assert sent(_calls.generate("x")).revision == ""
    assert sent(_calls.generate("x", revision="base")).revision == "models/m/revisions/base"


def test_a_validation_computes_nothing():
    assert sent(_calls.validate("Louvre", FACT)).validate_only
    assert not sent(_calls.propose("Louvre", FACT)).validate_only


def test_one_text_is_not_taken_for_its_letters():
    assert sent(_calls.generate("Louvre is in", stop="Paris")).stop == ["Paris"]
    assert sent(_calls.score("Louvre is in", " Paris")).continuations == [" Paris"]
    assert sent(_model_calls.collect_moments("some prose")).texts == ["some prose"]


@pytest.mark.parametrize(
    ("call", "arguments", "option"),
    [
        (_trace_calls.trace, ("Louvre is in", "Louvre"), "noise"),
        (_trace_calls.trace_facts, ((),), "foil"),
        (_trace_calls.fit_proxy, ((),), "word"),
        (_trace_calls.locate, ("granger", "Louvre is in", "Louvre"), "lags"),
        (_calls.propose, ("Louvre", FACT), "paraphrase"),
        (_calls.apply, ("e-1",), "override"),
        (_calls.generate, ("Louvre is in",), "max_tokens"),
    ],
)
def test_an_option_there_is_not_is_refused_and_those_there_are_are_named(call, arguments, option):
    with pytest.raises(errata.InvalidInputError, match=f"no option '{option}'; it has ") as refusal:
        call(*arguments, **{option: 1})
    assert refusal.value.metadata == {"field": option}


@pytest.mark.parametrize(
    "call",
    [
        _trace_calls.trace("Louvre is in", "Louvre", samples=10**12),
        _calls.propose("\ud800x", FACT),
        _calls.propose("Louvre", errata.Fact(template="{} is in", target="\ud800")),
        _batch_calls.propose_edits([errata.EditProposal(subject="\ud800x", facts=(FACT,))]),
        _upkeep_calls.add_suite("s", [errata.CheckPrompt(prompt="\ud800", expected="x")]),
        _calls.verify("e-1", suite=[errata.CheckPrompt(prompt="\ud800", expected="x")]),
        _calls.propose("Louvre", errata.Fact(template=3, target="Rome")),  # type: ignore[arg-type]
    ],
)
def test_what_has_no_form_on_the_wire_is_refused_when_the_request_is_built(call):
    with pytest.raises(errata.InvalidInputError, match="of a kind that can be sent"):
        call.request(SCOPE)


@pytest.mark.parametrize(
    ("call", "arguments", "options", "problem"),
    [
        (_trace_calls.trace_facts, ([("x", "y")],), {}, "each of facts must be an errata.TracedF"),
        (_trace_calls.trace_facts, (None,), {}, "facts must be a list, not None"),
        (_trace_calls.fit_proxy, ([("x", "y")],), {}, "each of texts must be an errata.Labelled"),
        (_trace_calls.trace, ("x", "y"), {"kinds": None}, "kinds must be a list, not None"),
        (_trace_calls.trace, ("x", "y"), {"samples": 1.5}, "samples must be a whole number, not 1"),
        (_trace_calls.trace, ("x", "y"), {"scale": "3"}, "scale must be a number, not '3'"),
        (
            _trace_calls.trace,
            ("x", "y"),
            {"replacements": [None]},
            "each of replacements must",
        ),
        (_trace_calls.trace, ("x", "y"), {"proxy": 3}, "3 names no proxy; give its id as a text"),
        (_calls.propose, ("Louvre", "fact"), {}, "each of facts must be an errata.Fact, not 'f'"),
        (_calls.propose, ("Louvre", 3), {}, "facts must be a list, not 3"),
        (_calls.propose, (3, FACT), {}, "subject must be a text such as '3', not 3"),
        (_calls.propose, ("x", FACT), {"reason": b"x"}, "reason must be a text, not b'x'"),
        (_calls.verify, ("e-1",), {"suite": ["x"]}, "each of suite must be an errata.CheckPrompt"),
        (_calls.apply, (None,), {}, "edits must be a list, not None"),
        (_calls.apply, ([None],), {}, "None names no edit; give its id as a text"),
        (_calls.get_edit, (None,), {}, "None names no edit; give its id as a text"),
        (_calls.get_revision, (1,), {}, "reference must be a text such as '1', not 1"),
        (_calls.generate, ("x",), {"revision": 0}, "revision must be a text such as '0', not 0"),
        (
            _calls.generate,
            ("x",),
            {"temperature": "hot"},
            "temperature must be a number, not 'hot'",
        ),
        (_calls.generate, ("x",), {"stop": 3}, "stop must be a list, not 3"),
        (_calls.score, ("x", None), {}, "continuations must be a list, not None"),
        (_calls.get_operation, (5,), {}, "name must be a text such as '5', not 5"),
        (_batch_calls.propose_edits, ("abc",), {}, "each of proposals must be an errata.EditPropo"),
        (_batch_calls.propose_edits, (None,), {}, "proposals must be a list, not None"),
        (
            _upkeep_calls.add_suite,
            ("s", "abc"),
            {},
            "each of prompts must be an errata.CheckPrompt",
        ),
        (_evidence_calls.get_inclusion_proof, (5, 0), {}, "5 names no revision; give its id as a"),
    ],
)
def test_an_argument_of_another_type_is_told_what_is_wanted(call, arguments, options, problem):
    with pytest.raises(errata.InvalidInputError, match=problem):
        call(*arguments, **options).request(SCOPE)


def test_the_parts_of_a_batch_are_checked_as_those_of_a_proposal():
    odd: Any = errata.EditProposal(subject="Louvre", facts=FACT)  # type: ignore[arg-type]

    with pytest.raises(errata.InvalidInputError, match="facts must be a list, not Fact"):
        _batch_calls.propose_edits([odd]).request(SCOPE)


def test_one_alias_is_not_taken_for_its_letters():
    batch = [errata.EditProposal(subject="Louvre", facts=(FACT,), aliases="Le")]  # type: ignore[arg-type]

    assert sent(_calls.propose("Louvre", FACT, aliases="Le")).aliases == ["Le"]
    assert sent(_batch_calls.propose_edits(batch)).proposals[0].aliases == ["Le"]


@pytest.mark.parametrize("state", ["bogus", "APPLIED", 4, 99, ["applied"]])
def test_a_state_there_is_not_is_refused_and_those_there_are_are_named(state):
    with pytest.raises(errata.InvalidInputError, match="is none of state: verified, rejected"):
        _calls.list_edits(state, 0)


def test_no_state_is_all_of_them_and_one_may_be_named_by_its_word():
    named: Any = "applied"

    assert sent(_calls.list_edits(None, 0)("")).state == types_pb2.EDIT_STATE_UNSPECIFIED
    assert sent(_calls.list_edits(named, 0)("")).state == types_pb2.EDIT_STATE_APPLIED


def test_numbers_of_other_libraries_are_numbers():
    half: Any = Fraction(1, 2)
    three: Any = numpy.int64(3)
    request = sent(_calls.generate("x", temperature=half, seed=three))

    assert (request.temperature, request.seed) == (0.5, 3)
