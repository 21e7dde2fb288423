"""The composition root: what a server does on its way up and down."""

import asyncio
import json
import os
import sqlite3
import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy import text

from errata.v1 import ledger_pb2, ledger_pb2_grpc
from errata_server import app, files
from errata_server.config import load_settings
from errata_server.domain.errors import (
    InvalidInputError,
    LedgerCorruptError,
    LedgerUnavailableError,
    ModelMismatchError,
    ReadOnlyReplicaError,
    SchemaMismatchError,
    UnavailableError,
    UnsupportedModelError,
)
from errata_server.domain.ids import MAIN
from errata_server.ledger.ledger import Ledger
from tests.support import MODEL
from tests.support.doubtful_engine import doubtful_engine
from tests.support.loopback import serving
from tests.support.scripted_engine import ScriptedEngine
from tests.support.services import scripted_engine
from tests.support.wire import PARENT


def settings_for(folder, **given):
    return load_settings(
        model="scripted",
        model_id=MODEL,
        ledger=f"sqlite:///{folder / 'ledger.db'}",
        listen="127.0.0.1:0",
        **given,
    )


def test_a_sqlite_ledger_is_made_and_migrated_on_the_way_up(tmp_path):
    database = app.open_ledger(settings_for(tmp_path))

    with database.reading():
        assert (tmp_path / "ledger.db").exists()
    database.close()


def test_a_postgresql_ledger_is_migrated_by_its_operator_alone(empty_url):
    settings = load_settings(ledger=empty_url)

    if empty_url.startswith("sqlite"):
        app.open_ledger(settings).close()
    else:
        with pytest.raises(SchemaMismatchError, match="errata-server migrate"):
            app.open_ledger(settings)


def test_the_base_model_is_the_first_revision_and_stays_the_same_at_every_start(tmp_path):
    heads = []
    for _ in range(2):
        database = app.open_ledger(settings_for(tmp_path))
        server = app.assemble(settings_for(tmp_path), scripted_engine(), database)
        heads.append(Ledger(database).head(MODEL, MAIN).id)
        server._close()

    assert heads[0] == heads[1]


def test_a_ledger_of_another_checkpoint_is_refused(tmp_path):
    database = app.open_ledger(settings_for(tmp_path))
    app.assemble(settings_for(tmp_path), scripted_engine(), database)

    with pytest.raises(ModelMismatchError):
        app.assemble(settings_for(tmp_path), ScriptedEngine(base={"a": "b"}), database)

    database.close()


def test_the_ledger_s_latest_profile_is_used(tmp_path):
    database = app.open_ledger(settings_for(tmp_path))
    first = scripted_engine()
    profile = first.profile
    assert profile is not None
    app.assemble(settings_for(tmp_path), first, database)
    Ledger(database).put_profile(MODEL, profile)
    second = scripted_engine()
    second.uncalibrate()

    app.assemble(settings_for(tmp_path), second, database)

    assert second.profile == profile
    database.close()


def test_a_ready_file_says_where_the_server_is(tmp_path):
    path = tmp_path / "ready.json"

    with serving(tmp_path, metrics_port=0, ready_file=path) as ready:
        said = json.loads(path.read_text())

    assert said["address"] == ready.address
    assert said["metrics"] == ready.metrics
    assert said["pid"] == os.getpid()
    assert (said["event"], said["model"], said["sequence"]) == ("ready", MODEL, 0)


def test_a_ready_file_that_cannot_be_written_is_named(tmp_path):
    path = tmp_path / "missing" / "ready.json"

    with (
        pytest.raises(InvalidInputError, match="cannot write"),
        serving(tmp_path, ready_file=path),
    ):
        pass


def test_a_ready_file_without_a_folder_is_refused_before_the_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(app, "load_engine", lambda _: pytest.fail("the model was loaded"))
    settings = settings_for(tmp_path, ready_file=tmp_path / "missing" / "ready.json")

    with pytest.raises(InvalidInputError, match="there is no folder .*missing; make it"):
        app.build(settings)


def test_a_ledger_whose_head_vouches_for_other_weights_is_not_served(tmp_path):
    with serving(tmp_path):
        pass
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type='trigger'"):
            database.execute(f'DROP TRIGGER "{trigger}"')
        database.execute(
            "UPDATE revisions SET body = "
            "CAST(replace(CAST(body AS TEXT), 'untouched', 'tampered') AS BLOB)"
        )
    database.close()

    with pytest.raises(LedgerCorruptError), serving(tmp_path):
        pass


