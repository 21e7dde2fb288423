"""The suite `volume`: what a server takes as its ledger grows, on real servers and databases.

Synthetic patches of the bundled model are recorded through the ledger's own functions; three
in ten are live. On a ledger of each size a server is started, and asked what people ask. A
figure's growth is how much longer it takes at the largest size than at the smallest, over how
much larger that is: 1 is linear, and what should not grow at all is well below.

Invariant: all sizes are measured in turn, more than once, and the least of each figure counts,
so that a machine that is busy for a while slows no one size alone.
"""

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypedDict

import torch
from sqlalchemy import Connection

import errata
import errata.testing
from benchmarks.document import Document
from benchmarks.reliability import forked
from benchmarks.reliability.chronicle import Chronicle, Top
from benchmarks.reliability.databases import Store, stores
from benchmarks.reliability.options import Options, log
from errata_server import app
from errata_server.config import load_settings
from errata_server.domain.edits import AppliedSet
from errata_server.domain.errors import NotCalibratedError
from errata_server.domain.ids import Digest
from errata_server.domain.patches import Composition, OptimisationRecord, PatchManifest
from errata_server.domain.profiles import Profile
from errata_server.domain.revisions import RevisionKind
from errata_server.engine.patch import PatchTensors, encode
from errata_server.ledger import artifacts, edits, revisions
from errata_server.ledger.database import Database
from errata_server.ledger.ledger import Ledger
from errata_server.service.ports import Engine
from errata_server.service.serving import Serving

ROUNDS: Final = 10_000
"""Stored edits at the largest size; the others are a tenth and three tenths of it."""

SHARES: Final = (0.1, 0.3, 1.0)
EDITS_A_REVISION: Final = 10
LIVE_OF_THEM: Final = 3
REVISIONS_A_TRANSACTION: Final = 20
PAGE: Final = 100
REPEATS: Final = 3
PASSES: Final = 2
"""Times each size is measured."""

PROMPT: Final = "The Eiffel Tower is in the city of"
PATIENCE: Final = 900.0
GUARDED: Final = Composition.GUARDED
NOISE_SECONDS: Final = 0.01
"""Less than this is not measured."""


@dataclass(slots=True, kw_only=True)
class Library:
    """A growing ledger of the bundled model."""

    engine: Engine
    database: Database
    chronicle: Chronicle
    top: Top
    payloads: dict[Digest, bytes]
    """Of what is live."""

    size: int = 0

    def grow(self, size: int) -> None:
        """Record edits and revisions until there are ``size`` edits."""
        while self.size < size:
            with self.database.writing() as connection:
                for _ in range(REVISIONS_A_TRANSACTION):
                    if self.size < size:
                        self._chapter(connection, last=self.size + EDITS_A_REVISION >= size)

    def _chapter(self, connection: Connection, *, last: bool) -> None:
        """Some edits, and a revision that applies a few of them."""
        made = []
        for _ in range(EDITS_A_REVISION):
            new, payload = self.chronicle.edit(self.top.revision.id)
            artifacts.put(connection, payload)
            edits.add(connection, new.edit, new.report)
            made.append(new)
            self.payloads[new.edit.patch] = payload
        # Only the last revision is ever served, so only its weights are composed.
        self.chronicle.weights = self._composed if last else _nothing
        self.top = self.chronicle.change(self.top, RevisionKind.APPLY, made[:LIVE_OF_THEM])
        revisions.append(connection, self.top.revision)
        for new in made[LIVE_OF_THEM:]:
            del self.payloads[new.edit.patch]
        self.size += len(made)

    def _composed(self, applied: AppliedSet) -> Digest:
        patches = [edit.patch for edit in applied.active()]
        return self.engine.compose(patches, self.payloads.__getitem__, GUARDED).digest


def _nothing(_applied: AppliedSet) -> Digest:
    return Digest("0" * 64)


@contextmanager
def library(url: str, seed: int) -> Iterator[Library]:
    """The bundled model's ledger at ``url``, without edits."""
    settings = load_settings(ledger=url)
    database, engine = Database(url), app.load_engine(settings)
    try:
        ledger, model = Ledger(database), settings.model_id
        app.register(ledger, model, engine, GUARDED)
        app.adopt_profile(ledger, model, engine, bundled=True)
        profile, description = ledger.latest_profile(model), engine.describe()
        if profile is None:
            raise NotCalibratedError("the bundled model comes without a profile")
        draw = torch.Generator().manual_seed(seed)
        chronicle = Chronicle(
            draw=random.Random(seed),
            model=model,
            description=description,
            payload=lambda _, subject: synthetic_patch(profile, subject, draw),
            subjects=10**9,
        )
        chronicle.profile = profile
        yield Library(
            engine=engine,
            database=database,
            chronicle=chronicle,
            top=chronicle.top(ledger),
            payloads={},
        )
    finally:
        engine.close()
        database.close()


def synthetic_patch(profile: Profile, subject: str, draw: torch.Generator) -> bytes:
    """A patch of the right shape whose key nothing matches."""
    manifest = PatchManifest(
        model_digest=profile.model_digest,
        profile=profile.id,
        module=profile.module,
        layer=profile.layer,
        d_in=profile.d_in,
        d_out=profile.d_out,
        subject=subject,
        keys=1,
        leverages=(1.0,),
        guard_width=profile.guard_width,
        optimisation=OptimisationRecord(
            steps=1,
            restarts=0,
            loss=0.1,
            target_probability=0.99,
            converged=True,
            residual_norm=1.0,
            clamp_fraction=0.5,
            key_agreement=0.9,
        ),
    )
    keys = torch.randn(1, profile.d_in, generator=draw)
    residual = torch.randn(profile.d_out, generator=draw)
    tensors = PatchTensors(
        manifest=manifest,
        keys=keys,
        matchers=keys / profile.d_in,
        residual=residual,
        decoys=keys[:0],
    )
    return encode(tensors).payload


