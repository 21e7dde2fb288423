"""Many facts proposed at once: one operation, an edit or a failure for every one of them.

Invariants: an edit is stored as soon as it is checked, under an id that follows from the batch
and its content, so that a batch that was cut off goes on where it stopped; an item that fails
keeps none of the others. The operation's result is ``{"batch": name, "edits": [{"edit",
"report", "places"}], "failures": [...], "near": [...]}``.
"""

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Final

from errata_server.domain.batches import Asked, BatchItem, ItemFailure, NearSubjects, merge
from errata_server.domain.edits import Edit
from errata_server.domain.errors import (
    EditNotFoundError,
    ErrataError,
    InvalidInputError,
    InvalidSignatureError,
    NotCalibratedError,
    PreconditionError,
)
from errata_server.domain.facts import EditRequest
from errata_server.domain.held import held_prompts
from errata_server.domain.ids import EditId, ProfileId
from errata_server.domain.operations import Operation, OperationKind, Progress, ReportProgress
from errata_server.domain.signatures import ProposerSignature
from errata_server.service.calls import Call
from errata_server.service.proposals import Company, Proposals

TOGETHER: Final = 32
"""Edits of a part: computed, then asked about in shared passes, then stored. A batch that is cut
off loses the parts that are on their way, and all of it if it is checked together."""

FEWEST: Final = 8
"""Edits of a part at least, where there are as many: fewer share little."""

