"""Requests to edit, and edits as their readers see them."""

from collections.abc import Sequence
from typing import Final

from errata.v1 import edits_pb2, types_pb2
from errata_server.domain.edits import Approval, EditState
from errata_server.domain.errors import InvalidInputError
from errata_server.domain.facts import EditRequest, Fact, clean_text
from errata_server.domain.ids import EditId, ModelId
from errata_server.domain.patches import PatchManifest
from errata_server.rpc.convert import names, signatures, suites, values
from errata_server.service.views import EditView

MOST_EDITS: Final = 10_000
"""Edits one request may apply or revert."""

MOST_PROMPTS: Final = 200
"""Paraphrases or neighbours one request may bring."""

STATES: Final = {
    EditState.VERIFIED: types_pb2.EDIT_STATE_VERIFIED,
    EditState.REJECTED: types_pb2.EDIT_STATE_REJECTED,
    EditState.APPROVED: types_pb2.EDIT_STATE_APPROVED,
    EditState.APPLIED: types_pb2.EDIT_STATE_APPLIED,
    EditState.SUPERSEDED: types_pb2.EDIT_STATE_SUPERSEDED,
    EditState.REVERTED: types_pb2.EDIT_STATE_REVERTED,
}
_STATE_OF: Final = {number: state for state, number in STATES.items()}


def edit_request(
    message: edits_pb2.ProposeEditRequest | edits_pb2.EditProposal,
    *,
    reason: str = "",
    ticket: str = "",
) -> EditRequest:
    """What a caller wants the model to believe.

    Args:
        message: The request, or one of a batch.
        reason: Why, where the message is one of a batch.
        ticket: Likewise.

    Raises:
        InvalidInputError: a text, a template or a count is malformed.
    """
    subject = clean_text(message.subject, "subject")
    return EditRequest(
        subject=subject,
        facts=tuple(
            _fact(fact, subject, f"facts[{place}]") for place, fact in enumerate(message.facts)
        ),
        paraphrases=suites.prompts(message.paraphrases, "paraphrases", at_most=MOST_PROMPTS),
        neighbours=suites.prompts(message.neighbours, "neighbours", at_most=MOST_PROMPTS),
        suite=suites.prompts(message.suite, "suite"),
        aliases=tuple(message.aliases),
        reason=reason,
        ticket=ticket,
    )


def edit_state(number: types_pb2.EditState.ValueType) -> EditState | None:
    """The state a list is filtered by; None for all.

    Raises:
        InvalidInputError: no state has this number.
    """
    if number == types_pb2.EDIT_STATE_UNSPECIFIED:
        return None
    if number not in _STATE_OF:
        raise InvalidInputError(
            f"state is {number}, which no edit state has", field="state", value=number
        )
    return _STATE_OF[number]


def edit_ids(given: Sequence[str], model: ModelId) -> tuple[EditId, ...]:
    """The edits of ``models/*/edits/*``, all of ``model``.

    Raises:
        InvalidInputError: there are too many, or a name is malformed, belongs to another
            model or stands twice.
    """
    if len(given) > MOST_EDITS:
        raise InvalidInputError(
            f"names has {len(given)} edits; at most {MOST_EDITS} are changed at once",
            field="names",
            limit=MOST_EDITS,
        )
    found: dict[EditId, None] = {}
    for place, name in enumerate(given):
        field = f"names[{place}]"
        owner, edit = names.edit_id(name, field)
        if owner != model:
            raise InvalidInputError(
                f"{field} is an edit of model {owner}, the request is about {model}",
                field=field,
                model=owner,
            )
        if edit in found:
            raise InvalidInputError(f"{field} names edit {edit} again", field=field, edit=edit)
        found[edit] = None
    return tuple(found)


def edit_message(view: EditView) -> types_pb2.Edit:
    """An edit with its state, patch, latest report and approvals."""
    edit = view.edit
    hidden_by = view.superseded_by
    return types_pb2.Edit(
        name=names.edit_name(edit.model, edit.id),
        subject=edit.request.subject,
        facts=[
            types_pb2.Fact(template=fact.template, target=fact.target)
            for fact in edit.request.facts
        ],
        paraphrases=[suites.prompt_message(prompt) for prompt in edit.request.paraphrases],
        neighbours=[suites.prompt_message(prompt) for prompt in edit.request.neighbours],
        suite=[suites.prompt_message(prompt) for prompt in edit.request.suite],
        aliases=edit.request.aliases,
        state=STATES[view.state],
        patch=_patch_message(view),
        report=names.report_name(edit.model, view.report.id),
        profile=edit.profile,
        approvals=[_approval_message(edit.model, approval) for approval in view.approvals],
        proposer=edit.proposer,
        reason=edit.request.reason,
        ticket=edit.request.ticket,
        create_time=values.timestamp(edit.created_at),
        superseded_by=names.edit_name(edit.model, hidden_by) if hidden_by else "",
        signature=signatures.signature_message(edit.signature),
    )


def _fact(message: types_pb2.Fact, subject: str, path: str) -> Fact:
    with values.within(path, prompt="template"):
        return Fact.parse(subject=subject, prompt=message.template, target=message.target)


def _approval_message(model: ModelId, approval: Approval) -> types_pb2.Approval:
    return types_pb2.Approval(
        actor=approval.actor,
        comment=approval.comment,
        report=names.report_name(model, approval.report),
        create_time=values.timestamp(approval.created_at),
    )


def _patch_message(view: EditView) -> types_pb2.PatchSummary:
    manifest: PatchManifest = view.manifest
    record = manifest.optimisation
    return types_pb2.PatchSummary(
        digest=view.edit.patch,
        module=manifest.module,
        layer=manifest.layer,
        keys=manifest.keys,
        steps=record.steps,
        restarts=record.restarts,
        loss=record.loss,
        target_probability=record.target_probability,
        converged=record.converged,
        residual_norm=record.residual_norm,
        clamp_fraction=record.clamp_fraction,
        key_agreement=record.key_agreement,
        size_bytes=view.artifact_bytes,
    )
