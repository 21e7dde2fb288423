"""Statements on models and their profiles.

Invariants: a model's row is written once, with its genesis revision and its main branch;
whoever numbers a row of a model holds that model's row lock.
"""

from sqlalchemy import Connection, Table, func, insert, select, text

from errata_server.domain import canonical
from errata_server.domain.errors import (
    ModelMismatchError,
    ModelNotFoundError,
    NotFoundError,
)
from errata_server.domain.ids import Digest, ModelId, ProfileId
from errata_server.domain.log import LogKind
from errata_server.domain.profiles import ModelDescription, Profile
from errata_server.ledger import log, tables
from errata_server.ledger.bodies import StoredModel, read_body, short


def model_row(model: str) -> str:
    """How findings and errors name a row of `models`."""
    return f"models[{model}]"


def profile_row(profile: str) -> str:
    """How findings and errors name a row of `profiles`."""
    return f"profiles[{short(profile)}]"


def lock(connection: Connection, model: ModelId) -> Digest:
    """Hold ``model``'s row until the transaction ends; the digest of its checkpoint.

    Rows that refer to the model may still be inserted elsewhere meanwhile.

    Raises:
        ModelNotFoundError: the ledger does not know the model.
    """
    statement = select(tables.models.c.digest).where(tables.models.c.id == model)
    digest = connection.scalar(statement.with_for_update(key_share=True))
    if digest is None:
        raise missing(model)
    return Digest(digest)


def missing(model: ModelId) -> ModelNotFoundError:
    """The error for a model the ledger does not know."""
    return ModelNotFoundError(
        f"the ledger has no model {model!r}; start a server on it once, or check the name",
        model=model,
    )


def next_position(connection: Connection, table: Table, model: ModelId) -> int:
    """The number of the next row of ``model``; the caller holds `lock`."""
    highest = connection.scalar(select(func.max(table.c.position)).where(table.c.model == model))
    return 0 if highest is None else int(highest) + 1


def digest(connection: Connection, model: ModelId) -> Digest:
    """The digest of the model's checkpoint, without a lock.

    Raises:
        ModelNotFoundError: the ledger does not know the model.
    """
    found = connection.scalar(select(tables.models.c.digest).where(tables.models.c.id == model))
    if found is None:
        raise missing(model)
    return Digest(found)


def find(connection: Connection, model: ModelId) -> ModelDescription | None:
    """The model as the ledger first met it, if it has."""
    row = connection.execute(select(tables.models).where(tables.models.c.id == model)).one_or_none()
    if row is None:
        return None
    stored = read_body(model_row(model), row.body, row.body_digest, StoredModel.from_body)
    return stored.description


def get(connection: Connection, model: ModelId) -> ModelDescription:
    """The model as the ledger first met it.

    Raises:
        ModelNotFoundError: the ledger does not know it.
    """
    found = find(connection, model)
    if found is None:
        raise missing(model)
    return found


def add(connection: Connection, model: ModelId, description: ModelDescription) -> bool:
    """Insert the model's row unless it is there; whether it was inserted.

    Raises:
        ModelMismatchError: it is there with another checkpoint.
    """
    if connection.dialect.name == "postgresql":
        # Nobody has a row to lock yet, so two servers that start together meet here.
        connection.execute(text("LOCK TABLE models IN SHARE ROW EXCLUSIVE MODE"))
    stored = find(connection, model)
    if stored is not None:
        require_same_checkpoint(model, stored=stored.digest, given=description.digest)
        return False
    body = StoredModel(model=model, description=description).body
    connection.execute(
        insert(tables.models).values(
            id=model,
            digest=description.digest,
            body_digest=canonical.digest(body),
            body=body,
        )
    )
    log.begin(connection, model, canonical.digest(body))
    return True


def require_same_checkpoint(model: ModelId, *, stored: Digest, given: Digest) -> None:
    """Do nothing if ``given`` is the checkpoint the ledger knows ``model`` by.

    Raises:
        ModelMismatchError: it is another one.
    """
    if stored != given:
        raise ModelMismatchError(
            f"this ledger's model {model!r} has the checkpoint digest {short(stored)}, not "
            f"{short(given)}; load the checkpoint its history belongs to, or give this one "
            "another model name or another ledger",
            model=model,
            stored=stored,
            given=given,
        )


def add_profile(connection: Connection, model: ModelId, profile: Profile) -> None:
    """Make ``profile`` the latest of ``model``, unless it is already."""
    require_same_checkpoint(model, stored=lock(connection, model), given=profile.model_digest)
    latest = latest_profile(connection, model)
    if latest is not None and latest.id == profile.id:
        return
    position = next_position(connection, tables.profiles, model)
    connection.execute(
        insert(tables.profiles).values(
            model=model, position=position, id=profile.id, body=profile.body
        )
    )
    log.append(connection, model, LogKind.PROFILE, position, Digest(profile.id))


def profile(connection: Connection, identifier: ProfileId) -> Profile:
    """The profile of this id.

    Raises:
        NotFoundError: the ledger does not hold it.
        LedgerCorruptError: its bytes are not what its id says.
    """
    columns = tables.profiles.c
    body = connection.scalar(
        select(columns.body)
        .where(columns.id == identifier)
        .order_by(columns.model, columns.position)
        .limit(1)
    )
    if body is None:
        raise NotFoundError(
            f"the ledger has no profile {identifier!r}; calibrate the model, or check the id",
            profile=identifier,
        )
    return read_body(profile_row(identifier), body, identifier, Profile.from_body)


def latest_profile(connection: Connection, model: ModelId) -> Profile | None:
    """The profile stored last for ``model``, if there is one."""
    columns = tables.profiles.c
    row = connection.execute(
        select(columns.id, columns.body)
        .where(columns.model == model)
        .order_by(columns.position.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        return None
    return read_body(profile_row(row.id), row.body, row.id, Profile.from_body)


def has_profile(connection: Connection, model: ModelId, identifier: ProfileId) -> bool:
    """Whether ``model`` has ever had this profile."""
    columns = tables.profiles.c
    statement = select(columns.position).where(columns.model == model, columns.id == identifier)
    return connection.scalar(statement.limit(1)) is not None
