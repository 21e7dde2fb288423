"""The served checkpoint: what it is, and calibrating it.

Invariant: a profile is stored before the engine uses it, so that no patch can name one the
ledger does not hold.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from errata_server.domain import canonical
from errata_server.domain.errors import InvalidInputError
from errata_server.domain.ids import ModelId, ProfileId
from errata_server.domain.known_facts import KnownFacts
from errata_server.domain.operations import Operation, OperationKind, ReportProgress
from errata_server.domain.profiles import Profile
from errata_server.ledger.ledger import Ledger
from errata_server.service.calls import Call
from errata_server.service.operations import Operations
from errata_server.service.ports import Engine
from errata_server.service.serving import Serving
from errata_server.service.views import ModelView

SEED_BITS = 63


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Models:
    """The one model this server has loaded."""

    engine: Engine
    ledger: Ledger
    model: ModelId
    serving: Serving
    operations: Operations
    known_facts: KnownFacts
    texts: tuple[str, ...]
    """Ordinary texts for moments, where a caller gives none."""

    now: Callable[[], datetime]
    started_at: datetime

    def describe(self) -> ModelView:
        """The checkpoint, its profile and what is live."""
        served = self.serving.held()
        standing = self.serving.standing.view(served.revision.sequence)
        return ModelView(
            description=self.engine.describe(),
            profile=self.engine.profile,
            served=served,
            live_edits=served.applied.active_count,
            applied_edits=len(served.applied.applied),
            started_at=self.started_at,
            standing=replace(standing, lease=self.operations.lease.last()),
        )

    def profile(self, profile: ProfileId) -> Profile:
        """A stored profile, be it the one in use or an earlier one.

        Raises:
            NotFoundError: the ledger does not hold it.
        """
        return self.ledger.profile(profile)

    def calibrate(self, seed: int, call: Call) -> Operation:
        """Find a profile by editing facts the model knows, store it and use it.

        Raises:
            InvalidInputError: the seed is negative or does not fit 63 bits.
            RequestIdReusedError: the request id was used for something else.
        """
        if not 0 <= seed < 2**SEED_BITS:
            raise InvalidInputError(f"seed must be from 0 to 2^63 - 1, not {seed}", field="seed")
        return self.operations.submit(
            OperationKind.CALIBRATE,
            actor=call.actor,
            request_id=call.request_id,
            request_digest=call.digest("calibrate", seed=seed),
            work=lambda progress: self._calibrate(seed, progress),
        )

    def collect_moments(self, texts: Sequence[str], call: Call) -> Operation:
        """Accumulate the second moment of keys over ``texts``, or over the server's own.

        Raises:
            InvalidInputError: there is no text.
            RequestIdReusedError: the request id was used for something else.
        """
        chosen = tuple(texts) or self.texts
        if not any(text.strip() for text in chosen):
            raise InvalidInputError(
                "there is no text; give some, or start the server with its own", field="texts"
            )
        corpus = canonical.digest(canonical.encode({"texts": list(chosen)}))
        return self.operations.submit(
            OperationKind.COLLECT_MOMENTS,
            actor=call.actor,
            request_id=call.request_id,
            request_digest=call.digest("collect_moments", corpus=corpus),
            work=lambda progress: {
                "tokens": self.engine.collect_moments(chosen, progress=progress),
                "corpus": corpus,
            },
        )

    def _calibrate(self, seed: int, progress: ReportProgress) -> dict[str, Any]:
        profile = self.engine.calibrate(self.known_facts, seed=seed, progress=progress)
        self.ledger.put_profile(self.model, profile)
        self.engine.use_profile(profile)
        return {"profile": profile.id}
