"""LedgerService: read, follow, branch and audit the history of what is served."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Final, TypeVar

from errata.v1 import ledger_pb2 as pb
from errata.v1 import ledger_pb2_grpc
from errata_server.domain.ids import MAIN, BranchName
from errata_server.domain.log import LogKind
from errata_server.rpc import calls, waiting
from errata_server.rpc.convert import audits, logs, names, pages, values
from errata_server.rpc.convert import calls as convert_calls
from errata_server.rpc.convert import revisions as convert
from errata_server.rpc.services import Context, Services
from errata_server.service.calls import Call

T = TypeVar("T")

POLL_SECONDS: Final = 0.5
"""How long one wait for a revision lasts before the stream looks whether it is to end."""


class LedgerServicer(ledger_pb2_grpc.LedgerServiceServicer):
    """Converts, delegates, converts back."""

    def __init__(self, services: Services, stopping: asyncio.Event) -> None:
        self._services = services
        self._stopping = stopping

    async def GetHead(self, request: pb.GetHeadRequest, context: Context) -> pb.GetHeadResponse:
        """A branch's newest revision, and what this server answers with."""
        self._require(request.parent)
        branch = self._services.branch(request.branch, "branch")
        least = values.count(request.min_sequence, "min_sequence")
        if self._services.serving.follows(branch):
            await waiting.await_sequence(self._services, context, least)
        head = partial(self._services.history.head, branch, min_sequence=least)
        revision = await calls.call(self._services.pools.calls, head)
        return pb.GetHeadResponse(
            revision=convert.revision_message(revision),
            served=convert.served(self._services.serving.head()),
        )

    async def GetRevision(
        self, request: pb.GetRevisionRequest, _context: Context
    ) -> pb.GetRevisionResponse:
        """One revision, by id, prefix, sequence or branch."""
        model, reference = names.revision_reference(request.name, "name")
        self._services.require(model, "name")
        get = partial(self._services.history.get, reference)
        revision = await calls.call(self._services.pools.calls, get)
        return pb.GetRevisionResponse(revision=convert.revision_message(revision))

    async def ListRevisions(
        self, request: pb.ListRevisionsRequest, _context: Context
    ) -> pb.ListRevisionsResponse:
        """A branch's revisions, newest first."""
        self._require(request.parent)
        branch = self._services.branch(request.branch, "branch")
        query = ("revisions", request.parent, branch)
        page = await calls.call(
            self._services.pools.calls,
            partial(
                self._services.history.list,
                branch,
                page_size=values.page_size(request.page_size),
                page_token=pages.place(request.page_token, *query),
            ),
        )
        return pb.ListRevisionsResponse(
            revisions=[convert.revision_message(revision) for revision in page.items],
            next_page_token=pages.token(page.next_token, *query),
        )

    async def DiffRevisions(
        self, request: pb.DiffRevisionsRequest, _context: Context
    ) -> pb.DiffRevisionsResponse:
        """Which edits two revisions differ by."""
        self._require(request.parent)
        # "from" is a keyword, so Python can name the field in no other way.
        start = self._services.reference(getattr(request, "from"), "from")
        end = self._services.reference(request.to, "to")
        diff = await calls.call(
            self._services.pools.calls, partial(self._services.history.diff, start, end)
        )
        return convert.diff_message(diff)

    async def WatchRevisions(
        self, request: pb.WatchRevisionsRequest, _context: Context
    ) -> AsyncIterator[pb.WatchRevisionsResponse]:
        """Every revision from a sequence on, as it is committed, until the server stops."""
        self._require(request.parent)
        branch = self._services.branch(request.branch, "branch")
        following = values.count(request.start_sequence, "start_sequence")
        while not self._stopping.is_set():
            watch = partial(self._services.history.watch, branch, following, timeout=POLL_SECONDS)
            for revision in await calls.call(self._services.pools.waits, watch):
                following = revision.sequence + 1
                yield pb.WatchRevisionsResponse(revision=convert.revision_message(revision))

    async def ListBranches(
        self, request: pb.ListBranchesRequest, _context: Context
    ) -> pb.ListBranchesResponse:
        """The model's branches by name."""
        self._require(request.parent)
        query = ("branches", request.parent)
        page = await calls.call(
            self._services.pools.calls,
            partial(
                self._services.history.branches,
                page_size=values.page_size(request.page_size),
                page_token=pages.place(request.page_token, *query),
            ),
        )
        return pb.ListBranchesResponse(
            branches=[convert.branch_message(branch.head) for branch in page.items],
            next_page_token=pages.token(page.next_token, *query),
        )

    async def CreateBranch(
        self, request: pb.CreateBranchRequest, _context: Context
    ) -> pb.CreateBranchResponse:
        """Begin a branch at any revision."""
        self._require(request.parent)
        create = partial(
            self._services.branches.create,
            BranchName(request.branch),
            _call(request),
            start=self._reference(request.start, "start"),
            validate_only=request.validate_only,
        )
        pinned = await calls.call(self._services.pools.calls, create)
        return pb.CreateBranchResponse(branch=convert.branch_message(pinned.revision))

    async def PromoteBranch(
        self, request: pb.PromoteBranchRequest, _context: Context
    ) -> pb.PromoteBranchResponse:
        """Move a branch forward to another, and begin to verify what is live if it was much."""
        self._require(request.parent)
        target, call = names.branch_name(request.target, "target"), _call(request)
        promote = partial(
            self._services.branches.promote,
            names.given_branch(request.source, "source"),
            target,
            call,
            expected=self._reference(request.expected_revision, "expected_revision"),
            validate_only=request.validate_only,
        )
        pinned = await calls.call(self._services.pools.calls, promote)
        committed = target == MAIN and not request.validate_only
        changed = len(pinned.revision.edits) if committed else 0
        verify = partial(self._services.upkeep.live_edits.after_change, changed, call)
        verification = await calls.call(self._services.pools.calls, verify)
        return pb.PromoteBranchResponse(
            revision=convert.revision_message(pinned.revision),
            served=convert.served(pinned),
            live_verification=names.operation_name(verification) if verification else "",
        )

    async def SetBranchProtection(
        self, request: pb.SetBranchProtectionRequest, _context: Context
    ) -> pb.SetBranchProtectionResponse:
        """Let a branch ask for approvals from now on, or no longer."""
        model, branch = names.branch_of(request.name, "name")
        self._services.require(model, "name")
        protect = partial(
            self._services.branches.protect,
            branch,
            _call(request),
            protected=request.protected,
            expected=self._reference(request.expected_revision, "expected_revision"),
            validate_only=request.validate_only,
        )
        pinned = await calls.call(self._services.pools.calls, protect)
        return pb.SetBranchProtectionResponse(branch=convert.branch_message(pinned.revision))

    async def AuditLedger(
        self, request: pb.AuditLedgerRequest, _context: Context
    ) -> pb.AuditLedgerResponse:
        """Recompute everything the ledger and this server vouch for."""
        self._require(request.parent)
        view = await calls.call(self._services.pools.calls, self._services.history.audit)
        return audits.audit_message(view)

    async def GetCheckpoint(
        self, request: pb.GetCheckpointRequest, _context: Context
    ) -> pb.GetCheckpointResponse:
        """The size and root of the model's log."""
        self._require(request.parent)
        size = values.count(request.size, "size")
        view = await self._log(partial(self._services.log.checkpoint, size))
        return pb.GetCheckpointResponse(checkpoint=logs.checkpoint_message(view))

    async def GetInclusionProof(
        self, request: pb.GetInclusionProofRequest, _context: Context
    ) -> pb.GetInclusionProofResponse:
        """What proves that an edit, a report or a revision is in the log."""
        model, kind, key = logs.logged_name(request.name, "name")
        self._services.require(model, "name")
        if kind is LogKind.REVISION:
            get = partial(self._services.history.get, key)
            key = (await calls.call(self._services.pools.calls, get)).id
        size = values.count(request.size, "size")
        view = await self._log(partial(self._services.log.inclusion, kind, key, size))
        return logs.inclusion_message(view)

    async def GetConsistencyProof(
        self, request: pb.GetConsistencyProofRequest, _context: Context
    ) -> pb.GetConsistencyProofResponse:
        """What proves that the log only grew between two of its sizes."""
        self._require(request.parent)
        first = values.count(request.first_size, "first_size")
        second = values.count(request.second_size, "second_size")
        view = await self._log(partial(self._services.log.consistency, first, second))
        return logs.consistency_message(view)

    async def ListLogEntries(
        self, request: pb.ListLogEntriesRequest, _context: Context
    ) -> pb.ListLogEntriesResponse:
        """The log's entries, oldest first."""
        self._require(request.parent)
        query = ("log_entries", request.parent)
        page = await self._log(
            partial(
                self._services.log.entries,
                page_size=values.page_size(request.page_size),
                page_token=pages.place(request.page_token, *query),
            )
        )
        return pb.ListLogEntriesResponse(
            entries=[logs.entry_message(entry) for entry in page.items],
            next_page_token=pages.token(page.next_token, *query),
        )

    async def _log(self, ask: Callable[[], T]) -> T:
        return await calls.call(self._services.pools.calls, ask)

    def _require(self, parent: str) -> None:
        self._services.require(names.model_id(parent, "parent"), "parent")

    def _reference(self, name: str, field: str) -> str:
        return self._services.reference(name, field) if name else ""


def _call(
    request: pb.CreateBranchRequest | pb.PromoteBranchRequest | pb.SetBranchProtectionRequest,
) -> Call:
    return convert_calls.call(
        actor=request.actor,
        request_id=request.request_id,
        reason=request.reason,
        ticket=request.ticket,
    )
