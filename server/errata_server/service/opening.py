"""From a ledger that may be away to a server that is ready, and the threads that keep it so.

Invariants: a writer that cannot begin says why and ends, for its operators to see; a replica
waits, as it has nothing to lose and a database comes back, and says so in the log each time. A
replica that refuses the head it has composed is not ready, but stays up to be examined.
"""

import threading
from collections.abc import Callable
from typing import Final

import structlog

from errata_server.domain.errors import (
    DigestMismatchError,
    LedgerUnavailableError,
    UnavailableError,
)
from errata_server.ledger.wakeups import Listener
from errata_server.service.following import Follower
from errata_server.service.leases import LeaseKeeper
from errata_server.service.serving import Serving
from errata_server.service.views import Pinned

FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 10.0
"""Seconds between attempts of a replica to begin."""

_LOG = structlog.stdlib.get_logger(__name__)


class Opening:
    """Replays the branch, and then keeps up with it until closed."""

    def __init__(self, serving: Serving, lease: LeaseKeeper, listener: Listener) -> None:
        self._serving = serving
        self._follower = Follower(serving)
        self._stop = threading.Event()
        wakeups = serving.wakeups
        self._threads = [
            threading.Thread(target=target, args=arguments, name=name, daemon=True)
            for name, target, arguments in (
                ("follow", self._follower.run, (self._stop,)),
                ("listen", listener.run, (self._stop, wakeups.wake)),
                ("lease", lease.keep, (self._stop,)),
            )
        ]

    def replay(self, prepare: Callable[[], None], refused: Callable[[], None]) -> Pinned:
        """What is served from now on; blocks until there is something.

        Args:
            prepare: What is to be done with the ledger first; done again after a failure.
            refused: Called when a replica composes other weights than the head vouches for.

        Raises:
            LedgerUnavailableError: the database does not answer, and this is no replica.
            DigestMismatchError: the head vouches for other weights, and this is no replica.
            UnavailableError: `stop` came first.
            (and what ``prepare`` raises)
        """
        delay = FIRST_DELAY
        while not self._stop.is_set():
            try:
                prepare()
                pinned = self._serving.start()
            except (LedgerUnavailableError, DigestMismatchError) as error:
                if not self._serving.standing.replica:
                    raise
                self._put_off(error, delay, refused)
            else:
                self._serving.standing.restore()
                return pinned
            self._stop.wait(delay)
            delay = min(2 * delay, LONGEST_DELAY)
        raise UnavailableError("the server was told to stop before it was ready")

    def _put_off(
        self,
        error: LedgerUnavailableError | DigestMismatchError,
        delay: float,
        refused: Callable[[], None],
    ) -> None:
        _LOG.warning("not ready yet", reason=error.reason, retry_seconds=delay)
        if isinstance(error, DigestMismatchError):
            self._follower.refuse(None, error)
            refused()

    def follow(self) -> None:
        """Keep up from now on."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask whatever waits or keeps up to end; `close` waits for it."""
        self._stop.set()
        self._serving.wakeups.wake()

    def close(self) -> None:
        """Return once nothing keeps up any more."""
        self.stop()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
