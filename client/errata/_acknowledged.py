"""What a client has been told is committed, so that it can ask to see it again; pure.

Invariant: only what the server has acknowledged counts: a dry run does not, nor a change whose
answer was lost.
"""

from typing import Any

from errata import _types as types
from errata._call_types import Call


class Acknowledged:
    """The highest sequence of each branch; may be shared between threads."""

    def __init__(self) -> None:
        self._sequences: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._sequences)

    def note(self, call: Call[Any, Any], result: object) -> None:
        """Remember what ``call`` was answered with, if that says what is committed."""
        if call.acknowledges and isinstance(result, types.Change):
            revision = result.revision
            self._sequences[revision.branch] = max(revision.sequence, self.least(revision.branch))

    def least(self, branch: str) -> int:
        """The sequence a read of ``branch`` must see; 0 where nothing is known of it."""
        return self._sequences.get(branch, 0)
