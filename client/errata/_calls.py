"""Every call of the API as data: arguments to request, reply to value; pure.

Invariants: both clients send what is described here and nothing else, so they cannot
differ. A mutation's request id is fixed when its request is built, so that a retry repeats
the id.
"""

from collections.abc import Callable, Iterable
from typing import Any, Unpack

from google.longrunning import operations_pb2
from google.protobuf.empty_pb2 import Empty

from errata import _messages as messages
from errata import _operation_status as operation_status
from errata import _signing
from errata import _types as types
from errata._arguments import checked, listed, members, text_list
from errata._call_types import Call, EditReference, Pages, Scope
from errata._operation_status import OperationStatus
from errata._options import (
    ApplyOptions,
    ChangeOptions,
    GenerateOptions,
    MutationOptions,
    ProposeOptions,
    ReadOptions,
    RevertOptions,
    VerifyOptions,
)
from errata.v1 import edits_pb2, inference_pb2, ledger_pb2

_EDITS = "errata.v1.EditService"
_LEDGER = "errata.v1.LedgerService"
_INFERENCE = "errata.v1.InferenceService"
_OPERATIONS = "google.longrunning.Operations"


@checked
def propose(
    subject: str, facts: types.Fact | Iterable[types.Fact], **options: Unpack[ProposeOptions]
) -> Call[operations_pb2.Operation, OperationStatus[types.Proposal]]:
    """Start to compute a patch and to check it."""
    return Call(
        method=f"/{_EDITS}/ProposeEdit",
        reply=operations_pb2.Operation,
        build=_propose_request(subject, facts, options, validate_only=False),
        parse=operation_status.parse,
        signs=True,
        proposer_key=options.get("proposer_key", ""),
    )


@checked
def validate(
    subject: str, facts: types.Fact | Iterable[types.Fact], **options: Unpack[ProposeOptions]
) -> Call[operations_pb2.Operation, OperationStatus[types.Proposal]]:
    """Start to check a proposal's form and whether it asks for anything new."""
    return Call(
        method=f"/{_EDITS}/ProposeEdit",
        reply=operations_pb2.Operation,
        build=_propose_request(subject, facts, options, validate_only=True),
        parse=operation_status.parse,
        signs=True,
        proposer_key=options.get("proposer_key", ""),
    )


def _propose_request(
    subject: str,
    facts: types.Fact | Iterable[types.Fact],
    options: ProposeOptions,
    *,
    validate_only: bool,
) -> Callable[[Scope], edits_pb2.ProposeEditRequest]:
    stated = (facts,) if isinstance(facts, types.Fact) else members(facts, types.Fact, "facts")
    paraphrases = members(options.get("paraphrases", ()), types.CheckPrompt, "paraphrases")
    neighbours = members(options.get("neighbours", ()), types.CheckPrompt, "neighbours")
    suite = members(options.get("suite", ()), types.CheckPrompt, "suite")
    aliases = text_list(options.get("aliases", ()), "aliases")

    def build(scope: Scope) -> edits_pb2.ProposeEditRequest:
        request = edits_pb2.ProposeEditRequest(
            parent=scope.model,
            subject=subject,
            facts=[messages.fact_message(fact) for fact in stated],
            paraphrases=[messages.prompt_message(prompt) for prompt in paraphrases],
            neighbours=[messages.prompt_message(prompt) for prompt in neighbours],
            suite=[messages.prompt_message(prompt) for prompt in suite],
            aliases=aliases,
            reason=options.get("reason", ""),
            ticket=options.get("ticket", ""),
            validate_only=validate_only,
            signature=None,
            **scope.signature(options),
        )
        if scope.proposer_key is not None:
            _signing.sign(request, scope.base, scope.proposer_key)
        return request

    return build


@checked
def verify(
    edit: EditReference, **options: Unpack[VerifyOptions]
) -> Call[operations_pb2.Operation, OperationStatus[types.Proposal]]:
    """Start to check an edit again."""
    suite = members(options.get("suite", ()), types.CheckPrompt, "suite")
    return Call(
        method=f"/{_EDITS}/VerifyEdit",
        reply=operations_pb2.Operation,
        build=lambda scope: edits_pb2.VerifyEditRequest(
            name=scope.edit(edit),
            suite=[messages.prompt_message(prompt) for prompt in suite],
            **scope.signature(options),
        ),
        parse=operation_status.parse,
    )


@checked
def approve(
    edit: EditReference, comment: str, **options: Unpack[MutationOptions]
) -> Call[edits_pb2.ApproveEditResponse, types.Edit]:
    """Say that an edit may be applied."""
    return Call(
        method=f"/{_EDITS}/ApproveEdit",
        reply=edits_pb2.ApproveEditResponse,
        build=lambda scope: edits_pb2.ApproveEditRequest(
            name=scope.edit(edit), comment=comment, **scope.signature(options)
        ),
        parse=lambda message: messages.edit(message.edit),
    )


