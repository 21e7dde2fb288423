"""The composition root: the only module that imports every layer.

Invariants: health says SERVING only after the ledger has been replayed and its digests
agree; what was opened is closed in the opposite order; the lease is given up once nothing runs
under it; nothing here decides anything about edits.
"""

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final
from wsgiref.simple_server import WSGIServer

import structlog
from prometheus_client import start_http_server

from errata_server import files, telemetry
from errata_server.config import BUNDLED, Settings, split_address
from errata_server.domain import canonical
from errata_server.domain.errors import (
    ErrataError,
    InvalidInputError,
    UnavailableError,
    UnsupportedModelError,
)
from errata_server.domain.ids import MAIN, BranchName, ModelId
from errata_server.domain.operations import ReportProgress
from errata_server.domain.patches import Composition
from errata_server.domain.profiles import Profile
from errata_server.domain.revisions import Revision
from errata_server.ledger.database import Database
from errata_server.ledger.leases import Leases
from errata_server.ledger.ledger import Ledger
from errata_server.ledger.migrate import migrate
from errata_server.ledger.models import require_same_checkpoint
from errata_server.ledger.wakeups import Listener
from errata_server.rpc.assembly import Sources, services_over
from errata_server.rpc.server import Limits, RpcServer
from errata_server.rpc.services import Services
from errata_server.service.leases import LeaseKeeper
from errata_server.service.opening import Opening
from errata_server.service.operations import Operations
from errata_server.service.plans import Planner
from errata_server.service.ports import Engine
from errata_server.service.serving import Serving
from errata_server.service.standing import Standing
from errata_server.service.views import Pinned
from errata_server.signing import SigningKey, TrustedKeys
from errata_server.version import VERSION

