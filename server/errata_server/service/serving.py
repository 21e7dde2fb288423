"""What the server answers with: one immutable reference, replaced by one assignment.

Invariants: readers take no lock; a reader keeps the revision it took; the reference only
moves forward; weights are served only if their digest is the one their revision vouches for.
"""

import threading
import time
from collections import OrderedDict
from contextlib import suppress
from typing import Final

from errata_server import telemetry
from errata_server.domain.edits import AppliedSet
from errata_server.domain.errors import (
    DigestMismatchError,
    InvalidInputError,
    LedgerUnavailableError,
    UnavailableError,
)
from errata_server.domain.ids import ModelId, RevisionId
from errata_server.domain.patches import Composition, ServedWeights
from errata_server.domain.revisions import Revision
from errata_server.ledger.ledger import Ledger
from errata_server.service.artifacts import Artifacts
from errata_server.service.ports import Engine
from errata_server.service.standing import Standing
from errata_server.service.views import Pinned
from errata_server.service.wakeups import Wakeups

BASE_REFERENCE: Final = "base"
MAX_HISTORIC: Final = 16
"""Composed historic revisions kept."""

MAX_HISTORIC_PATCHES: Final = 8_192
"""Patches in all of them together, which bounds their memory."""


class Serving:
    """The head of a branch as composed weights, and any other revision on demand."""

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        model: ModelId,
        *,
        standing: Standing | None = None,
    ) -> None:
        """Serve ``model`` as ``ledger`` has it; call `start` before anything else.

        Args:
            engine: Composes.
            ledger: Where the revisions are.
            model: Whose they are.
            standing: Names the branch, and is told of every contact with the ledger; a
                server of main where left out.
        """
        self.engine: Final = engine
        self.ledger: Final = ledger
        self._model = model
        self.artifacts: Final = Artifacts(ledger)
        self.standing: Final = standing or Standing()
        self.wakeups: Final = Wakeups()
        self._suspect: Pinned | None = None
        self._head: Pinned | None = None
        self._base: Pinned | None = None
        self._publishing = threading.Condition()
        self._catching_up = threading.Lock()
        self._historic: OrderedDict[RevisionId, Pinned] = OrderedDict()
        self._historic_lock = threading.Lock()

    def start(self) -> Pinned:
        """Replay the branch to its head and serve it.

        Raises:
            BranchNotFoundError: there is no such branch.
            DigestMismatchError: the composed weights are not what the head vouches for.
            LedgerUnavailableError: the database does not answer.
        """
        pinned = self._pin(self.newest())
        self.publish(pinned)
        return pinned

    def newest(self) -> Revision:
        """The branch's head as the ledger has it now.

        Raises:
            LedgerUnavailableError: the database does not answer.
        """
        try:
            revision = self.ledger.head(self._model, self.standing.branch)
        except LedgerUnavailableError:
            self.standing.unread()
            raise
        self.standing.read(revision.sequence)
        return revision

    def adopt_profile(self) -> None:
        """Use the profile the ledger got last, which another server may have found.

        Raises:
            ModelMismatchError: it was made for another checkpoint.
            LedgerUnavailableError: the database does not answer.
        """
        latest = self.ledger.latest_profile(self._model)
        if latest is not None and latest != self.engine.profile:
            self.engine.use_profile(latest)

    def head(self) -> Pinned:
        """What is being served now.

        Raises:
            UnavailableError: `start` has not finished.
        """
        head = self._head
        if head is None:
            raise UnavailableError("the server is still replaying the ledger; retry after a while")
        return head

    def held(self) -> Pinned:
        """What is in memory for the branch, be it served or refused; for whoever examines it.

        Raises:
            UnavailableError: nothing has been composed yet.
        """
        suspect = self._suspect
        return self.head() if suspect is None or self.standing.reading else suspect

    def base(self) -> Pinned:
        """The untouched model.

        Raises:
            LedgerUnavailableError: the database does not answer, when asked the first time.
        """
        base = self._base
        if base is None:
            base = self._base = self._pin(self.ledger.find_revision(self._model, "0"))
        return base

    def refresh(self) -> Pinned:
        """What is being served, after catching up with revisions committed elsewhere.

        Raises:
            DigestMismatchError: the composed weights are not what the head vouches for.
            LedgerUnavailableError: the database does not answer.
        """
        return self.catch_up(self.newest())

    def catch_up(self, revision: Revision) -> Pinned:
        """What is being served, which is ``revision`` unless that is older.

        Raises:
            DigestMismatchError: the composed weights are not what it vouches for.
            LedgerUnavailableError: the database does not answer.
        """
        if self._behind(revision):
            with self._catching_up:
                if self._behind(revision):
                    # Told before composing, which may fail: the gap is what operators alert on.
                    if self._head is not None:
                        _tell(self._head, head=revision.sequence)
                    self.publish(self._pin(revision))
        return self.head()

    def _behind(self, revision: Revision) -> bool:
        head = self._head
        return head is None or revision.sequence > head.revision.sequence

    def at(self, reference: str, min_sequence: int = 0) -> Pinned:
        """What answers at ``reference``: a revision, a branch, ``base``, or the served head.

        Args:
            reference: As `Ledger.find_revision` takes it; ``base`` is the untouched model,
                and the empty string the head of the branch that is served.
            min_sequence: The reply must come from this sequence or a later one; `await_sequence`
                waits for it.

        Raises:
            RevisionNotFoundError: there is no such revision.
            UnavailableError: this server has not caught up with ``min_sequence`` yet.
            InvalidInputError: the revision named is older than ``min_sequence``.
        """
        if self.follows(reference):
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

    def follows(self, reference: str) -> bool:
        """Whether ``reference`` names the branch that is served, which is never looked up."""
        return reference in {"", self.standing.branch}

    def await_sequence(self, sequence: int, patience: float) -> None:
        """Return once ``sequence`` of the branch is served, or after ``patience`` seconds.

        Which of the two it was, `at` tells.

        Raises:
            UnavailableError: `start` has not finished.
        """
        deadline = time.monotonic() + patience
        if self.head().revision.sequence >= sequence:
            return
        self.wakeups.wake()  # the follower asks the ledger at once, not at its next poll
        self.wait_beyond(sequence - 1, max(0.0, deadline - time.monotonic()))

    def prepare(self, applied: AppliedSet, composition: Composition) -> ServedWeights:
        """The weights with the active edits of ``applied`` live; nothing is served yet.

        Raises:
            InvalidPatchError: an artifact is not a finite patch for this model.
            ModelMismatchError: an artifact was computed against another checkpoint.
        """
        patches = [edit.patch for edit in applied.active()]
        with telemetry.stage("compose"):
            self.artifacts.preload(patches)
            return self.engine.compose(patches, self.artifacts.load, composition)

    def publish(self, pinned: Pinned) -> None:
        """Serve ``pinned`` from now on, unless something newer is served already."""
        with self._publishing:
            current = self._head
            if current is None or pinned.revision.sequence > current.revision.sequence:
                self._head = current = pinned
                self._suspect = None
                self._publishing.notify_all()
        self.wakeups.wake()
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
            with suppress(LedgerUnavailableError):  # said below, with what is served meanwhile
                head = self.refresh()
        if head.revision.sequence < min_sequence:
            branch, age = self.standing.branch, self.standing.staleness()
            raise UnavailableError(
                f"{branch} is at sequence {head.revision.sequence} here, before {min_sequence}, "
                f"and the ledger was last read {age:.1f} s ago; retry after a while",
                branch=branch,
                sequence=head.revision.sequence,
                min_sequence=min_sequence,
                staleness_seconds=f"{age:.1f}",
            )
        return head

    def _at(self, reference: str) -> Pinned:
        cached = self._cached(RevisionId(reference))
        if cached is not None:
            return cached
        if reference == BASE_REFERENCE:
            return self.base()
        revision = self.ledger.find_revision(self._model, reference)
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
        applied = self.ledger.applied(self._model, revision.id)
        weights = self.prepare(applied, revision.composition)
        pinned = Pinned(revision=revision, weights=weights, applied=applied)
        active = applied.digest(model=revision.model_digest, composition=revision.composition)
        for what, recorded, found in (
            ("active set", revision.active_set_digest, active),
            ("weights", revision.weights_digest, weights.digest),
        ):
            if recorded != found:
                if revision.branch == self.standing.branch and self._behind(revision):
                    self._suspect = pinned
                raise DigestMismatchError(
                    f"revision {revision.id[:12]} vouches for {what} {recorded[:12]}, but its "
                    f"edits come to {found[:12]} here; run `errata audit`",
                    revision=revision.id,
                    digest_of=what,
                    recorded=recorded,
                    composed=found,
                )
        return pinned


def _tell(served: Pinned, *, head: int) -> None:
    """Publish what is served and where the ledger's head is."""
    telemetry.set_ledger(
        live=served.applied.active_count,
        applied=len(served.applied.applied),
        head=head,
        served=served.revision.sequence,
    )
