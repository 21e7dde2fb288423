"""LedgerService: read, follow and audit the history of what is served."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

from errata.v1 import ledger_pb2 as pb
from errata.v1 import ledger_pb2_grpc
from errata_server.rpc import calls, waiting
from errata_server.rpc.convert import audits, names, pages, values
from errata_server.rpc.convert import revisions as convert
from errata_server.rpc.services import Context, Services

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

    async def AuditLedger(
        self, request: pb.AuditLedgerRequest, _context: Context
    ) -> pb.AuditLedgerResponse:
        """Recompute everything the ledger and this server vouch for."""
        self._require(request.parent)
        view = await calls.call(self._services.pools.calls, self._services.history.audit)
        return audits.audit_message(view)

    def _require(self, parent: str) -> None:
        self._services.require(names.model_id(parent, "parent"), "parent")