LOOPBACK: Final = "127.0.0.1"
_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What a server that has begun to serve says of itself."""

    address: str
    metrics: str
    """URL of the metrics, empty where they are not served."""

    pid: int
    model: ModelId
    branch: str
    revision: str
    sequence: int

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(
            {
                "event": "ready",
                "address": self.address,
                "metrics": self.metrics,
                "pid": self.pid,
                "model": self.model,
                "branch": self.branch,
                "revision": self.revision,
                "sequence": self.sequence,
            }
        )


class App:
    """A server from its start to its end."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        database: Database,
        services: Services,
        join: Callable[[], None],
    ) -> None:
        """Put together what has been opened; ``join`` is what the ledger is asked for first."""
        self._settings = settings
        self._join = join
        self._engine = engine
        self._database = database
        self._services = services
        self._rpc: RpcServer | None = None
        self._metrics: WSGIServer | None = None
        self._opening = Opening(
            services.serving,
            services.operations.lease,
            Listener(settings.ledger, services.model),
        )
        self._stopping = False
        self._telling: asyncio.Task[None] | None = None
        self._replaying: asyncio.Future[Pinned] | None = None

    async def start(self) -> Ready:
        """Listen, replay the ledger, then say SERVING.

        A replica waits for a database that is away, and for weights that agree.

        Raises:
            UnavailableError: the address or the database cannot be had, or `stop` came first.
            LedgerCorruptError: the composed weights are not what the head vouches for.
            NotFoundError: a replica's model or branch is not in the ledger.
        """
        settings = self._settings
        limits = Limits(
            max_message_bytes=settings.max_message_bytes,
            max_concurrent_rpcs=settings.max_concurrent_rpcs,
        )
        self._rpc = RpcServer(self._services, limits)
        address = await self._rpc.listen(settings.listen)
        metrics = self._serve_metrics()
        pinned = await self._replayed(self._rpc, address)
        self._opening.follow()
        await self._rpc.open()
        ready = Ready(
            address=address,
            metrics=metrics,
            pid=os.getpid(),
            model=self._services.model,
            branch=pinned.revision.branch,
            revision=pinned.revision.id,
            sequence=pinned.revision.sequence,
        )
        _log.info("ready", sequence=ready.sequence, replica=bool(settings.follow))
        if settings.ready_file is not None:
            _write_whole(settings.ready_file, ready.to_json())
        return ready

    async def _replayed(self, rpc: RpcServer, address: str) -> Pinned:
        """The head that is served, while health is told of every change."""
        loop, standing = asyncio.get_running_loop(), self._services.serving.standing

        def tell() -> None:
            self._telling = loop.create_task(rpc.tell())

        def changed() -> None:
            if not self._stopping:
                loop.call_soon_threadsafe(tell)

        def refused() -> None:  # nothing but its examination is let through
            asyncio.run_coroutine_threadsafe(rpc.open(), loop).result()

        def prepare() -> None:
            self._join()
            # Before any call can start an operation that this would take for an abandoned one.
            self._services.operations.lease.start(_advertised(self._settings, address))

        standing.on_change(changed)
        replay = asyncio.to_thread(self._opening.replay, prepare, refused)
        self._replaying = asyncio.ensure_future(replay)
        return await self._replaying

    async def serve_until_stopped(self, announce: Callable[[Ready], None]) -> None:
        """Start, ``announce`` it, serve until SIGTERM or SIGINT, and drain.

        Raises:
            ErrataError: what `start` raises.
        """
        asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, asked.set)
        starting = asyncio.create_task(self.start())
        waiting = asyncio.create_task(asked.wait())
        try:
            await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                announce(starting.result())
                await waiting
            else:  # a replica may be waiting for its database
                self._opening.stop()
                await asyncio.wait({starting})
        finally:
            waiting.cancel()
            await self.stop(self._settings.drain_seconds)

    async def stop(self, grace: float) -> None:
        """Drain for at most ``grace`` seconds, then close everything."""
        _log.info("stopping", grace=grace)
        self._stopping = True
        self._opening.stop()
        if self._replaying is not None:
            await asyncio.wait({self._replaying})
        # Side by side: a client may be waiting for an operation that is still running.
        ended = asyncio.to_thread(self._services.operations.close, grace)
        if self._rpc is None:
            await ended
        else:
            await asyncio.gather(self._rpc.stop(grace), ended)
        await asyncio.to_thread(self._close)
        _log.info("stopped")

    def _serve_metrics(self) -> str:
        port = self._settings.metrics_port
        if port is None:
            return ""
        host = LOOPBACK
        if self._settings.insecure and not self._settings.listen.startswith("unix:"):
            host, _ = split_address(self._settings.listen)
        try:
            self._metrics, _ = start_http_server(port, addr=host, registry=telemetry.REGISTRY)
        except OSError as error:
            raise UnavailableError(
                f"cannot serve metrics on port {port}; is another server using it?", port=port
            ) from error
        return f"http://{host}:{self._metrics.server_port}/metrics"

    def _close(self) -> None:
        if self._metrics is not None:
            self._metrics.shutdown()
            self._metrics.server_close()
        self._opening.close()
        self._services.operations.lease.release()
        self._services.pools.close()
        self._engine.close()
        self._database.close()


def build(settings: Settings) -> App:
    """A server over the model and the ledger that ``settings`` name; loads the model.

    Raises:
        UnsupportedModelError: the model cannot be loaded or edited.
        SchemaMismatchError: the ledger must be migrated first.
        ModelMismatchError: the ledger's history belongs to another checkpoint.
        LedgerUnavailableError: the database does not answer.
        InvalidInputError: a file is missing or malformed.
    """
    if settings.ready_file is not None:  # before the model is loaded
        _require_folder(settings.ready_file)
    database = open_ledger(settings)
    try:
        if not settings.follow:
            database.claim()
        return assemble(settings, load_engine(settings), database)
    except BaseException:
        database.close()
        raise


