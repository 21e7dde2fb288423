"""Verifying live edits again: those that conflict with another, and a sample of the rest.

Invariants: what is asked is one revision, pinned before the first question; the same seed and
the same live edits give the same sample; a change that was committed is never undone or
failed because its verification could not be started.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

import structlog

from errata_server import telemetry
from errata_server.domain.edits import AppliedEdit, Edit
from errata_server.domain.errors import ErrataError, InvalidInputError
from errata_server.domain.facts import CheckPrompt
from errata_server.domain.health import CheckedEdit, LiveVerification
from errata_server.domain.ids import Digest, OperationId
from errata_server.domain.operations import Operation, OperationKind, ReportProgress
from errata_server.domain.policies import Policy
from errata_server.ledger.ledger import Ledger
from errata_server.service import results
from errata_server.service.calls import Call
from errata_server.service.health import HealthMonitor
from errata_server.service.operations import Operations
from errata_server.service.ports import Engine
from errata_server.service.serving import Serving
from errata_server.service.views import Pinned

MOST_SAMPLED: Final = 10_000
_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """A live edit to be asked."""

    edit: Edit
    conflict: float
    nearest: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LiveEdits:
    """Holds what is live to what it was made for."""

    engine: Engine
    ledger: Ledger
    serving: Serving
    operations: Operations
    health: HealthMonitor
    policy: Policy

    def verify(self, call: Call, *, sample: int | None = None, seed: int = 0) -> Operation:
        """Ask live edits of main's head for their facts again.

        Args:
            call: Who asks; a repeated request id gives the earlier operation.
            sample: Edits drawn from those without a conflict; as the policy says where None.
            seed: Of the draw.

        Raises:
            InvalidInputError: the sample is negative or too large.
            RequestIdReusedError: the request id was used for something else.
        """
        size = int(self.policy.live_edit_sample) if sample is None else sample
        if not 0 <= size <= MOST_SAMPLED:
            raise InvalidInputError(
                f"sample must be from 0 to {MOST_SAMPLED}, not {size}", field="sample"
            )
        pinned = self.serving.refresh()
        return self.operations.submit(
            OperationKind.VERIFY_LIVE,
            actor=call.actor,
            request_id=call.request_id,
            request_digest=call.digest("verify_live", sample=sample, seed=seed),
            work=lambda progress: self._verify(pinned, size, seed, progress),
        )

    def after_change(self, edits: int, call: Call) -> OperationId | None:
        """Verify after a change of several edits; None after a smaller one.

        What keeps the verification from being started is logged: the change stands.
        """
        if edits < 2:
            return None
        try:
            return self.verify(call).id
        except ErrataError as error:
            _LOG.warning("live edits were not verified after a change", reason=error.reason)
            return None

    def result(self, digest: Digest) -> LiveVerification:
        """What an operation stored.

        Raises:
            NotFoundError: the ledger does not hold it.
            InvalidInputError: the artifact is something else.
        """
        return results.decode(LiveVerification, self.ledger.artifact(digest))

    def _verify(
        self, pinned: Pinned, sample: int, seed: int, progress: ReportProgress
    ) -> dict[str, Any]:
        with telemetry.stage(OperationKind.VERIFY_LIVE.value):
            found = self._verified(pinned, sample, seed, progress)
        telemetry.observe_live_verification(found)
        return {"artifact": self.ledger.put_artifact(results.encode(found))}

    def _verified(
        self, pinned: Pinned, sample: int, seed: int, progress: ReportProgress
    ) -> LiveVerification:
        started = perf_counter()
        live = pinned.applied.active()
        near, drawn = self._choose(live, sample, seed)
        checked = self._ask([*near, *drawn], pinned, progress)
        revision = pinned.revision
        return LiveVerification(
            revision=revision.id,
            sequence=revision.sequence,
            branch=revision.branch,
            weights_digest=pinned.weights.digest,
            live_edits=len(live),
            in_conflict=len(near),
            drawn=len(drawn),
            seed=seed,
            edits=tuple(sorted(checked, key=lambda one: (one.held, -one.conflict, one.edit))),
            health=self.health.at(pinned),
            seconds=perf_counter() - started,
        )

    def _choose(
        self, live: Sequence[AppliedEdit], sample: int, seed: int
    ) -> tuple[list[_Chosen], list[_Chosen]]:
        """Those in conflict, and a draw of the others."""
        patches = [applied.patch for applied in live]
        nearest = self.engine.nearest_patches(patches, self.serving.artifacts.load)
        limit = self.policy.warn_conflict
        near = [place for place, (_, conflict) in enumerate(nearest) if conflict > limit]
        rest = [place for place, (_, conflict) in enumerate(nearest) if not conflict > limit]
        drawn = sorted(random.Random(seed).sample(rest, min(sample, len(rest))))

        def chosen(place: int) -> _Chosen:
            other, conflict = nearest[place]
            return _Chosen(
                edit=self.ledger.edit(live[place].edit),
                conflict=conflict,
                nearest=live[other].edit if other >= 0 else "",
            )

        return [chosen(place) for place in near], [chosen(place) for place in drawn]

    def _ask(
        self, chosen: Sequence[_Chosen], pinned: Pinned, progress: ReportProgress
    ) -> list[CheckedEdit]:
        prompts = [
            [
                CheckPrompt(prompt=fact.prompt(one.edit.request.subject), expected=fact.target)
                for fact in one.edit.request.facts
            ]
            for one in chosen
        ]
        answers = iter(
            self.engine.ask(
                [prompt for asked in prompts for prompt in asked],
                before=self.serving.base().weights,
                after=pinned.weights,
                progress=progress,
            )
        )
        return [
            CheckedEdit(
                edit=one.edit.id,
                subject=one.edit.request.subject,
                conflict=one.conflict,
                nearest=one.nearest,
                answers=tuple(next(answers) for _ in asked),
            )
            for one, asked in zip(chosen, prompts, strict=True)
        ]
