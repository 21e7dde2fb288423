"""The log of one model: its Merkle tree, its checkpoints, and what proves a row to be in it.

Invariants: a leaf enters the tree only after the committed row it stands for has been read back
and hashed again, so nothing is signed that was not seen; the tree only grows, and a database
whose log no longer goes on from what was read is refused, never followed.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from errata_server import telemetry
from errata_server.domain.errors import (
    EditNotFoundError,
    InvalidInputError,
    LedgerCorruptError,
    ReportNotFoundError,
    RevisionNotFoundError,
)
from errata_server.domain.ids import Digest, ModelId
from errata_server.domain.ledger_checkpoints import LedgerCheckpoint
from errata_server.domain.log import LogEntry, LogKind
from errata_server.domain.merkle import MerkleTree
from errata_server.ledger.findings import Finding
from errata_server.ledger.ledger import Ledger
from errata_server.ledger.revisions import LARGEST
from errata_server.service.calls import page_limit
from errata_server.service.views import Page
from errata_server.signing import SigningKey


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointView:
    """A ledger checkpoint and the note that carries it."""

    checkpoint: LedgerCheckpoint
    note: str
    """Its text with the server's signature; the text alone where the server has no key."""

    key: str
    """Name and hash of the key that signed; empty where none did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InclusionView:
    """What proves one row to be in the log."""

    entry: LogEntry
    body: bytes
    """The row's own bytes, whose digest the entry holds."""

    hashes: tuple[bytes, ...]
    checkpoint: CheckpointView


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsistencyView:
    """What proves that a log only grew between two of its sizes."""

    first: CheckpointView
    second: CheckpointView
    hashes: tuple[bytes, ...]


@dataclass(slots=True, kw_only=True, eq=False)
class LedgerLog:
    """The log of the model that is served; safe to share between threads."""

    ledger: Ledger
    model: ModelId
    base: Digest
    key: SigningKey | None = None
    _tree: MerkleTree = field(default_factory=MerkleTree)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def checkpoint(self, size: int = 0) -> CheckpointView:
        """The log as it was with ``size`` entries; as it is now where 0.

        Raises:
            InvalidInputError: it never had so many.
            LedgerCorruptError: the log or a row of it is not what it was.
        """
        with self._lock:
            self._catch_up()
            return self._checkpoint(size or self._tree.size)

    def inclusion(self, kind: LogKind, key: str, size: int = 0) -> InclusionView:
        """What proves a row to be among the first ``size`` entries; all of them where 0.

        Raises:
            EditNotFoundError, ReportNotFoundError, RevisionNotFoundError: there is no such row.
            InvalidInputError: it came later, or the log never had so many entries.
            LedgerCorruptError: the log or a row of it is not what it was.
        """
        entry = self.ledger.log.find(self.model, kind, key)
        if entry is None:
            raise _missing(kind, key)
        with self._lock:
            self._catch_up()
            view = self._checkpoint(size or self._tree.size)
            if entry.position >= view.checkpoint.size:
                raise InvalidInputError(
                    f"the {kind} {key} is entry {entry.position} of the log, so no checkpoint of "
                    f"{view.checkpoint.size} entries can have it; ask for a later one",
                    field="size",
                    position=entry.position,
                    size=view.checkpoint.size,
                )
            hashes = tuple(self._tree.inclusion(entry.position, view.checkpoint.size))
        body = self.ledger.log.body(self.model, entry)
        return InclusionView(entry=entry, body=body, hashes=hashes, checkpoint=view)

    def consistency(self, first: int, second: int = 0) -> ConsistencyView:
        """What proves that the log with ``second`` entries (all where 0) goes on from ``first``.

        Raises:
            InvalidInputError: it never had so many, or ``first`` is the larger.
            LedgerCorruptError: the log or a row of it is not what it was.
        """
        with self._lock:
            self._catch_up()
            later = self._checkpoint(second or self._tree.size)
            earlier = self._checkpoint(first)
            if first > later.checkpoint.size:
                raise InvalidInputError(
                    f"first_size is {first}, more than second_size {later.checkpoint.size}; "
                    "exchange them",
                    field="first_size",
                )
            hashes = tuple(self._tree.consistency(first, later.checkpoint.size))
        return ConsistencyView(first=earlier, second=later, hashes=hashes)

    def entries(self, *, page_size: int = 0, page_token: str = "") -> Page[LogEntry]:
        """The log's entries, oldest first.

        Raises:
            InvalidInputError: the page size is negative or the token is none of ours.
        """
        limit = page_limit(page_size)
        if page_token and not (page_token.isascii() and page_token.isdigit()):
            raise InvalidInputError(
                f"page_token {page_token!r} is not one this server gave out; begin without one",
                field="page_token",
            )
        start = min(int(page_token or 0), LARGEST)
        found = self.ledger.log.entries(self.model, start=start, limit=limit + 1)
        more = len(found) > limit
        return Page(
            items=tuple(found[:limit]), next_token=str(found[limit].position) if more else ""
        )

    def compare(self, entries: Iterable[LogEntry]) -> tuple[Finding, ...]:
        """Whether the log as it is stored still begins with what this server has read of it."""
        with self._lock:
            known = self._tree.size
            position = 0
            for position, entry in enumerate(entries, start=1):
                if position > known:
                    return ()
                if entry.leaf_hash != self._tree.leaf(entry.position):
                    problem = "it is another one than this server has read and may have signed"
                    return (Finding(row=f"log_entries[#{entry.position}]", problem=problem),)
        if position < known:
            problem = f"missing; this server has read {known} entries and may have signed them"
            return (Finding(row=f"log_entries[#{position}..#{known - 1}]", problem=problem),)
        return ()

    def _checkpoint(self, size: int) -> CheckpointView:
        try:
            root = self._tree.root(size)
        except ValueError:
            raise InvalidInputError(
                f"the log has {self._tree.size} entries and never had {size}; ask for fewer",
                field="size",
                size=self._tree.size,
            ) from None
        checkpoint = LedgerCheckpoint(model=self.model, base=self.base, size=size, root=root)
        if self.key is None:
            return CheckpointView(checkpoint=checkpoint, note=checkpoint.text, key="")
        note = self.key.note(checkpoint.text)
        return CheckpointView(checkpoint=checkpoint, note=note, key=self.key.public.id)

    def _catch_up(self) -> None:
        """Read, hash and append what was committed since; the last entry known is read again."""
        known = self._tree.size
        found = self.ledger.log.verified(self.model, max(known - 1, 0))
        if not found or (known and found[0].leaf_hash != self._tree.leaf(known - 1)):
            raise LedgerCorruptError(
                f"the log no longer has the {known} entries this server has read: rows were cut "
                "off or written anew; stop writing to it and run `errata audit`",
                row=f"log_entries[#{max(known - 1, 0)}]",
                problem="missing or another one",
            )
        for entry in found[1:] if known else found:
            self._tree.append(entry.leaf_hash)
        telemetry.observe_log(self._tree.size)


def _missing(
    kind: LogKind, key: str
) -> EditNotFoundError | ReportNotFoundError | RevisionNotFoundError:
    problem = (
        f"the ledger has no {kind} {key!r}; use an id that `errata log` or `errata list` shows"
    )
    match kind:
        case LogKind.EDIT:
            return EditNotFoundError(problem, edit=key)
        case LogKind.REPORT:
            return ReportNotFoundError(problem, report=key)
        case _:
            return RevisionNotFoundError(problem, revision=key)
