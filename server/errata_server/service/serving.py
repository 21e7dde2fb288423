"""What the server answers with: one immutable reference, replaced by one assignment.

Invariants: readers take no lock; a reader keeps the revision it took; the reference only
moves forward; weights are served only if their digest is the one their revision vouches for.
"""

import threading
from collections import OrderedDict
from typing import Final

import structlog

from errata_server import telemetry
from errata_server.domain.edits import AppliedSet
from errata_server.domain.errors import (
    ErrataError,
    InvalidInputError,
    LedgerCorruptError,
    UnavailableError,
)
from errata_server.domain.ids import MAIN, ModelId, RevisionId
from errata_server.domain.patches import Composition, ServedWeights
from errata_server.domain.revisions import Revision
from errata_server.ledger.ledger import Ledger
from errata_server.service.artifacts import Artifacts
from errata_server.service.ports import Engine
from errata_server.service.views import Pinned

BASE_REFERENCE: Final = "base"
MAX_HISTORIC: Final = 16
"""Composed historic revisions kept."""

MAX_HISTORIC_PATCHES: Final = 8_192
"""Patches in all of them together, which bounds their memory."""

_LOG = structlog.get_logger(__name__)


class Serving:
    """The head of main as composed weights, and any other revision on demand."""

    def __init__(self, engine: Engine, ledger: Ledger, model: ModelId) -> None:
        """Serve ``model`` as ``ledger`` has it; call `start` before anything else."""
        self._engine = engine
        self._ledger = ledger
        self._model = model
        self.artifacts: Final = Artifacts(ledger)
        self._head: Pinned | None = None
        self._base: Pinned | None = None
        self._publishing = threading.Condition()
        self._catching_up = threading.Lock()
        self._historic: OrderedDict[RevisionId, Pinned] = OrderedDict()
        self._historic_lock = threading.Lock()

    def start(self) -> Pinned:
        """Replay main to its head and serve it.

        Raises:
            LedgerCorruptError: the composed weights are not what the head vouches for.
            LedgerUnavailableError: the database does not answer.
        """
        pinned = self._pin(self._ledger.head(self._model, MAIN))
        self.publish(pinned)
        return pinned

    def head(self) -> Pinned:
        """What is being served now.

        Raises:
            UnavailableError: `start` has not finished.
        """
        head = self._head
        if head is None:
            raise UnavailableError("the server is still replaying the ledger; retry after a while")
        return head

    def base(self) -> Pinned:
        """The untouched model.

        Raises:
            LedgerUnavailableError: the database does not answer, when asked the first time.
        """
        base = self._base
        if base is None:
            base = self._base = self._pin(self._ledger.find_revision(self._model, "0"))
        return base

    def refresh(self) -> Pinned:
        """What is being served, after catching up with revisions committed elsewhere.

        Raises:
            LedgerCorruptError: the composed weights are not what the head vouches for.
            LedgerUnavailableError: the database does not answer.
        """
        revision = self._ledger.head(self._model, MAIN)
        if revision.sequence <= self.head().revision.sequence:
            return self.head()
        with self._catching_up:
            if revision.sequence > self.head().revision.sequence:
                # Told before composing, which may fail: the gap is what operators alert on.
                _tell(self.head(), head=revision.sequence)
                self.publish(self._pin(revision))
        return self.head()

    def follow(self, stop: threading.Event, *, interval: float = 1.0) -> None:
        """Catch up again and again until ``stop``; run it on a thread of its own.

        Whatever is wrong with the database is logged and tried again: what is served stays
        served, and the thread outlives it.
        """
        while not stop.wait(interval):
            try:
                self.refresh()
            except ErrataError as error:
                _LOG.warning("not following the ledger", reason=error.reason)

    def at(self, reference: str, min_sequence: int = 0) -> Pinned:
        """What answers at ``reference``: a revision, a branch, ``base``, or main's head.

        Args:
            reference: As `Ledger.find_revision` takes it; ``base`` is the untouched model,
                and the empty string the head of main.
            min_sequence: The reply must come from this sequence or a later one.

        Raises:
            RevisionNotFoundError: there is no such revision.
            UnavailableError: this server has not caught up with ``min_sequence`` yet.
            InvalidInputError: the revision named is older than ``min_sequence``.
        """
        if reference in {"", MAIN}:
            return self._head_from(min_sequence)
        pinned = self._at(reference)
        if pinned.revision.sequence < min_sequence:
            raise InvalidInputError(
                f"revision {pinned.revision.id[:12]} has sequence {pinned.revision.sequence}, "
                f"which is before min_sequence {min_sequence}; leave one of the two out",
                field="min_sequence",
                sequence=pinned.revision.sequence,
                min_sequence=min_sequence,
            )
        return pinned

    def prepare(self, applied: AppliedSet, composition: Composition) -> ServedWeights:
        """The weights with the active edits of ``applied`` live; nothing is served yet.

        Raises:
            InvalidPatchError: an artifact is not a finite patch for this model.
            ModelMismatchError: an artifact was computed against another checkpoint.
        """
        patches = [edit.patch for edit in applied.active()]
        with telemetry.stage("compose"):
            self.artifacts.preload(patches)
            return self._engine.compose(patches, self.artifacts.load, composition)

    def publish(self, pinned: Pinned) -> None:
        """Serve ``pinned`` from now on, unless something newer is served already."""
        with self._publishing:
            current = self._head
            if current is None or pinned.revision.sequence > current.revision.sequence:
                self._head = current = pinned
                self._publishing.notify_all()
        _tell(current, head=max(current.revision.sequence, pinned.revision.sequence))

    def wait_beyond(self, sequence: int, timeout: float) -> bool:
        """Whether something after ``sequence`` is served, waiting ``timeout`` seconds for it."""
        with self._publishing:
            return self._publishing.wait_for(
                lambda: self.head().revision.sequence > sequence, timeout
            )

    def _head_from(self, min_sequence: int) -> Pinned:
        head = self.head()
        if head.revision.sequence < min_sequence:
            head = self.refresh()
        if head.revision.sequence < min_sequence:
            raise UnavailableError(
                f"main is at sequence {head.revision.sequence} here, before {min_sequence}; "
                "retry after a while",
                sequence=head.revision.sequence,
                min_sequence=min_sequence,
            )
        return head

    def _at(self, reference: str) -> Pinned:
        cached = self._cached(RevisionId(reference))
        if cached is not None:
            return cached
        if reference == BASE_REFERENCE:
            return self.base()
        revision = self._ledger.find_revision(self._model, reference)
        cached = self._cached(revision.id)
        if cached is not None:
            return cached
        pinned = self._pin(revision)
        self._keep(pinned)
        return pinned

    def _cached(self, revision: RevisionId) -> Pinned | None:
        head = self.head()
        if head.revision.id == revision:
            return head
        with self._historic_lock:
            if revision in self._historic:
                self._historic.move_to_end(revision)
            return self._historic.get(revision)

    def _keep(self, pinned: Pinned) -> None:
        with self._historic_lock:
            self._historic[pinned.revision.id] = pinned
            held = sum(len(kept.weights.patches) for kept in self._historic.values())
            while len(self._historic) > 1 and (
                len(self._historic) > MAX_HISTORIC or held > MAX_HISTORIC_PATCHES
            ):
                _, dropped = self._historic.popitem(last=False)
                held -= len(dropped.weights.patches)

    def _pin(self, revision: Revision) -> Pinned:
        applied = self._ledger.applied(self._model, revision.id)
        weights = self.prepare(applied, revision.composition)
        if weights.digest != revision.weights_digest:
            raise LedgerCorruptError(
                f"revision {revision.id[:12]} vouches for weights {revision.weights_digest[:12]}, "
                f"but its edits compose to {weights.digest[:12]}; run `errata audit`",
                revision=revision.id,
                recorded=revision.weights_digest,
                composed=weights.digest,
            )
        return Pinned(revision=revision, weights=weights, applied=applied)


def _tell(served: Pinned, *, head: int) -> None:
    """Publish what is served and where the ledger's head is."""
    telemetry.set_ledger(
        live=len(served.applied.active()),
        applied=len(served.applied.applied),
        head=head,
        served=served.revision.sequence,
    )
