"""Reading and auditing the history of what a branch serves.

Invariants: the ledger is asked, never the cache; a watcher sees every revision once and in
order, because it asks by sequence and a wake-up is only a hint.
"""

import time
from dataclasses import dataclass, field, replace
from typing import Final

from errata_server.domain.edits import AppliedEdit, Edit
from errata_server.domain.errors import (
    InvalidInputError,
    InvalidPatchError,
    LedgerCorruptError,
    ModelMismatchError,
    NotFoundError,
    UnavailableError,
)
from errata_server.domain.ids import MAIN, BranchName, Digest, ModelId
from errata_server.domain.revisions import Revision
from errata_server.domain.signatures import Statement
from errata_server.ledger.audit import AuditResult
from errata_server.ledger.findings import Finding
from errata_server.ledger.ledger import Ledger
from errata_server.ledger.revisions import Branch
from errata_server.service.calls import page_limit
from errata_server.service.edits import EditReader
from errata_server.service.ledger_log import LedgerLog
from errata_server.service.ports import Engine
from errata_server.service.serving import BASE_REFERENCE, Serving
from errata_server.service.views import Diff, Page, Pinned
from errata_server.signing import TrustedKeys

POLL_SECONDS: Final = 0.25
"""How often the ledger is asked for what other servers have committed."""

