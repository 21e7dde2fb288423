"""Who may carry out operations on a model: one server at a time.

Invariant: a token is never given out twice, so whatever was begun under one that is no longer
the model's can be told apart and refused.
"""

from dataclasses import dataclass

from errata_server.domain.ids import ModelId


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """What an operation was started under; its writes are refused once the token is another."""

    model: ModelId
    token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A server's right to carry out operations on a model, for a while."""

    model: ModelId
    holder: str
    """Names one process; a server that starts again is another holder."""

    address: str
    """Where the holder says that it can be reached."""

    token: int
    remaining_seconds: float
    """Until it ends by the database's clock; at most 0 where it has ended."""

    @property
    def fence(self) -> Fence:
        """What is started under this lease."""
        return Fence(model=self.model, token=self.token)

    @property
    def ended(self) -> bool:
        """Whether another server may take it over."""
        return self.remaining_seconds <= 0
