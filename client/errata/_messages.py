"""Messages of the wire as the client's own types; pure.

Invariants: this module and `errata._calls` alone know both. An enum value of a newer server
that this client does not know reads as ``UNSPECIFIED`` and fails nothing.
"""

from dataclasses import replace
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from errata import _types as types
from errata._arguments import member
from errata._types import short
from errata.v1 import edits_pb2, inference_pb2, ledger_pb2, models_pb2, types_pb2

_EDIT_STATES = {
    types_pb2.EDIT_STATE_VERIFIED: types.EditState.VERIFIED,
    types_pb2.EDIT_STATE_REJECTED: types.EditState.REJECTED,
    types_pb2.EDIT_STATE_APPROVED: types.EditState.APPROVED,
    types_pb2.EDIT_STATE_APPLIED: types.EditState.APPLIED,
    types_pb2.EDIT_STATE_SUPERSEDED: types.EditState.SUPERSEDED,
    types_pb2.EDIT_STATE_REVERTED: types.EditState.REVERTED,
}
_VERDICTS = {
    types_pb2.VERDICT_PASSED: types.Verdict.PASSED,
    types_pb2.VERDICT_WARNED: types.Verdict.WARNED,
    types_pb2.VERDICT_FAILED: types.Verdict.FAILED,
    types_pb2.VERDICT_SKIPPED: types.Verdict.SKIPPED,
}
_COMPOSITIONS = {
    types_pb2.COMPOSITION_GUARDED: types.Composition.GUARDED,
    types_pb2.COMPOSITION_LINEAR: types.Composition.LINEAR,
}
_REVISION_KINDS = {
    types_pb2.REVISION_KIND_GENESIS: types.RevisionKind.GENESIS,
    types_pb2.REVISION_KIND_APPLY: types.RevisionKind.APPLY,
    types_pb2.REVISION_KIND_REVERT: types.RevisionKind.REVERT,
    types_pb2.REVISION_KIND_PROMOTE: types.RevisionKind.PROMOTE,
    types_pb2.REVISION_KIND_POLICY: types.RevisionKind.POLICY,
    types_pb2.REVISION_KIND_BRANCH: types.RevisionKind.BRANCH,
}


def edit_state_message(state: types.EditState | None) -> types_pb2.EditState.ValueType:
    """``state`` on the wire; any state where it is None or ``unspecified``.

    Raises:
        InvalidInputError: there is no such state.
    """
    if state is None or state == types.EditState.UNSPECIFIED:
        return types_pb2.EDIT_STATE_UNSPECIFIED
    wire = {ours: theirs for theirs, ours in _EDIT_STATES.items()}
    return wire[member(types.EditState, state, "state")]


def fact_message(fact: types.Fact) -> types_pb2.Fact:
    """``fact`` on the wire."""
    return types_pb2.Fact(template=fact.template, target=fact.target)


def prompt_message(prompt: types.CheckPrompt) -> types_pb2.CheckPrompt:
    """``prompt`` on the wire."""
    return types_pb2.CheckPrompt(prompt=prompt.prompt, expected=prompt.expected)


def served(message: types_pb2.Served) -> types.Served:
    """`types.Served` of the wire."""
    return types.Served(
        revision=short(message.revision),
        sequence=message.sequence,
        branch=message.branch,
        active_set_digest=message.active_set_digest,
        weights_digest=message.weights_digest,
    )


def edit(message: types_pb2.Edit) -> types.Edit:
    """`types.Edit` of the wire."""
    return types.Edit(
        name=message.name,
        subject=message.subject,
        facts=tuple(types.Fact(template=f.template, target=f.target) for f in message.facts),
        paraphrases=tuple(prompt(p) for p in message.paraphrases),
        neighbours=tuple(prompt(p) for p in message.neighbours),
        state=_EDIT_STATES.get(message.state, types.EditState.UNSPECIFIED),
        patch=_patch(message.patch),
        report=short(message.report),
        profile=message.profile,
        approvals=tuple(_approval(a) for a in message.approvals),
        proposer=message.proposer,
        reason=message.reason,
        ticket=message.ticket,
        created_at=time(message.create_time),
        superseded_by=short(message.superseded_by),
        suite=tuple(prompt(p) for p in message.suite),
        aliases=tuple(message.aliases),
        signed_by=message.signature.key,
    )