def assemble(settings: Settings, engine: Engine, database: Database) -> App:
    """A server over an engine that is loaded and a ledger that is open.

    Raises:
        ModelMismatchError: the ledger's history belongs to another checkpoint.
        InvalidInputError: a file is missing or malformed.
    """
    policy = files.read_policy(settings.policy)
    known_facts = files.read_known_facts(settings.known_facts)
    texts = files.read_texts(settings.texts)
    ledger, model = Ledger(database), settings.model_id
    if not settings.follow:
        register(ledger, model, engine, policy.composition)
        adopt_profile(ledger, model, engine, bundled=settings.model == BUNDLED)
    telemetry.describe_build(VERSION)
    telemetry.describe_model(engine.describe())
    planner = Planner(known_facts=known_facts, drift_texts=texts.drift, policy=policy)
    standing = Standing(BranchName(settings.follow) or MAIN, replica=bool(settings.follow))
    lease = LeaseKeeper(
        Leases(database),
        model,
        now=_now,
        seconds=settings.lease_seconds,
        sole=database.claimed,
        replica=standing.replica,
    )
    serving = Serving(engine, ledger, model, standing=standing)
    operations = Operations(ledger, model, now=_now, lease=lease)
    sources = Sources(
        planner=planner,
        corpus=texts.corpus,
        keys=TrustedKeys.read(settings.trusted_keys, required=settings.require_signatures),
        signing=None if settings.signing_key is None else SigningKey.read(settings.signing_key),
    )
    services = services_over(settings, serving, operations, sources, now=_now)
    join = partial(_join, database, ledger, model, engine) if settings.follow else _nothing
    return App(settings, engine, database, services, join)


def _join(database: Database, ledger: Ledger, model: ModelId, engine: Engine) -> None:
    """Do nothing but read if a replica with this ``engine`` can follow the ledger's ``model``.

    Raises:
        SchemaMismatchError: the ledger must be migrated first.
        ModelNotFoundError: no server has made the model known yet.
        ModelMismatchError: the ledger's history belongs to another checkpoint.
        LedgerUnavailableError: the database does not answer.
    """
    database.check_schema()
    stored, given = ledger.model(model).digest, engine.describe().digest
    require_same_checkpoint(model, stored=stored, given=given)
    adopt_profile(ledger, model, engine, bundled=False)


def _nothing() -> None:
    """What a server that writes still has to do before its ledger is replayed."""


def _advertised(settings: Settings, address: str) -> str:
    """Where other servers send callers to this one, which listens at ``address``."""
    if settings.advertise or address.startswith("unix:"):
        return settings.advertise or address
    host, port = split_address(address)
    everywhere = host in {"0.0.0.0", "::"}  # noqa: S104 - read, not bound
    return f"{socket.gethostname()}:{port}" if everywhere else address


def open_ledger(settings: Settings) -> Database:
    """The ledger's database with the schema this server knows.

    A SQLite file belongs to one server that writes and is migrated by it; PostgreSQL may have
    others on it, so migrating is the operator's decision. A replica asks for nothing here, as
    its database may be away.

    Raises:
        SchemaMismatchError: the ledger must be migrated first, or is newer than this server.
        LedgerUnavailableError: the database does not answer.
        InvalidInputError: the URL is malformed.
    """
    if settings.follow:
        return Database(settings.ledger, read_only=True)
    if settings.ledger.startswith("sqlite"):
        migrate(settings.ledger)
    database = Database(settings.ledger)
    if network := database.network_filesystem():
        _log.warning("ledger on a network filesystem", filesystem=network)
    try:
        database.check_schema()
    except ErrataError:
        database.close()
        raise
    return database


