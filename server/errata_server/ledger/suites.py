"""Statements on suites: versions of regression prompts under a name.

Invariants: a version is stored with its prompts in one transaction; versions of a name follow
each other under the model's row lock.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, and_, func, insert, select

from errata_server.domain import canonical
from errata_server.domain.errors import RequestIdReusedError, SuiteNotFoundError
from errata_server.domain.facts import CheckPrompt
from errata_server.domain.ids import ModelId, RequestId, SuiteName
from errata_server.domain.log import LogKind
from errata_server.domain.suites import SuiteVersion, encode_prompts
from errata_server.ledger import artifacts, log, models, tables
from errata_server.ledger.bodies import read_body
from errata_server.ledger.tables import RowsQuery, StoredRow


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSuite:
    """Prompts to be stored as the next version of a suite."""

    model: ModelId
    name: SuiteName
    prompts: tuple[CheckPrompt, ...]
    actor: str
    reason: str
    request_id: RequestId
    created_at: datetime


def suite_row(name: str, version: int) -> str:
    """How findings and errors name a row of `suites`."""
    return f"suites[{name}@{version}]"


def add(connection: Connection, new: NewSuite) -> SuiteVersion:
    """Store the next version, or return the one this request stored earlier.

    Raises:
        RequestIdReusedError: the request stored something else before.
    """
    models.lock(connection, new.model)
    payload = encode_prompts(new.prompts)
    columns = tables.suites.c
    statement = select(tables.suites).where(
        columns.model == new.model, columns.request_id == new.request_id
    )
    row = connection.execute(statement).one_or_none()
    if row is not None:
        return _repeated(_version(row), new, canonical.digest(payload))
    version = SuiteVersion(
        model=new.model,
        name=new.name,
        version=_next_version(connection, new.model, new.name),
        artifact=artifacts.put(connection, payload),
        prompts=len(new.prompts),
        actor=new.actor,
        reason=new.reason,
        request_id=new.request_id,
        created_at=new.created_at,
    )
    position = models.next_position(connection, tables.suites, version.model)
    connection.execute(
        insert(tables.suites).values(
            model=version.model,
            position=position,
            name=version.name,
            version=version.version,
            artifact=version.artifact,
            request_id=version.request_id,
            digest=canonical.digest(version.body),
            body=version.body,
        )
    )
    log.append(connection, version.model, LogKind.SUITE, position, canonical.digest(version.body))
    return version


def _next_version(connection: Connection, model: ModelId, name: SuiteName) -> int:
    columns = tables.suites.c
    statement = select(func.max(columns.version)).where(columns.model == model)
    return int(connection.scalar(statement.where(columns.name == name)) or 0) + 1


def _repeated(earlier: SuiteVersion, given: NewSuite, artifact: str) -> SuiteVersion:
    same = (earlier.name, earlier.artifact, earlier.actor, earlier.reason)
    if same != (given.name, artifact, given.actor, given.reason):
        raise RequestIdReusedError(
            f"the request id {given.request_id!r} stored {earlier.reference} before; use a new one",
            request_id=given.request_id,
            suite=earlier.reference,
        )
    return earlier


def get(
    connection: Connection, model: ModelId, name: SuiteName, version: int | None
) -> SuiteVersion:
    """A version of a suite, the latest where ``version`` is None.

    Raises:
        SuiteNotFoundError: there is none.
    """
    columns = tables.suites.c
    statement = select(tables.suites).where(columns.model == model, columns.name == name)
    if version is not None:
        statement = statement.where(columns.version == version)
    row = connection.execute(statement.order_by(columns.version.desc()).limit(1)).one_or_none()
    if row is None:
        shown = name if version is None else f"{name}@{version}"
        raise SuiteNotFoundError(
            f"the ledger has no suite {shown!r}; `errata suites` lists those it has", suite=shown
        )
    return _version(row)


def versions(connection: Connection, model: ModelId, name: SuiteName) -> list[SuiteVersion]:
    """Every version of a suite, newest first."""
    columns = tables.suites.c
    statement = select(tables.suites).where(columns.model == model, columns.name == name)
    return _all(connection, statement.order_by(columns.version.desc()))


def latest(connection: Connection, model: ModelId) -> list[SuiteVersion]:
    """The latest version of every suite, by name."""
    columns = tables.suites.c
    newest = (
        select(columns.name, func.max(columns.version).label("version"))
        .where(columns.model == model)
        .group_by(columns.name)
        .subquery()
    )
    same = and_(columns.name == newest.c.name, columns.version == newest.c.version)
    statement = select(tables.suites).join(newest, same).where(columns.model == model)
    # Sorted here: databases do not agree on the order of letters.
    return sorted(_all(connection, statement), key=lambda version: version.name)


def _all(connection: Connection, statement: RowsQuery) -> list[SuiteVersion]:
    return [_version(row) for row in connection.execute(statement)]


def _version(row: StoredRow) -> SuiteVersion:
    name = suite_row(row.name, row.version)
    return read_body(name, row.body, row.digest, SuiteVersion.from_body)