@checked
def apply(
    edits: EditReference | Iterable[EditReference], **options: Unpack[ApplyOptions]
) -> Call[edits_pb2.ApplyEditsResponse, types.Change]:
    """Make edits live on a branch."""
    named = _named(edits)
    return Call(
        method=f"/{_EDITS}/ApplyEdits",
        reply=edits_pb2.ApplyEditsResponse,
        build=lambda scope: edits_pb2.ApplyEditsRequest(
            names=[scope.edit(edit) for edit in named],
            override_reason=options.get("override_reason", ""),
            expected_revision=scope.revision(options.get("expected_revision", "")),
            validate_only=options.get("validate_only", False),
            **_change_fields(scope, options),
        ),
        parse=messages.applied,
        acknowledges=not options.get("validate_only", False),
    )


@checked
def revert(
    edits: EditReference | Iterable[EditReference], **options: Unpack[RevertOptions]
) -> Call[edits_pb2.RevertEditsResponse, types.Change]:
    """Take edits back, or return to what was applied at a revision."""
    named = _named(edits)
    return Call(
        method=f"/{_EDITS}/RevertEdits",
        reply=edits_pb2.RevertEditsResponse,
        build=lambda scope: edits_pb2.RevertEditsRequest(
            names=[scope.edit(edit) for edit in named],
            to_revision=scope.revision(options.get("to_revision", "")),
            expected_revision=scope.revision(options.get("expected_revision", "")),
            validate_only=options.get("validate_only", False),
            **_change_fields(scope, options),
        ),
        parse=messages.change,
        acknowledges=not options.get("validate_only", False),
    )


def _change_fields(scope: Scope, options: ChangeOptions) -> dict[str, str]:
    return {
        "parent": scope.model,
        "branch": options.get("branch", ""),
        "reason": options.get("reason", ""),
        "ticket": options.get("ticket", ""),
        **scope.signature(options),
    }


def _named(edits: EditReference | Iterable[EditReference]) -> tuple[EditReference, ...]:
    return (edits,) if isinstance(edits, str | types.Edit) else listed(edits, "edits")


@checked
def get_edit(edit: EditReference, branch: str = "") -> Call[edits_pb2.GetEditResponse, types.Edit]:
    """Read an edit."""
    return Call(
        method=f"/{_EDITS}/GetEdit",
        reply=edits_pb2.GetEditResponse,
        build=lambda scope: edits_pb2.GetEditRequest(name=scope.edit(edit), branch=branch),
        parse=lambda message: messages.edit(message.edit),
    )


@checked
def list_edits(
    state: types.EditState | None, page_size: int, branch: str = ""
) -> Pages[types.Edit]:
    """Read edits, newest first."""
    wanted = messages.edit_state_message(state)
    return lambda token: Call(
        method=f"/{_EDITS}/ListEdits",
        reply=edits_pb2.ListEditsResponse,
        build=lambda scope: edits_pb2.ListEditsRequest(
            parent=scope.model,
            page_size=page_size,
            page_token=token,
            state=wanted,
            branch=branch,
        ),
        parse=lambda message: types.Page(
            items=tuple(messages.edit(edit) for edit in message.edits),
            next_token=message.next_page_token,
        ),
    )


@checked
def get_report(report: str) -> Call[edits_pb2.GetReportResponse, types.Report]:
    """Read a report."""
    return Call(
        method=f"/{_EDITS}/GetReport",
        reply=edits_pb2.GetReportResponse,
        build=lambda scope: edits_pb2.GetReportRequest(name=scope.name("reports", report)),
        parse=lambda message: messages.report(message.report),
    )


@checked
def get_head(branch: str, min_sequence: int = 0) -> Call[ledger_pb2.GetHeadResponse, types.Change]:
    """Read the newest revision of a branch."""
    return Call(
        method=f"/{_LEDGER}/GetHead",
        reply=ledger_pb2.GetHeadResponse,
        build=lambda scope: ledger_pb2.GetHeadRequest(
            parent=scope.model, branch=branch, min_sequence=min_sequence
        ),
        parse=messages.change,
        acknowledges=True,
    )


@checked
def get_revision(reference: str) -> Call[ledger_pb2.GetRevisionResponse, types.Revision]:
    """Read a revision."""
    return Call(
        method=f"/{_LEDGER}/GetRevision",
        reply=ledger_pb2.GetRevisionResponse,
        build=lambda scope: ledger_pb2.GetRevisionRequest(name=scope.name("revisions", reference)),
        parse=lambda message: messages.revision(message.revision),
    )


@checked
def list_revisions(branch: str, page_size: int) -> Pages[types.Revision]:
    """Read revisions, newest first."""
    return lambda token: Call(
        method=f"/{_LEDGER}/ListRevisions",
        reply=ledger_pb2.ListRevisionsResponse,
        build=lambda scope: ledger_pb2.ListRevisionsRequest(
            parent=scope.model, branch=branch, page_size=page_size, page_token=token
        ),
        parse=lambda message: types.Page(
            items=tuple(messages.revision(revision) for revision in message.revisions),
            next_token=message.next_page_token,
        ),
    )