Question = Callable[[errata.Client], object]


def _last_page(pages: Iterator[object]) -> float:
    """Seconds of the last full page of a list."""
    spent = []
    while True:
        begun = time.perf_counter()
        found = sum(1 for _ in islice(pages, PAGE))
        spent.append(time.perf_counter() - begun)
        if found < PAGE:
            return spent[-2] if len(spent) > 1 else spent[-1]


QUESTIONS: Final[dict[str, Question]] = {
    "list_first": lambda client: next(client.edits(page_size=PAGE)),
    "list_none": lambda client: list(client.edits(state=errata.EditState.REJECTED)),
    "log_first": lambda client: next(client.revisions(page_size=PAGE)),
    "show": lambda client: client.edit(next(client.edits(page_size=1)).id),
    "diff": lambda client: client.diff("1", "2"),
    "audit": lambda client: client.audit(),
    "generate": lambda client: client.generate(PROMPT, max_new_tokens=8).read(),
}
"""What is asked of a server, by the name of its figure."""


def ask(address: str) -> dict[str, float]:
    """Seconds of every question, the median of a few."""
    found = {}
    with errata.Client(address, timeout=PATIENCE) as client:
        for name, question in QUESTIONS.items():
            found[name] = statistics.median(_seconds(question, client) for _ in range(REPEATS))
        found["list_deep"] = _last_page(client.edits(page_size=PAGE))
        found["log_deep"] = _last_page(client.revisions(page_size=PAGE))
    return found


def _seconds(question: Question, client: errata.Client) -> float:
    begun = time.perf_counter()
    question(client)
    return time.perf_counter() - begun


def measure(url: str) -> dict[str, float]:
    """Start a server on the ledger and ask it everything."""
    found = {"start": _start_seconds(url)}
    found["replay"] = statistics.median(_replay_seconds(url) for _ in range(REPEATS))
    with forked.server(url) as running:
        return found | ask(running.address)


def least(passes: Sequence[dict[str, float]]) -> dict[str, float]:
    """The least seconds of every figure."""
    return {name: min(found[name] for found in passes) for name in passes[0]}


def _start_seconds(url: str) -> float:
    """Of the command, nearly all of which are imports."""
    begun = time.perf_counter()
    with errata.testing.server(ledger=url, timeout=PATIENCE):
        return time.perf_counter() - begun


def _replay_seconds(url: str) -> float:
    """Of a start, once the model is loaded: what can grow with the ledger."""
    settings = load_settings(ledger=url)
    database, engine = Database(url), app.load_engine(settings)
    try:
        ledger = Ledger(database)
        app.adopt_profile(ledger, settings.model_id, engine, bundled=True)
        serving = Serving(engine, ledger, settings.model_id)
        gc.collect()
        gc.freeze()  # as `errata-server serve` does
        begun = time.perf_counter()
        serving.start()
        return time.perf_counter() - begun
    finally:
        gc.unfreeze()
        engine.close()
        database.close()


def growths(measured: dict[int, dict[str, float]]) -> dict[str, float]:
    """Of every figure, from the smallest size to the largest, over the growth of the size.

    A start is the model, a replay and imports, which differ by more from start to start.
    """
    small, large = min(measured), max(measured)
    ratio = large / small
    found = {}
    for name in measured[small].keys() - {"start"}:
        first = max(measured[small][name], NOISE_SECONDS)
        found[name] = max(measured[large][name], NOISE_SECONDS) / first / ratio
    return found


class Result(TypedDict):
    """What one kind of database took."""

    seconds: dict[int, dict[str, float]]
    growth: dict[str, float]


def play(store: Store, sizes: list[int], seed: int) -> Result:
    """Seconds by size, and their growth, on one kind of database."""
    with ExitStack() as stack:
        urls = {size: stack.enter_context(store.ledger()) for size in sizes}
        for size, url in urls.items():
            log.print(f"{store.kind}: {size} edits")
            with library(url, seed) as books:
                books.grow(size)
        _start_seconds(urls[sizes[0]])  # the first start writes caches
        passes = []
        for number in range(PASSES):
            log.print(f"{store.kind}: pass {number + 1} of {PASSES}")
            passes.append({size: measure(urls[size]) for size in sizes})
    measured = {size: least([found[size] for found in passes]) for size in sizes}
    return {"seconds": measured, "growth": growths(measured)}


def run(options: Options) -> Document:
    """Grow a ledger on every database."""
    sizes = [max(EDITS_A_REVISION, int(options.rounds * share)) for share in SHARES]
    with stores(options.kinds) as found:
        results = {store.kind.value: play(store, sizes, options.seed) for store in found}
    growth = {
        f"{kind} {name}": value
        for kind, result in results.items()
        for name, value in result["growth"].items()
    }
    worst = max(growth, key=growth.__getitem__)
    return Document(
        benchmark="reliability volume",
        settings=options.settings | {"sizes": sizes, "live": LIVE_OF_THEM / EDITS_A_REVISION},
        figures={"edits": sizes[-1], "worst_growth": growth[worst]},
        details={"worst": worst, **results},
    )