WATCH_LIMIT: Final = 500
"""Revisions a watcher gets at a time."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AuditView:
    """An audit of the ledger, and of what this server makes of it."""

    ledger: AuditResult
    served: Pinned
    served_digest_matches: bool
    """Whether the weights being served, those composed anew from the ledger's artifacts,
    and the digest in the revision are the same."""

    base_digest_matches: bool
    """Whether the base checkpoint's tensors are still those that were loaded."""

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong anywhere."""
        return self.ledger.clean and self.served_digest_matches and self.base_digest_matches


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class History:
    """The revisions of one model."""

    engine: Engine
    ledger: Ledger
    model: ModelId
    serving: Serving
    edits: EditReader
    log: LedgerLog
    keys: TrustedKeys = field(default_factory=TrustedKeys)

    def head(self, branch: BranchName = MAIN, *, min_sequence: int = 0) -> Revision:
        """The newest revision of a branch.

        Args:
            branch: Its name.
            min_sequence: The branch, and what is served of it where this server follows it,
                must have come this far.

        Raises:
            BranchNotFoundError: there is no such branch.
            UnavailableError: it has not come to ``min_sequence`` yet.
        """
        if min_sequence and self.serving.follows(branch):
            self.serving.at(branch, min_sequence)
        head = self.ledger.head(self.model, branch)
        if head.sequence < min_sequence:
            raise UnavailableError(
                f"{branch} is at sequence {head.sequence}, before {min_sequence}; retry after a "
                "while",
                branch=branch,
                sequence=head.sequence,
                min_sequence=min_sequence,
            )
        return head

    def get(self, reference: str) -> Revision:
        """The revision ``reference`` names; ``base`` is the first.

        Raises:
            RevisionNotFoundError: it names none, or more than one.
        """
        return self.ledger.find_revision(
            self.model, "0" if reference == BASE_REFERENCE else reference
        )

    def list(
        self, branch: BranchName = MAIN, *, page_size: int = 0, page_token: str = ""
    ) -> Page[Revision]:
        """A branch's revisions, newest first.

        Raises:
            BranchNotFoundError: there is no such branch.
            InvalidInputError: the page size is negative or the token is none of ours.
        """
        limit = page_limit(page_size)
        found = self.ledger.revisions(
            self.model, branch, before=_before(page_token), limit=limit + 1, newest_first=True
        )
        more = len(found) > limit
        return Page(
            items=tuple(found[:limit]), next_token=str(found[limit - 1].sequence) if more else ""
        )

    def branches(self, *, page_size: int = 0, page_token: str = "") -> Page[Branch]:
        """The model's branches by name.

        Raises:
            InvalidInputError: the page size is negative.
        """
        limit = page_limit(page_size)
        found = [b for b in self.ledger.branches(self.model) if b.name > page_token]
        more = len(found) > limit
        return Page(items=tuple(found[:limit]), next_token=found[limit - 1].name if more else "")

    def diff(self, start: str, end: str) -> Diff:
        """Which edits are active at ``end`` and not at ``start``, and the other way round.

        Raises:
            RevisionNotFoundError: one of them names no revision.
        """
        first, last = self.get(start), self.get(end)
        was, is_now = self._active(first), self._active(last)
        return Diff(
            start=first,
            end=last,
            added=self.edits.views((e.edit for e in is_now if e not in was), last.branch),
            removed=self.edits.views((e.edit for e in was if e not in is_now), last.branch),
            unchanged=sum(edit in was for edit in is_now),
        )

    def watch(
        self, branch: BranchName, start: int, *, timeout: float = 1.0
    ) -> tuple[Revision, ...]:
        """Revisions from sequence ``start`` on: those there are, or the next within ``timeout``.

        A watcher calls this again and again with the sequence after the last one it got.

        Raises:
            BranchNotFoundError: there is no such branch.
        """
        deadline = time.monotonic() + timeout
        wakeups = self.serving.wakeups
        while True:
            seen = wakeups.count
            found = self.ledger.revisions(self.model, branch, start=start, limit=WATCH_LIMIT)
            remaining = deadline - time.monotonic()
            if found or remaining <= 0:
                return tuple(found)
            wakeups.wait(seen, min(POLL_SECONDS, remaining))

    def audit(self) -> AuditView:
        """Recompute the chain, every digest, and the weights that are being served."""
        served = self._served()
        found = self.ledger.audit(self.model, objection=self._objection)
        return AuditView(
            ledger=replace(found, findings=(*found.findings, *self._changed_log())),
            served=served,
            served_digest_matches=served.weights.digest
            == served.revision.weights_digest
            == self._composed_anew(served.revision),
            base_digest_matches=self.engine.base_digest() == self.engine.describe().digest,
        )

    def _objection(self, edit: Edit) -> str:
        """What is wrong with the proposer's signature on ``edit``; empty if nothing."""
        if edit.signature is None:
            return ""
        statement = Statement(
            model=edit.model,
            base=self.log.base,
            proposer=edit.proposer,
            request=edit.request,
            request_id=edit.signature.request_id,
        )
        return self.keys.objection(edit.signature, statement)

    def _changed_log(self) -> tuple[Finding, ...]:
        """Where the stored log is no longer the one this server has read."""
        try:
            return self.log.compare(self.ledger.log.all_entries(self.model))
        except LedgerCorruptError:  # the ledger's own audit names that entry
            return ()

    def _served(self) -> Pinned:
        try:
            return self.serving.refresh()
        except (LedgerCorruptError, NotFoundError):  # the audit is to say so, not to fail of it
            return self.serving.held()

    def _composed_anew(self, revision: Revision) -> Digest | None:
        """The weights digest of ``revision`` from the ledger alone; None if it has none."""
        try:
            active = self.ledger.applied(self.model, revision.id, anew=True).active()
            patches = [edit.patch for edit in active]
            return self.engine.compose(patches, self.ledger.artifact, revision.composition).digest
        except (LedgerCorruptError, NotFoundError, InvalidPatchError, ModelMismatchError):
            return None

    def _active(self, revision: Revision) -> tuple[AppliedEdit, ...]:
        return self.ledger.applied(self.model, revision.id).active()


def _before(page_token: str) -> int | None:
    if not page_token:
        return None
    if not page_token.isascii() or not page_token.isdigit():
        raise InvalidInputError(
            f"page_token {page_token!r} is not one this server gave out; begin without one",
            field="page_token",
        )
    return int(page_token)
