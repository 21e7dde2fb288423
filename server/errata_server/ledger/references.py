"""Finding a revision by what people write: an id, its beginning, a number, a branch.

Invariant: a reference names one revision or is refused; it is never guessed.
"""

from typing import Final

from sqlalchemy import ColumnElement, Connection, select

from errata_server.domain.errors import RevisionNotFoundError
from errata_server.domain.ids import MAIN, BranchName, ModelId, RevisionId
from errata_server.domain.revisions import Revision
from errata_server.ledger import models, revisions, tables

HEX_DIGITS: Final = frozenset("0123456789abcdef")
FULL_LENGTH: Final = 64
SHORTEST_PREFIX: Final = 6
MOST_DIGITS: Final = 9
"""Decimal digits of a sequence; more do not fit the column."""


def by_id(connection: Connection, model: ModelId, identifier: RevisionId) -> Revision:
    """The revision of this full id.

    Raises:
        ModelNotFoundError: the ledger does not know the model.
        RevisionNotFoundError: the model has no such revision.
        LedgerCorruptError: its bytes are not what its id says.
    """
    found = _where(connection, model, tables.revisions.c.id == identifier)
    if not found:
        raise _missing(connection, model, identifier)
    return found[0]


def find(connection: Connection, model: ModelId, reference: str) -> Revision:
    """The revision ``reference`` names.

    In this order: a full id; ``branch@sequence``; a sequence of the main branch; a branch,
    for its head; the beginning of one revision's id, of 6 digits or more.

    Raises:
        ModelNotFoundError: the ledger does not know the model.
        RevisionNotFoundError: it names none, or a beginning more than one.
        LedgerCorruptError: its bytes are not what its id says.
    """
    branch, at, sequence = reference.rpartition("@")
    if at and _is_sequence(sequence):
        found = _at(connection, model, BranchName(branch), int(sequence))
    else:
        found = _at(connection, model, MAIN, int(reference)) if _is_sequence(reference) else []
        found = found or _head(connection, model, BranchName(reference))
        found = found or _beginning(connection, model, reference.lower())
    if not found:
        raise _missing(connection, model, reference)
    if len(found) > 1:
        raise RevisionNotFoundError(
            f"{reference!r} is the beginning of more than one revision's id; write more of it",
            revision=reference,
        )
    return found[0]


def _is_sequence(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS


def _at(
    connection: Connection, model: ModelId, branch: BranchName, sequence: int
) -> list[Revision]:
    columns = tables.revisions.c
    return _where(connection, model, columns.branch == branch, columns.sequence == sequence)


def _head(connection: Connection, model: ModelId, branch: BranchName) -> list[Revision]:
    columns = tables.branches.c
    head = select(columns.head).where(columns.model == model, columns.name == branch)
    return _where(connection, model, tables.revisions.c.id == head.scalar_subquery())


def _beginning(connection: Connection, model: ModelId, prefix: str) -> list[Revision]:
    if not (SHORTEST_PREFIX <= len(prefix) <= FULL_LENGTH and HEX_DIGITS.issuperset(prefix)):
        return []
    # "g" follows every hex digit, so the primary key's index finds the span at once.
    column = tables.revisions.c.id
    return _where(connection, model, column >= prefix, column < f"{prefix}g")


def _where(
    connection: Connection, model: ModelId, *conditions: ColumnElement[bool]
) -> list[Revision]:
    statement = select(tables.revisions).where(tables.revisions.c.model == model, *conditions)
    return [revisions.read(row) for row in connection.execute(statement.limit(2))]


def _missing(connection: Connection, model: ModelId, reference: str) -> Exception:
    if models.find(connection, model) is None:
        return models.missing(model)
    return RevisionNotFoundError(
        f"model {model!r} has no revision {reference!r}; write an id or at least "
        f"{SHORTEST_PREFIX} digits of its beginning, a sequence number, a branch or "
        "branch@sequence",
        model=model,
        revision=reference,
    )