async def test_a_server_refuses_work_until_the_ledger_is_replayed(tmp_path):
    settings = settings_for(tmp_path).model_copy(update={"listen": f"unix:{tmp_path / 's'}"})
    engine, replaying, go_on = scripted_engine(), threading.Event(), threading.Event()
    server = app.assemble(settings, engine, app.open_ledger(settings))

    def hold():
        replaying.set()
        go_on.wait(20)

    engine.interludes["compose"] = hold
    starting = asyncio.create_task(server.start())
    assert await asyncio.to_thread(replaying.wait, 20)

    async with grpc.aio.insecure_channel(settings.listen) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        early = await stub.Check(health_pb2.HealthCheckRequest())
        head = ledger_pb2_grpc.LedgerServiceStub(channel).GetHead
        request = ledger_pb2.GetHeadRequest(parent=PARENT)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await head(request)
        go_on.set()
        await starting
        late = await stub.Check(health_pb2.HealthCheckRequest())
        answer = await head(request)
    await server.stop(1.0)

    assert early.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert late.status == health_pb2.HealthCheckResponse.SERVING
    assert answer.revision.sequence == 0


def test_a_build_without_a_bundled_model_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BUNDLED_MODEL", tmp_path / "none")

    with pytest.raises(UnsupportedModelError, match="name one with --model"):
        app.load_engine(load_settings(ledger=f"sqlite:///{tmp_path / 'l.db'}"))


def following(folder, engine=None, **given):
    """A replica of the ledger in ``folder``, put together and not started."""
    settings = settings_for(folder, follow="main", **given)
    return app.assemble(settings, engine or scripted_engine(), app.open_ledger(settings))


async def test_a_replica_waits_for_a_ledger_that_is_away(tmp_path):
    with serving(tmp_path):
        pass
    ledger = (tmp_path / "ledger.db").rename(tmp_path / "away.db")
    server = following(tmp_path)
    starting = asyncio.create_task(server.start())
    await asyncio.sleep(0.3)
    made = (tmp_path / "ledger.db").exists()
    waited = not starting.done()

    ledger.rename(tmp_path / "ledger.db")
    ready = await asyncio.wait_for(starting, 60)
    await server.stop(0)
    assert waited
    assert not made

    assert (ready.branch, ready.sequence) == ("main", 0)


async def test_a_replica_that_waits_can_be_stopped(tmp_path):
    server = following(tmp_path)
    starting = asyncio.create_task(server.start())
    await asyncio.sleep(0.3)

    await server.stop(0)

    with pytest.raises(UnavailableError, match="told to stop"):
        await starting


def test_a_replica_writes_nothing(tmp_path):
    with serving(tmp_path):
        pass
    server = following(tmp_path)

    with pytest.raises(ReadOnlyReplicaError):
        server._services.changes.ledger.put_artifact(b"x")
    with pytest.raises(LedgerUnavailableError), server._database.reading() as connection:
        connection.execute(text("INSERT INTO artifacts VALUES ('a', 'b')"))
    server._close()


async def test_a_replica_that_differs_at_once_is_not_ready_until_it_agrees(tmp_path):
    with serving(tmp_path):
        pass
    engine = doubtful_engine(wrong=True)
    server = following(tmp_path, engine)
    address = f"unix:{tmp_path / 's'}"
    server._settings = server._settings.model_copy(update={"listen": address})
    starting = asyncio.create_task(server.start())
    async with grpc.aio.insecure_channel(address) as channel:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        audit = await _patiently(
            lambda: stub.AuditLedger(ledger_pb2.AuditLedgerRequest(parent=PARENT))
        )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetHead(ledger_pb2.GetHeadRequest(parent=PARENT))
        check = health_pb2_grpc.HealthStub(channel).Check
        early = await check(health_pb2.HealthCheckRequest())
        assert not starting.done()
        engine.wrong = False
        await asyncio.wait_for(starting, 60)
        late = await check(health_pb2.HealthCheckRequest())
    await server.stop(0)

    assert not audit.served_digest_matches
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "QUARANTINED" in str(refused.value.trailing_metadata())
    assert early.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert late.status == health_pb2.HealthCheckResponse.SERVING


async def _patiently(ask):
    """The answer of ``ask`` once the server answers such calls."""
    for _ in range(200):
        try:
            return await ask()
        except grpc.aio.AioRpcError:
            await asyncio.sleep(0.05)
    return await ask()
