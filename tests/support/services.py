"""Every use case wired to a real ledger and the scripted engine, as `app` wires the server."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Final

from errata_server.config import Settings
from errata_server.domain import canonical
from errata_server.domain.edits import Edit
from errata_server.domain.facts import EditRequest
from errata_server.domain.ids import MAIN, Digest, EditId, RequestId
from errata_server.domain.operations import Operation, OperationState
from errata_server.domain.patches import Composition
from errata_server.domain.policies import Policy
from errata_server.domain.revisions import Revision
from errata_server.ledger.database import Database
from errata_server.ledger.leases import Leases
from errata_server.ledger.ledger import Ledger
from errata_server.rpc import services as rpc
from errata_server.rpc.assembly import Sources, services_over
from errata_server.service.calls import Call
from errata_server.service.leases import LeaseKeeper
from errata_server.service.operations import Operations
from errata_server.service.plans import Planner
from errata_server.service.serving import Serving
from errata_server.signing import SigningKey, TrustedKeys
from tests.support import MODEL, NOON, edit_request, known_facts
from tests.support.scripted_engine import ScriptedEngine, answers_of

DRIFT_TEXTS: Final = ("The river was low that year. People walked across it.", "Snow fell early.")
TRACE_MEMORY_MIB: Final = 256
PATIENCE: Final = 20.0
"""Seconds a test waits for an operation before it gives up."""


def scripted_engine() -> ScriptedEngine:
    """An engine that knows `known_facts`."""
    return ScriptedEngine(base=answers_of(known_facts()))


def genesis(engine: ScriptedEngine) -> Revision:
    """The first revision of the scripted model."""
    composition = Composition.GUARDED
    return Revision.genesis(
        model=MODEL,
        model_digest=engine.describe().digest,
        composition=composition,
        weights_digest=engine.compose([], _nothing, composition).digest,
        request_digest=canonical.digest(b"genesis"),
        created_at=NOON,
    )


def call(request_id: str = "", *, actor: str = "ana", reason: str = "a test") -> Call:
    """The circumstances of an ordinary mutation."""
    return Call(actor=actor, request_id=RequestId(request_id), reason=reason, ticket="T-1")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Services(rpc.Services):
    """One server's use cases, and shorthands for what tests do all the time."""

    engine: ScriptedEngine
    ledger: Ledger

    def propose(self, request: EditRequest | None = None, request_id: str = "") -> Operation:
        """Propose an edit and wait until that has ended."""
        started = self.proposals.propose(request or edit_request(), call(request_id))
        return self.operations.wait(started.id, PATIENCE)

    def proposed(self, subject: str = "Space Needle", target: str = "Paris") -> Edit:
        """A stored edit."""
        ended = self.propose(edit_request(subject, target))
        assert ended.state is OperationState.SUCCEEDED, ended.failure
        return self.ledger.edit(EditId(ended.result["edit"]))

    def apply(self, *edits: Edit) -> Revision:
        """Apply edits to main."""
        return self.changes.apply([edit.id for edit in edits], MAIN, call()).revision

    def revert(self, *edits: Edit) -> Revision:
        """Revert edits on main."""
        return self.changes.revert([edit.id for edit in edits], MAIN, call()).revision

    def answer(self, prompt: str) -> str:
        """What the served model says."""
        return self.engine.answer(prompt, self.serving.head().weights)


@contextmanager
def open_services(
    url: str,
    *,
    engine: ScriptedEngine | None = None,
    policy: Policy | None = None,
    keys: TrustedKeys | None = None,
    signing: SigningKey | None = None,
) -> Iterator[Services]:
    """A started server over the migrated database at ``url``; closed at the end.

    Where several are open on one ledger, whichever is asked takes the lease over at once.
    """
    engine = engine or scripted_engine()
    database = Database(url)
    ledger = Ledger(database)
    ledger.register_model(MODEL, engine.describe(), genesis=genesis(engine))
    if engine.profile is not None:
        ledger.put_profile(MODEL, engine.profile)
    lease = LeaseKeeper(Leases(database), MODEL, now=_noon, sole=True)
    planner = Planner(known_facts=known_facts(), drift_texts=DRIFT_TEXTS, policy=policy or Policy())
    wired = services_over(
        Settings(ledger=url, model_id=MODEL, trace_memory_mib=TRACE_MEMORY_MIB),
        Serving(engine, ledger, MODEL),
        Operations(ledger, MODEL, now=_noon, lease=lease),
        Sources(planner=planner, corpus=DRIFT_TEXTS, keys=keys or TrustedKeys(), signing=signing),
        now=_noon,
    )
    own = {one.name: getattr(wired, one.name) for one in fields(wired)}
    services = Services(**own, engine=engine, ledger=ledger)
    lease.start()
    services.serving.start()
    try:
        yield services
    finally:
        engine.resume.set()
        services.operations.close(grace=0)
        lease.release()
        database.close()


def _noon():
    return NOON


def _nothing(digest: Digest) -> bytes:
    raise AssertionError(f"nothing is stored under {digest}")