def prompt(message: types_pb2.CheckPrompt) -> types.CheckPrompt:
    """`types.CheckPrompt` of the wire."""
    return types.CheckPrompt(prompt=message.prompt, expected=message.expected)


def _patch(message: types_pb2.PatchSummary) -> types.PatchSummary:
    return types.PatchSummary(
        digest=message.digest,
        module=message.module,
        layer=message.layer,
        keys=message.keys,
        steps=message.steps,
        restarts=message.restarts,
        loss=message.loss,
        target_probability=message.target_probability,
        converged=message.converged,
        residual_norm=message.residual_norm,
        clamp_fraction=message.clamp_fraction,
        key_agreement=message.key_agreement,
        size_bytes=message.size_bytes,
    )


def _approval(message: types_pb2.Approval) -> types.Approval:
    return types.Approval(
        actor=message.actor,
        comment=message.comment,
        report=short(message.report),
        created_at=time(message.create_time),
    )


def report(message: types_pb2.Report) -> types.Report:
    """`types.Report` of the wire."""
    return types.Report(
        name=message.name,
        edit=short(message.edit),
        passed=message.passed,
        checks=tuple(_check(c) for c in message.checks),
        against=short(message.against),
        composition=_COMPOSITIONS.get(message.composition, types.Composition.UNSPECIFIED),
        policy=message.policy,
        created_at=time(message.create_time),
        suites=tuple(short(suite.name) for suite in message.suites),
    )


def _check(message: types_pb2.Check) -> types.Check:
    return types.Check(
        kind=message.kind,
        verdict=verdict(message.verdict),
        measured=message.measured if message.HasField("measured") else None,
        threshold=message.threshold if message.HasField("threshold") else None,
        comparison=message.comparison,
        explanation=message.explanation,
        answers=tuple(answer(a) for a in message.answers),
    )


def verdict(value: types_pb2.Verdict.ValueType) -> types.Verdict:
    """`types.Verdict` of the wire."""
    return _VERDICTS.get(value, types.Verdict.UNSPECIFIED)


def answer(message: types_pb2.Answer) -> types.Answer:
    """`types.Answer` of the wire."""
    return types.Answer(
        prompt=message.prompt,
        expected=message.expected,
        before=message.before,
        after=message.after,
        held_before=message.held_before,
        held_after=message.held_after,
        edit=short(message.edit),
    )


def proposal(
    message: edits_pb2.ProposeEditResponse | edits_pb2.VerifyEditResponse,
) -> types.Proposal:
    """`types.Proposal` of the wire."""
    return types.Proposal(edit=edit(message.edit), report=report(message.report))


def revision(message: types_pb2.Revision) -> types.Revision:
    """`types.Revision` of the wire."""
    return types.Revision(
        name=message.name,
        sequence=message.sequence,
        branch=message.branch,
        parent=short(message.parent),
        kind=_REVISION_KINDS.get(message.kind, types.RevisionKind.UNSPECIFIED),
        edits=tuple(short(name) for name in message.edits),
        superseded=tuple(short(name) for name in message.superseded),
        restored=tuple(short(name) for name in message.restored),
        active_count=message.active_count,
        composition=_COMPOSITIONS.get(message.composition, types.Composition.UNSPECIFIED),
        active_set_digest=message.active_set_digest,
        weights_digest=message.weights_digest,
        actor=message.actor,
        reason=message.reason,
        ticket=message.ticket,
        override_reason=message.override_reason,
        request_id=message.request_id,
        created_at=time(message.create_time),
        body=message.body,
        source=short(message.source),
        removed=tuple(short(name) for name in message.removed),
        protected=message.protected,
    )


def change(
    message: edits_pb2.ApplyEditsResponse
    | edits_pb2.RevertEditsResponse
    | ledger_pb2.GetHeadResponse
    | ledger_pb2.PromoteBranchResponse,
) -> types.Change:
    """`types.Change` of the wire."""
    return types.Change(revision=revision(message.revision), served=served(message.served))


def applied(
    message: edits_pb2.ApplyEditsResponse | ledger_pb2.PromoteBranchResponse,
) -> types.Change:
    """`types.Change` of the wire, with what verifies it."""
    return replace(change(message), live_verification=message.live_verification)


