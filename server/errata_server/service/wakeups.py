"""Word inside one process that there may be something new in the ledger.

Invariant: whoever reads `Wakeups.count` before asking the ledger, and waits from that count
when there was nothing, misses no wake-up in between.
"""

import threading


class Wakeups:
    """Wakes all who wait; what there is they find out for themselves."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0

    @property
    def count(self) -> int:
        """How often anybody was woken so far."""
        return self._count

    def wake(self) -> None:
        """Let everybody look."""
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def wait(self, seen: int, timeout: float) -> int:
        """The count once it is no longer ``seen``, or after ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._count != seen, timeout)
            return self._count
