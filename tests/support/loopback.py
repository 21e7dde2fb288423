"""A whole server in this process: the scripted engine behind real services, a real ledger and
real gRPC on a loopback port.
"""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from errata_server import app
from errata_server.config import load_settings
from errata_server.domain.patches import Composition
from errata_server.ledger.ledger import Ledger
from tests.support import MODEL, known_facts
from tests.support.scripted_engine import ScriptedEngine
from tests.support.services import scripted_engine

TEXTS = ("The river was low that year. People walked across it.", "Snow fell early.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loopback:
    """A server that is ready."""

    address: str
    engine: ScriptedEngine
    folder: Path
    ledger: str
    metrics: str
    """URL of the metrics, empty where they are not served."""


@contextmanager
def serving(
    folder: Path,
    *,
    listen: str = "127.0.0.1:0",
    engine: ScriptedEngine | None = None,
    metrics_port: int | None = None,
    grace: float = 1.0,
    ledger_url: str = "",
    **given: object,
) -> Iterator[Loopback]:
    """Serve the ledger in ``folder`` until the context ends; enter it again to restart.

    With ``ledger_url`` the ledger is elsewhere; with ``follow`` the server is a replica, and
    another one must have made the model known.
    """
    engine = engine or scripted_engine()
    settings = load_settings(
        model="scripted",
        model_id=MODEL,
        ledger=ledger_url or f"sqlite:///{folder / 'ledger.db'}",
        listen=listen,
        metrics_port=metrics_port,
        known_facts=_known_facts_file(folder),
        texts=_texts_file(folder),
        cache=folder / "cache",
        **given,
    )
    database = app.open_ledger(settings)
    if not settings.follow:
        ledger = Ledger(database)
        app.register(ledger, MODEL, engine, Composition.GUARDED)
        if engine.profile is not None:
            ledger.put_profile(MODEL, engine.profile)
    with running(app.assemble(settings, engine, database), grace=grace) as ready:
        try:
            yield Loopback(
                address=ready.address,
                engine=engine,
                folder=folder,
                ledger=settings.ledger,
                metrics=ready.metrics,
            )
        finally:
            engine.resume.set()


@contextmanager
def running(server: app.App, *, grace: float = 1.0) -> Iterator[app.Ready]:
    """Serve on an event loop in a thread of its own; drained and closed at the end."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="loopback")
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(server.start(), loop).result(30)
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(grace), loop).result(30 + grace)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _known_facts_file(folder: Path) -> Path:
    known = known_facts()
    path = folder / "known_facts.json"
    path.write_text(
        json.dumps(
            {
                "relations": {r: {"templates": list(t)} for r, t in known.templates.items()},
                "facts": [
                    {
                        "subject": fact.subject,
                        "relation": fact.relation,
                        "object": fact.object,
                        "held_out": list(fact.held_out),
                    }
                    for fact in known.facts
                ],
            }
        )
    )
    return path


def _texts_file(folder: Path) -> Path:
    path = folder / "texts.txt"
    path.write_text("\n".join(TEXTS))
    return path