def branch(message: types_pb2.Branch) -> types.Branch:
    """`types.Branch` of the wire."""
    return types.Branch(name=message.name, head=revision(message.head), protected=message.protected)


def diff(message: ledger_pb2.DiffRevisionsResponse) -> types.Diff:
    """`types.Diff` of the wire."""
    # "from" is a keyword in Python, so the stubs cannot offer the field as an attribute.
    set_fields = {field.name: value for field, value in message.ListFields()}
    return types.Diff(
        before=revision(set_fields.get("from", types_pb2.Revision())),
        after=revision(message.to),
        added=tuple(edit(e) for e in message.added),
        removed=tuple(edit(e) for e in message.removed),
        unchanged_count=message.unchanged_count,
    )


def audit(message: ledger_pb2.AuditLedgerResponse) -> types.AuditResult:
    """`types.AuditResult` of the wire."""
    return types.AuditResult(
        clean=message.clean,
        findings=tuple(types.Finding(row=f.row, problem=f.problem) for f in message.findings),
        revisions_checked=message.revisions_checked,
        edits_checked=message.edits_checked,
        artifacts_checked=message.artifacts_checked,
        reports_checked=message.reports_checked,
        served_digest_matches=message.served_digest_matches,
        base_digest_matches=message.base_digest_matches,
        served=served(message.served),
        log_entries_checked=message.log_entries_checked,
    )


def prompt_score(message: inference_pb2.ScoreResponse) -> types.PromptScore:
    """`types.PromptScore` of the wire."""
    return types.PromptScore(
        scores=tuple(
            types.Score(
                continuation=s.continuation,
                log_probability=s.log_probability,
                token_log_probabilities=tuple(s.token_log_probabilities),
                tokens=tuple(s.tokens),
                is_greedy=s.is_greedy,
            )
            for s in message.scores
        ),
        logits_digest=message.logits_digest,
        served=served(message.served),
    )


def chunk(message: inference_pb2.GenerateResponse) -> types.Chunk:
    """`types.Chunk` of the wire."""
    return types.Chunk(
        text=message.text,
        tokens=message.tokens,
        finish_reason=message.finish_reason,
        served=served(message.served),
    )


def profile(message: models_pb2.Profile) -> types.Profile:
    """`types.Profile` of the wire."""
    return types.Profile(
        id=message.id,
        layer=message.layer,
        module=message.module,
        prefixes=tuple(message.prefixes),
        learning_rate=message.learning_rate,
        clamp=message.clamp,
        max_steps=message.max_steps,
        guard_width=message.guard_width,
        ridge=message.ridge,
        moment_tokens=message.moment_tokens,
        seed=message.seed,
        body=message.body,
    )


def model(message: models_pb2.Model) -> types.Model:
    """`types.Model` of the wire."""
    return types.Model(
        name=message.name,
        source=message.source,
        digest=message.digest,
        architecture=message.architecture,
        layers=message.layers,
        d_model=message.d_model,
        d_in=message.d_in,
        vocabulary=message.vocabulary,
        context=message.context,
        parameters=message.parameters,
        dtype=message.dtype,
        device=message.device,
        profile=profile(message.profile) if message.HasField("profile") else None,
        served=served(message.served),
        live_edits=message.live_edits,
        applied_edits=message.applied_edits,
        started_at=time(message.start_time),
        server_version=message.server_version,
        standing=_standing(message.standing) if message.HasField("standing") else None,
    )


def _standing(message: models_pb2.Standing) -> types.Standing:
    return types.Standing(
        branch=message.branch,
        replica=message.replica,
        reachable=message.reachable,
        staleness_seconds=message.staleness_seconds,
        lag=message.lag,
        quarantine=message.quarantine,
        lease=_lease(message.lease) if message.HasField("lease") else None,
    )


def _lease(message: models_pb2.Lease) -> types.Lease:
    return types.Lease(
        holder=message.holder,
        address=message.address,
        token=message.token,
        remaining_seconds=message.remaining_seconds,
    )


def progress(message: types_pb2.OperationMetadata) -> types.Progress:
    """`types.Progress` of the wire."""
    return types.Progress(
        stage=message.stage, done=message.done, total=message.total, note=message.note
    )


def time(message: Timestamp) -> datetime | None:
    """None where the message has no time: 1970 is not a time of ours."""
    if message == Timestamp():
        return None
    return message.ToDatetime(tzinfo=UTC)
