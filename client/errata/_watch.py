"""Where a watch of revisions stands, so that it can go on after the server was away; pure.

Invariant: the revisions that `accept` lets through are consecutive: no gaps, no repeats.
"""

from typing import Final

from errata import _types as types
from errata._errors import CancelledError, ErrataError, InternalError, UnavailableError

_FIRST_DELAY: Final = 0.2
_LONGEST_DELAY: Final = 5.0

RESUMED_AFTER: Final = (UnavailableError, CancelledError)
"""What a stream ends with when its server goes away."""


class Cursor:
    """The next sequence to be seen, and how long the server has been away."""

    def __init__(self, start: int | None, give_up_after: float) -> None:
        self._start = start
        self._give_up_after = give_up_after
        self._delay = _FIRST_DELAY
        self._waited = 0.0
        self._connected = False

    @property
    def sequence(self) -> int:
        """First sequence to ask for."""
        return self._start or 0

    def connected(self, head: types.Revision) -> None:
        """The server answered; where no start was given, watch what comes after its head."""
        self._connected = True
        self._delay, self._waited = _FIRST_DELAY, 0.0
        if self._start is None:
            self._start = head.sequence + 1

    def accept(self, revision: types.Revision) -> bool:
        """Whether ``revision`` is new to the watcher; moves on past it if so.

        Raises:
            InternalError: the server left revisions out.
        """
        if revision.sequence > self.sequence:
            raise InternalError(
                f"the server left out the revisions {self.sequence} to {revision.sequence - 1}; "
                "run the audit",
                {"expected": str(self.sequence), "received": str(revision.sequence)},
            )
        if revision.sequence < self.sequence:
            return False
        self._start = revision.sequence + 1
        return True

    def wait_after(self, error: ErrataError | None) -> float:
        """Seconds to wait before asking again, after an end that may be the server's restart.

        Raises:
            ErrataError: ``error`` itself, where the server never answered or has been away
                for too long.
        """
        if error is not None and (not self._connected or self._waited >= self._give_up_after):
            raise error
        delay = self._delay
        self._waited += delay
        self._delay = min(2 * delay, _LONGEST_DELAY)
        return delay
