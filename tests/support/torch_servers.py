"""Whole servers around the real engine on a tiny model: real services, ledger and, where asked
for, gRPC on a loopback port.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from errata_server import app
from errata_server.config import Settings, load_settings
from errata_server.domain.ids import ModelId
from errata_server.domain.patches import Composition
from errata_server.engine.engine import TorchEngine, load
from errata_server.ledger.database import Database
from errata_server.ledger.ledger import Ledger
from errata_server.rpc.services import Services
from tests.support import tiny_models
from tests.support.loopback import running

TINY: Final = ModelId("tiny")
PARENT: Final = f"models/{TINY}"
TEXTS: Final = (*tiny_models.PROSE, *tiny_models.sentences())

# Thresholds for models too small to keep: with a dozen subjects, a guard fires on a good part
# of the texts its second moment was taken over.
LENIENT: Final = {
    "maximum_corpus_firing_rate": 1.0,
    "maximum_perplexity_rise": 10.0,
    "maximum_cumulative_perplexity_rise": 10.0,
    "maximum_neighbour_divergence": 10.0,
    "maximum_prefixed_neighbourhood_drop": 1.0,
    "minimum_efficacy": 0.5,
    "minimum_paraphrase": 0.4,
    "minimum_recognition": 0.0,
    "minimum_entropy_ratio": 0.0,
    "maximum_clamp_fraction": 1.0,
}


def tiny_engine(checkpoint: Path, cache: Path, *, threads: int = 1, **profile: Any) -> TorchEngine:
    """The real engine over a tiny checkpoint, with a profile that was never calibrated."""
    torch.set_num_threads(threads)  # tiny matrices: more only get into each other's way
    engine = load(str(checkpoint), cache=cache, texts=TEXTS)
    engine.use_profile(tiny_models.tiny_profile(engine._runner, layer=0, **profile))
    return engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """A server as the composition root puts it together, not started."""

    app: app.App
    services: Services
    ledger: Ledger
    database: Database
    engine: TorchEngine


def assemble(
    folder: Path,
    engine: TorchEngine,
    *,
    policy: dict[str, float] | None = None,
    known: Sequence[tuple[str, str]] = (),
    **given: object,
) -> Assembled:
    """A server over the ledger in ``folder``; ``known`` are subjects with their cities."""
    settings = _settings(folder, policy, known, **given)
    database = app.open_ledger(settings)
    ledger = Ledger(database)
    app.register(ledger, TINY, engine, Composition.GUARDED)
    if engine.profile is not None:
        ledger.put_profile(TINY, engine.profile)
    server = app.assemble(settings, engine, database)
    return Assembled(
        app=server, services=server._services, ledger=ledger, database=database, engine=engine
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchServer:
    """A server that is ready."""

    address: str
    services: Services
    ledger: Ledger
    engine: TorchEngine
    url: str
    """Of the ledger's database."""


@contextmanager
def serving(folder: Path, engine: TorchEngine, **given: Any) -> Iterator[TorchServer]:
    """Serve the ledger in ``folder``, as `assemble` takes it; closes ``engine`` at the end."""
    assembled = assemble(folder, engine, **given)
    with running(assembled.app) as ready:
        yield TorchServer(
            address=ready.address,
            services=assembled.services,
            ledger=assembled.ledger,
            engine=engine,
            url=ledger_url(folder),
        )


def ledger_url(folder: Path) -> str:
    """Where the ledger of a server in ``folder`` is."""
    return f"sqlite:///{folder / 'ledger.db'}"


def _settings(
    folder: Path,
    policy: dict[str, float] | None,
    known: Sequence[tuple[str, str]],
    **given: object,
) -> Settings:
    files = {
        "policy": LENIENT if policy is None else policy,
        "known_facts": {
            "relations": {"city": {"templates": list(tiny_models.TEMPLATES)}},
            "facts": [
                {"subject": subject, "relation": "city", "object": city} for subject, city in known
            ],
        },
        "texts": {"perplexity": list(tiny_models.PROSE[:2]), "corpus": list(TEXTS)},
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    paths = {name: folder / f"{name}.json" for name in files}
    return load_settings(
        model="tiny",
        model_id=TINY,
        ledger=ledger_url(folder),
        listen="127.0.0.1:0",
        cache=folder / "cache",
        **paths,
        **given,
    )
