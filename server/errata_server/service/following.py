"""Keeping what is served, and the profile that is used, in step with the ledger.

Invariants: polling is the truth and a wake-up only makes it sooner; whatever goes wrong, with the
database or while composing, what is served stays served and the thread outlives it. A replica
that composes other weights than a revision vouches for takes itself out, and comes back by itself
only when a later check of the branch's head agrees.
"""

import random
import threading
import time
from typing import Final

import structlog

from errata_server.domain.errors import DigestMismatchError, ErrataError
from errata_server.domain.ids import RevisionId
from errata_server.domain.revisions import Revision
from errata_server.service.serving import Serving

POLL_SECONDS: Final = 1.0
JITTER: Final = 0.2
"""Share of the interval by which polls are spread, so that replicas do not ask in step."""

RECHECK_SECONDS: Final = 30.0
"""How often a replica that has taken itself out composes the same revision again."""

_LOG = structlog.stdlib.get_logger(__name__)


class Follower:
    """Catches up with the branch that is served, again and again."""

    def __init__(self, serving: Serving, *, recheck: float = RECHECK_SECONDS) -> None:
        """Keep ``serving`` in step; it has been started, or is quarantined."""
        self._serving = serving
        self._recheck = recheck
        self._refused: RevisionId | None = None
        self._again = 0.0

    def run(self, stop: threading.Event, *, interval: float = POLL_SECONDS) -> None:
        """Catch up until ``stop``; run it on a thread of its own.

        Whoever sets ``stop`` wakes `Serving.wakeups` as well, or waits for one interval.
        """
        wakeups = self._serving.wakeups
        seen = wakeups.count
        while not stop.is_set():
            spread = random.uniform(1 - JITTER, 1 + JITTER)
            seen = wakeups.wait(seen, interval * spread)
            if not stop.is_set():
                self.look()

    def look(self) -> None:
        """Catch up once; whatever goes wrong is logged and tried again by the next look."""
        try:
            newest = self._serving.newest()
            self._serving.adopt_profile()
            if self._waits_out(newest):
                return
            self._catch_up(newest)
        except ErrataError as error:
            _LOG.warning("not following the ledger", reason=error.reason)
        except Exception:  # noqa: BLE001 - no memory to compose with, say: the thread outlives it
            _LOG.exception("not following the ledger")

    def refuse(self, revision: Revision | None, error: DigestMismatchError) -> None:
        """Take this replica out because of ``revision``."""
        self._serving.standing.quarantine(str(error))
        self._refused = revision.id if revision is not None else None
        self._again = time.monotonic() + self._recheck
        _LOG.error("taken out of service", reason=error.reason, recheck_seconds=self._recheck)

    def _catch_up(self, newest: Revision) -> None:
        standing = self._serving.standing
        try:
            self._serving.catch_up(newest)
        except DigestMismatchError as error:
            if not standing.replica:
                raise  # its operators decide: what it serves is what the ledger vouched for
            self.refuse(newest, error)
            return
        self._refused = None
        if not standing.reading:
            _LOG.warning("back in service")
            standing.restore()

    def _waits_out(self, newest: Revision) -> bool:
        """Whether composing ``newest`` again is of no use yet."""
        return newest.id == self._refused and time.monotonic() < self._again