@checked
def diff(before: str, after: str) -> Call[ledger_pb2.DiffRevisionsResponse, types.Diff]:
    """Compare what is active at two revisions."""
    return Call(
        method=f"/{_LEDGER}/DiffRevisions",
        reply=ledger_pb2.DiffRevisionsResponse,
        build=lambda scope: ledger_pb2.DiffRevisionsRequest(
            parent=scope.model,
            to=scope.name("revisions", after),
            **{"from": scope.name("revisions", before)},
        ),
        parse=messages.diff,
    )


@checked
def watch(branch: str, start: int) -> Call[ledger_pb2.WatchRevisionsResponse, types.Revision]:
    """Stream revisions from a sequence on, as they are committed."""
    return Call(
        method=f"/{_LEDGER}/WatchRevisions",
        reply=ledger_pb2.WatchRevisionsResponse,
        build=lambda scope: ledger_pb2.WatchRevisionsRequest(
            parent=scope.model, branch=branch, start_sequence=start
        ),
        parse=lambda message: messages.revision(message.revision),
    )


@checked
def list_branches(page_size: int) -> Pages[types.Branch]:
    """Read branches with their heads."""
    return lambda token: Call(
        method=f"/{_LEDGER}/ListBranches",
        reply=ledger_pb2.ListBranchesResponse,
        build=lambda scope: ledger_pb2.ListBranchesRequest(
            parent=scope.model, page_size=page_size, page_token=token
        ),
        parse=lambda message: types.Page(
            items=tuple(messages.branch(branch) for branch in message.branches),
            next_token=message.next_page_token,
        ),
    )


def audit() -> Call[ledger_pb2.AuditLedgerResponse, types.AuditResult]:
    """Recompute the ledger and the served weights."""
    return Call(
        method=f"/{_LEDGER}/AuditLedger",
        reply=ledger_pb2.AuditLedgerResponse,
        build=lambda scope: ledger_pb2.AuditLedgerRequest(parent=scope.model),
        parse=messages.audit,
    )


@checked
def generate(
    prompt: str, **options: Unpack[GenerateOptions]
) -> Call[inference_pb2.GenerateResponse, types.Chunk]:
    """Stream a continuation."""
    stop = text_list(options.get("stop", ()), "stop")
    return Call(
        method=f"/{_INFERENCE}/Generate",
        reply=inference_pb2.GenerateResponse,
        build=lambda scope: inference_pb2.GenerateRequest(
            model=scope.model,
            prompt=prompt,
            max_new_tokens=options.get("max_new_tokens", 0),
            temperature=options.get("temperature", 0.0),
            top_k=options.get("top_k", 0),
            seed=options.get("seed", 0),
            stop=stop,
            revision=scope.revision(options.get("revision", "")),
            min_sequence=options.get("min_sequence", 0),
        ),
        parse=messages.chunk,
    )


@checked
def score(
    prompt: str, continuations: Iterable[str], **options: Unpack[ReadOptions]
) -> Call[inference_pb2.ScoreResponse, types.PromptScore]:
    """Read the log-probabilities of continuations."""
    scored = text_list(continuations, "continuations")
    return Call(
        method=f"/{_INFERENCE}/Score",
        reply=inference_pb2.ScoreResponse,
        build=lambda scope: inference_pb2.ScoreRequest(
            model=scope.model,
            prompt=prompt,
            continuations=scored,
            revision=scope.revision(options.get("revision", "")),
            min_sequence=options.get("min_sequence", 0),
        ),
        parse=messages.prompt_score,
    )


@checked
def get_operation(name: str) -> Call[operations_pb2.Operation, OperationStatus[Any]]:
    """Read how an operation stands."""
    full = name if name.startswith("operations/") else f"operations/{name}"
    return Call(
        method=f"/{_OPERATIONS}/GetOperation",
        reply=operations_pb2.Operation,
        build=lambda _: operations_pb2.GetOperationRequest(name=full),
        parse=operation_status.parse,
        needs_model=False,
    )


@checked
def list_operations(page_size: int) -> Pages[OperationStatus[Any]]:
    """Read how operations stand, newest first."""
    return lambda token: Call(
        method=f"/{_OPERATIONS}/ListOperations",
        reply=operations_pb2.ListOperationsResponse,
        build=lambda _: operations_pb2.ListOperationsRequest(page_size=page_size, page_token=token),
        parse=lambda message: types.Page(
            items=tuple(operation_status.parse(one) for one in message.operations),
            next_token=message.next_page_token,
        ),
        needs_model=False,
    )


@checked
def cancel_operation(name: str) -> Call[Empty, None]:
    """Ask an operation to stop."""
    return Call(
        method=f"/{_OPERATIONS}/CancelOperation",
        reply=Empty,
        build=lambda _: operations_pb2.CancelOperationRequest(name=name),
        parse=lambda _: None,
        needs_model=False,
    )