def load_engine(settings: Settings) -> Engine:
    """The model of ``settings``, ready to answer.

    Raises:
        UnsupportedModelError: it cannot be loaded or edited.
    """
    source = settings.model
    if source == BUNDLED:
        source = str(files.BUNDLED_MODEL)
        if not files.BUNDLED_MODEL.is_dir():
            raise UnsupportedModelError(
                "this build of errata has no bundled model; name one with --model", model=BUNDLED
            )
    # Torch takes seconds to import; --help, migrate and the tests do without it.
    from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415

    from errata_server.engine.engine import load  # noqa: PLC0415

    disable_progress_bar()  # it would be drawn into the log
    return load(
        source,
        cache=settings.cache,
        device=settings.device,
        dtype=settings.dtype,
        texts=files.read_texts(settings.texts).corpus,
        subjects=files.read_known_facts(settings.known_facts).subjects,
    )


def calibrate(settings: Settings, seed: int, progress: ReportProgress) -> Profile:
    """Find a profile without a server, and keep it in the ledger for the next start.

    Raises:
        NotCalibratedError: the model knows too few of the known facts.
        ErrataError: what `build` raises.
    """
    known_facts = files.read_known_facts(settings.known_facts)
    policy = files.read_policy(settings.policy)
    database = open_ledger(settings)
    try:
        engine = load_engine(settings)
        try:
            ledger = Ledger(database)
            register(ledger, settings.model_id, engine, policy.composition)
            profile = engine.calibrate(known_facts, seed=seed, progress=progress)
            ledger.put_profile(settings.model_id, profile)
            return profile
        finally:
            engine.close()
    finally:
        database.close()


def collect_moments(settings: Settings, progress: ReportProgress) -> int:
    """Accumulate the second moment without a server; the number of tokens seen.

    Raises:
        ErrataError: the model cannot be loaded, or a file is malformed.
    """
    texts = files.read_texts(settings.texts).corpus
    engine = load_engine(settings)
    try:
        bundled = files.read_bundled_profile() if settings.model == BUNDLED else None
        if bundled is not None:
            engine.use_profile(bundled)
        return engine.collect_moments(texts, progress=progress)
    finally:
        engine.close()


def register(ledger: Ledger, model: ModelId, engine: Engine, composition: Composition) -> None:
    """Make the model known to the ledger, with the untouched base as its first revision.

    Raises:
        ModelMismatchError: the ledger's history belongs to another checkpoint.
    """
    description = engine.describe()
    request = {"method": "register", "model": model, "digest": description.digest}
    genesis = Revision.genesis(
        model=model,
        model_digest=description.digest,
        composition=composition,
        weights_digest=engine.compose((), ledger.artifact, composition).digest,
        request_digest=canonical.digest(canonical.encode(request)),
        created_at=_now(),
    )
    ledger.register_model(model, description, genesis=genesis)


def adopt_profile(ledger: Ledger, model: ModelId, engine: Engine, *, bundled: bool) -> None:
    """Let the engine use the ledger's latest profile, else the one that came with the model.

    Raises:
        ModelMismatchError: the bundled profile was made for another checkpoint.
    """
    profile = ledger.latest_profile(model)
    if profile is None and bundled:
        profile = files.read_bundled_profile()
        if profile is not None:
            ledger.put_profile(model, profile)
    if profile is not None:
        engine.use_profile(profile)


def _write_whole(path: Path, text: str) -> None:
    """Write ``text`` so that whoever sees the file sees all of it.

    Raises:
        InvalidInputError: the file cannot be written.
    """
    _require_folder(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        partial.write_text(f"{text}\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise InvalidInputError(
            f"cannot write {path}: {error.strerror or error}", field="ready_file"
        ) from error


def _require_folder(ready_file: Path) -> None:
    """Do nothing if there is a folder for ``ready_file``.

    Raises:
        InvalidInputError: there is none.
    """
    if not ready_file.parent.is_dir():
        raise InvalidInputError(
            f"cannot write {ready_file}: there is no folder {ready_file.parent}; make it, or name "
            "another file",
            field="ready_file",
        )


def _now() -> datetime:
    return datetime.now(UTC)
