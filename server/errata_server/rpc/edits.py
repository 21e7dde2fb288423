"""EditService: propose, verify, approve, apply and revert edits."""

from functools import partial

from google.longrunning import operations_pb2

from errata.v1 import edits_pb2 as pb
from errata.v1 import edits_pb2_grpc
from errata_server.domain.ids import MAIN, BranchName, EditId
from errata_server.rpc import calls
from errata_server.rpc.convert import (
    batches,
    names,
    pages,
    reports,
    revisions,
    signatures,
    suites,
    values,
)
from errata_server.rpc.convert import calls as convert_calls
from errata_server.rpc.convert import edits as convert
from errata_server.rpc.operations import OperationMessages
from errata_server.rpc.services import Context, Services
from errata_server.service.calls import Call


class EditServicer(edits_pb2_grpc.EditServiceServicer):
    """Converts, delegates, converts back. Errors become statuses in the interceptor."""

    def __init__(self, services: Services, messages: OperationMessages) -> None:
        self._services = services
        self._messages = messages

    async def ProposeEdit(
        self, request: pb.ProposeEditRequest, _context: Context
    ) -> operations_pb2.Operation:
        """Start to compute and check a patch."""
        self._require(request.parent)
        call = _call(request)
        wanted = convert.edit_request(request, reason=call.reason, ticket=call.ticket)
        return await self._messages.started(
            partial(
                self._services.proposals.propose,
                wanted,
                call,
                validate_only=request.validate_only,
                signature=signatures.signature(request, call.request_id),
            )
        )

    async def ProposeEdits(
        self, request: pb.ProposeEditsRequest, _context: Context
    ) -> operations_pb2.Operation:
        """Start to compute and check many patches."""
        self._require(request.parent)
        call = _call(request)
        signed = [signatures.signature(one, call.request_id) for one in request.proposals]
        propose = partial(
            self._services.batches.propose,
            batches.requests(request),
            call,
            signatures=signed,
            batch=values.short_text(request.batch, "batch"),
            together=request.together,
        )
        return await self._messages.started(propose)

    async def VerifyEdit(
        self, request: pb.VerifyEditRequest, _context: Context
    ) -> operations_pb2.Operation:
        """Start to check an edit again."""
        edit = self._edit(request.name)
        suite = suites.prompts(request.suite, "suite")
        call = convert_calls.call(actor=request.actor, request_id=request.request_id)
        verify = partial(self._services.proposals.verify, edit, call, suite=suite)
        return await self._messages.started(verify)

    async def VerifyLiveEdits(
        self, request: pb.VerifyLiveEditsRequest, _context: Context
    ) -> operations_pb2.Operation:
        """Start to ask live edits for their facts again."""
        self._require(request.parent)
        verify = partial(
            self._services.upkeep.live_edits.verify,
            convert_calls.call(actor=request.actor, request_id=request.request_id),
            sample=request.sample if request.HasField("sample") else None,
            seed=values.count(request.seed, "seed"),
        )
        return await self._messages.started(verify)

    async def ApproveEdit(
        self, request: pb.ApproveEditRequest, _context: Context
    ) -> pb.ApproveEditResponse:
        """Record that somebody stands by an edit."""
        edit = self._edit(request.name)
        comment = values.short_text(request.comment, "comment")
        call = convert_calls.call(actor=request.actor, request_id=request.request_id)
        approve = partial(self._services.proposals.approve, edit, comment, call)
        view = await calls.call(self._services.pools.calls, approve)
        return pb.ApproveEditResponse(edit=convert.edit_message(view))

    async def ApplyEdits(
        self, request: pb.ApplyEditsRequest, _context: Context
    ) -> pb.ApplyEditsResponse:
        """Make edits live in one revision, and begin to verify what is live if they were many."""
        edits, branch, call = self._change(request)
        apply = partial(
            self._services.changes.apply,
            edits,
            branch,
            call,
            override=values.short_text(request.override_reason, "override_reason"),
            expected=self._expected(request),
            validate_only=request.validate_only,
        )
        pinned = await calls.call(self._services.pools.calls, apply)
        changed = 0 if request.validate_only or branch != MAIN else len(edits)
        verify = partial(self._services.upkeep.live_edits.after_change, changed, call)
        verification = await calls.call(self._services.pools.calls, verify)
        return pb.ApplyEditsResponse(
            revision=revisions.revision_message(pinned.revision),
            served=revisions.served(pinned),
            live_verification=names.operation_name(verification) if verification else "",
        )

    async def RevertEdits(
        self, request: pb.RevertEditsRequest, _context: Context
    ) -> pb.RevertEditsResponse:
        """Take edits back in one revision."""
        target = request.to_revision
        revert = partial(
            self._services.changes.revert,
            *self._change(request),
            to_revision=self._services.reference(target, "to_revision") if target else "",
            expected=self._expected(request),
            validate_only=request.validate_only,
        )
        pinned = await calls.call(self._services.pools.calls, revert)
        return pb.RevertEditsResponse(
            revision=revisions.revision_message(pinned.revision), served=revisions.served(pinned)
        )

    async def GetEdit(self, request: pb.GetEditRequest, _context: Context) -> pb.GetEditResponse:
        """One edit."""
        branch = names.branch_name(request.branch, "branch")
        get = partial(self._services.proposals.get, self._edit(request.name), branch)
        view = await calls.call(self._services.pools.calls, get)
        return pb.GetEditResponse(edit=convert.edit_message(view))

    async def ListEdits(
        self, request: pb.ListEditsRequest, _context: Context
    ) -> pb.ListEditsResponse:
        """Edits, newest first."""
        self._require(request.parent)
        state = convert.edit_state(request.state)
        branch = names.branch_name(request.branch, "branch")
        query = ("edits", request.parent, state.value if state is not None else "", branch)
        page = await calls.call(
            self._services.pools.calls,
            partial(
                self._services.proposals.list,
                branch,
                state=state,
                page_size=values.page_size(request.page_size),
                page_token=pages.place(request.page_token, *query),
            ),
        )
        return pb.ListEditsResponse(
            edits=[convert.edit_message(view) for view in page.items],
            next_page_token=pages.token(page.next_token, *query),
        )

    async def GetReport(
        self, request: pb.GetReportRequest, _context: Context
    ) -> pb.GetReportResponse:
        """One report with every prompt and answer."""
        model, report_id = names.report_id(request.name, "name")
        self._services.require(model, "name")
        get = partial(self._services.proposals.report, report_id)
        report = await calls.call(self._services.pools.calls, get)
        return pb.GetReportResponse(report=reports.report_message(report))

    def _require(self, parent: str) -> None:
        self._services.require(names.model_id(parent, "parent"), "parent")

    def _edit(self, name: str) -> EditId:
        model, edit = names.edit_id(name, "name")
        self._services.require(model, "name")
        return edit

    def _change(
        self, request: pb.ApplyEditsRequest | pb.RevertEditsRequest
    ) -> tuple[tuple[EditId, ...], BranchName, Call]:
        self._require(request.parent)
        return (
            convert.edit_ids(request.names, self._services.model),
            names.branch_name(request.branch, "branch"),
            _call(request),
        )

    def _expected(self, request: pb.ApplyEditsRequest | pb.RevertEditsRequest) -> str:
        expected = request.expected_revision
        return self._services.reference(expected, "expected_revision") if expected else ""


def _call(
    request: pb.ProposeEditRequest
    | pb.ProposeEditsRequest
    | pb.ApplyEditsRequest
    | pb.RevertEditsRequest,
) -> Call:
    return convert_calls.call(
        actor=request.actor,
        request_id=request.request_id,
        reason=request.reason,
        ticket=request.ticket,
    )
