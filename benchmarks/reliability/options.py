"""What every suite is told."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from benchmarks.reliability.databases import Kind

log = Console(stderr=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The seed, the databases, and how much to do; a suite says what a round is to it."""

    seed: int
    kinds: Sequence[Kind]
    rounds: int

    @property
    def settings(self) -> dict[str, object]:
        """The options as a document gives them."""
        return {"seed": self.seed, "rounds": self.rounds, "databases": ", ".join(self.kinds)}
