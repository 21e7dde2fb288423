"""Entries of a model's log: one for every row that is part of its history, in commit order.

Invariant: a leaf is the canonical JSON of an entry's kind, key and digest, so that whoever has a
row's body can make the leaf that stands for it.
"""

from dataclasses import dataclass
from enum import StrEnum

from errata_server.domain import canonical, merkle
from errata_server.domain.ids import Digest


class LogKind(StrEnum):
    """What a row is that an entry stands for."""

    MODEL = "model"
    PROFILE = "profile"
    EDIT = "edit"
    REPORT = "report"
    APPROVAL = "approval"
    SUITE = "suite"
    REVISION = "revision"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One row's place in the log."""

    position: int
    kind: LogKind
    key: str
    """The row's id, or its position where it has none."""

    digest: Digest
    """Of the row's body."""

    @property
    def leaf(self) -> bytes:
        """What the tree's leaf is the hash of."""
        return canonical.encode({"kind": self.kind, "key": self.key, "digest": self.digest})

    @property
    def leaf_hash(self) -> bytes:
        """The entry as the tree has it."""
        return merkle.leaf_hash(self.leaf)
