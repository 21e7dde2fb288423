"""What is sent: each call's method and request, from arguments alone."""

from typing import Any

import pytest
from google.longrunning import operations_pb2

import errata
from errata import (
    _batch_calls,
    _branch_calls,
    _calls,
    _evidence_calls,
    _model_calls,
    _trace_calls,
    _upkeep_calls,
)
from errata.v1 import edits_pb2, inference_pb2, ledger_pb2, models_pb2, traces_pb2

SCOPE = _calls.Scope(model="models/m", actor="ana")
FACT = errata.Fact(template="{} is in", target="Rome")

EVERY_CALL: list[_calls.Call[Any, Any]] = [
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
        _trace_calls.trace_facts([("Louvre is in", "Louvre")]),  # type: ignore[list-item]
        _trace_calls.trace_facts(None),  # type: ignore[arg-type]
        _trace_calls.fit_proxy([("a text", "good")]),  # type: ignore[list-item]
        _trace_calls.trace("Louvre is in", "Louvre", kinds=None),  # type: ignore[arg-type]
        _trace_calls.trace("Louvre is in", "Louvre", samples=10**12),
        _trace_calls.trace("Louvre is in", "Louvre", samples=1.5),  # type: ignore[arg-type]
        _trace_calls.trace("Louvre is in", "Louvre", scale="3"),  # type: ignore[arg-type]
        _trace_calls.trace("Louvre is in", "Louvre", replacements=[None]),  # type: ignore[list-item]
        _trace_calls.trace("Louvre is in", "Louvre", proxy=3),  # type: ignore[arg-type]
        _calls.propose("Louvre", [("{} is in", "Rome")]),  # type: ignore[list-item]
    ],
)
def test_what_has_no_form_on_the_wire_is_refused_when_the_request_is_built(call):
    with pytest.raises(errata.InvalidInputError, match="of a kind that can be sent"):
        call.request(SCOPE)


def test_a_value_of_another_type_is_refused_as_one_of_ours():
    with pytest.raises(errata.InvalidInputError, match="of a kind that can be sent"):
        _calls.generate("Louvre is in", temperature="hot").request(SCOPE)  # type: ignore[arg-type]