OF_ITEM = (InvalidInputError, PreconditionError)
"""Errors that are about one item; any other ends the batch."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batches:
    """Batches from the requests to the stored reports."""

    proposals: Proposals

    def propose(
        self,
        requests: Sequence[Asked],
        call: Call,
        *,
        batch: str = "",
        together: bool = False,
        signatures: Sequence[ProposerSignature | None] = (),
    ) -> Operation:
        """Compute, check and store what ``requests`` come to.

        Args:
            requests: Facts, those about one subject become one edit; or why one is malformed.
            call: Who asks; a repeated request id gives the earlier operation.
            batch: What the edits are stored under: those of the same batch that are stored
                already are not computed again. The request id where empty.
            together: Check every edit as if the rest of the batch were live too.
            signatures: The proposer's own over each request, where there are any.

        Raises:
            InvalidInputError: there is nothing, or too much, in the batch.
            NotCalibratedError: the model has no profile.
            RequestIdReusedError: the request id was used for something else.
        """
        items, failures = merge(requests)
        profile = self.proposals.engine.profile
        if profile is None:
            raise NotCalibratedError("the model has no profile; run `errata-server calibrate`")
        name = batch or call.request_id
        asked = [one.to_json() if isinstance(one, EditRequest) else str(one) for one in requests]
        run = _Run(
            proposals=self.proposals,
            call=call,
            name=name,
            profile=profile.id,
            together=together,
            failures=failures,
            signatures=dict(enumerate(signatures)),
        )
        signed = [asdict(one) if one else None for one in signatures]
        content = {"signatures": signed} if any(signed) else {}
        return self.proposals.operations.submit(
            OperationKind.PROPOSE_BATCH,
            actor=call.actor,
            request_id=call.request_id,
            request_digest=call.digest(
                "propose_batch", batch=batch, requests=asked, together=together, **content
            ),
            work=lambda progress: run.run(items, progress),
        )


@dataclass(slots=True, kw_only=True, eq=False)
class _Pace:
    """Tells of the edits that are done, how fast they come, and how long the rest will take.

    Parts that are on their way at once share one.
    """

    progress: ReportProgress
    total: int
    done: int = 0
    fresh: int = 0
    """Those of them that were computed now."""

    start: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def finish(self, *, fresh: bool = False) -> None:
        """Count one more edit that is done."""
        with self.lock:
            self.done += 1
            self.fresh += fresh

    def __call__(self, progress: Progress) -> None:
        self.progress(
            Progress(stage=progress.stage, done=self.done, total=self.total, note=self._note())
        )

    def _note(self) -> str:
        if not self.fresh:
            return ""
        rate = self.fresh / max(time.monotonic() - self.start, 1e-3)
        left = (self.total - self.done) / rate
        return f"{60 * rate:.1f} edits a minute, about {left:.0f} s left"


@dataclass(slots=True, kw_only=True, eq=False)
class _Run:
    """One batch on its way."""

    proposals: Proposals
    call: Call
    name: str
    profile: ProfileId
    together: bool
    failures: list[ItemFailure]
    signatures: dict[int, ProposerSignature | None]
    """By the place of the request."""

    edits: list[dict[str, Any]] = field(default_factory=list)
    near: tuple[NearSubjects, ...] = ()
    names: frozenset[str] = frozenset()

    def run(self, items: Sequence[BatchItem], progress: ReportProgress) -> dict[str, Any]:
        """The operation's result."""
        pace = _Pace(progress=progress, total=len(items))
        valid = self._valid(items, pace)
        self.names = frozenset(name for item in valid for name in item.request.names)
        engine = self.proposals.engine
        if len(valid) > 1:
            self.near = engine.near_subjects(
                [item.request for item in valid],
                conflict=self.proposals.planner.policy.warn_conflict,
                progress=pace,
            )
        waiting = [index for index, item in enumerate(valid) if not self._is_stored(item, pace)]
        parts = _parts(waiting)
        if self.together:
            stored = [self.proposals.ledger.edit(row["edit"]) for row in self.edits]
            found = engine.side_by_side([partial(self._computed, valid, p, pace) for p in parts])
            mates = (*stored, *(edit for part in found for _, edit in part))
            works = [partial(self._store_all, valid, part, mates, pace) for part in found]
        else:
            works = [partial(self._propose, valid, part, pace) for part in parts]
        engine.side_by_side(works)
        return self._result(valid)

    def _propose(self, valid: Sequence[BatchItem], part: Sequence[int], pace: _Pace) -> None:
        self._store_all(valid, self._computed(valid, part, pace), (), pace)

    def _computed(
        self, valid: Sequence[BatchItem], part: Sequence[int], pace: _Pace
    ) -> list[tuple[int, Edit]]:
        """The edits at ``part`` but for those that fail; their patches are stored, they are not."""
        requests = [valid[index].request for index in part]
        facts = self.proposals.planner.known_facts
        held = [held_prompts(facts, request) for request in requests]
        computed: list[tuple[int, Edit]] = []
        patches = self.proposals.engine.compute_patches(requests, held=held, progress=pace)
        for place, found in patches:
            item = valid[part[place]]
            if isinstance(found, ErrataError):
                self._fail(item, found, pace)
                continue
            edit = self.proposals.edit_of(item.request, found, self.call, self._edit_id(item))
            edit = replace(edit, signature=self.signatures.get(item.places[0]))
            computed.append((part[place], edit))
        return computed

    def _valid(self, items: Sequence[BatchItem], pace: _Pace) -> list[BatchItem]:
        valid = []
        for item in items:
            pace(Progress(stage="requests", done=0, total=0))
            try:
                self.proposals.require_form(item.request)
                signature = self._signature(item)
                self.proposals.require_signature(item.request, self.call, signature)
            except OF_ITEM as error:
                self._fail(item, error, pace)
            else:
                valid.append(item)
        return valid

    def _signature(self, item: BatchItem) -> ProposerSignature | None:
        """The signature over all that ``item`` asks for.

        Raises:
            InvalidSignatureError: it is put together from several requests, of which some are
                signed.
        """
        found = [self.signatures.get(place) for place in item.places]
        if len(found) > 1 and any(found):
            raise InvalidSignatureError(
                f"the batch has {len(found)} proposals about {item.request.subject!r}, which "
                "become one edit; put their facts into one proposal and sign that",
                field="signature",
                subject=item.request.subject,
            )
        return found[0]

    def _edit_id(self, item: BatchItem) -> EditId:
        return item.edit_id(self.proposals.model, self.name, self.profile)

    def _is_stored(self, item: BatchItem, pace: _Pace) -> bool:
        """Whether ``item``'s edit is in the ledger, put there before or by another operation."""
        ledger = self.proposals.ledger
        try:
            edit = ledger.edit(self._edit_id(item))
        except EditNotFoundError:
            return False
        report = ledger.latest_report(edit.id)
        self.edits.append({"edit": edit.id, "report": report.id, "places": list(item.places)})
        pace.finish()
        return True

    def _store_all(
        self,
        valid: Sequence[BatchItem],
        computed: Sequence[tuple[int, Edit]],
        mates: tuple[Edit, ...],
        pace: _Pace,
    ) -> None:
        if len(computed) > 1:
            self._rehearse([edit for _, edit in computed], pace)
        for index, edit in computed:
            self._store(valid, index, edit, mates, pace)

    def _rehearse(self, edits: Sequence[Edit], pace: _Pace) -> None:
        try:
            self.proposals.rehearse(edits, names=self.names, progress=pace)
        except OF_ITEM:
            return  # one of the edits cannot be asked about; its own check says which and why

    def _store(
        self,
        valid: Sequence[BatchItem],
        index: int,
        edit: Edit,
        mates: tuple[Edit, ...],
        pace: _Pace,
    ) -> None:
        item = valid[index]
        if self._is_stored(item, pace):  # the same batch, proposed twice, may run twice at once
            return
        company = Company(live=mates, near=self._near(valid, index), names=self.names)
        try:
            report = self.proposals.store(edit, batch=company, progress=pace)
        except OF_ITEM as error:
            if not self._is_stored(item, pace):
                self._fail(item, error, pace)
            return
        places = list(item.places)
        self.edits.append({"edit": edit.id, "report": report.id, "places": places})
        pace.finish(fresh=True)

    def _fail(self, item: BatchItem, error: ErrataError, pace: _Pace) -> None:
        self.failures.append(ItemFailure.of(item.request.subject, item.places, error))
        pace.finish()

    def _near(self, valid: Sequence[BatchItem], index: int) -> str:
        """Subjects near the one at ``index``, in words."""
        words = []
        for pair in self.near:
            if index not in {pair.first, pair.second}:
                continue
            is_first = pair.first == index
            other = valid[pair.second if is_first else pair.first].request.subject
            fires = pair.first_fires if is_first else pair.second_fires
            met = pair.second_fires if is_first else pair.first_fires
            text = f"{other!r} ({pair.conflict:.2f}"
            text += "; this edit would fire on it" if fires else ""
            text += "; its edit would fire on this subject" if met else ""
            words.append(f"{text})")
        return ", ".join(words)

    def _result(self, valid: Sequence[BatchItem]) -> dict[str, Any]:
        subjects = [item.request.subject for item in valid]
        self.edits.sort(key=lambda row: min(row["places"]))
        self.failures.sort(key=lambda failure: failure.places)
        return {
            "batch": self.name,
            "edits": self.edits,
            "failures": [failure.to_json() for failure in self.failures],
            "near": [
                {
                    "first": subjects[pair.first],
                    "second": subjects[pair.second],
                    "conflict": pair.conflict,
                    "first_fires": pair.first_fires,
                    "second_fires": pair.second_fires,
                }
                for pair in self.near
            ],
        }


def _parts(places: Sequence[int]) -> list[Sequence[int]]:
    """``places`` in parts of like size, two at least where there are enough for them."""
    count = max(math.ceil(len(places) / TOGETHER), min(2, len(places) // FEWEST), 1)
    return [places[start::count] for start in range(count) if places[start::count]]
