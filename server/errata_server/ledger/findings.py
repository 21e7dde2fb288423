"""What an audit finds, row by row.

Invariant: a finding names one row; collecting findings never raises on what a row holds.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from errata_server.domain.errors import LedgerCorruptError
from errata_server.ledger.bodies import read_body

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong."""

    row: str
    """Table and key, such as ``revisions[main@3]``."""

    problem: str


class Findings:
    """Findings in the order they are made, each once."""

    def __init__(self) -> None:
        self._found: dict[Finding, None] = {}

    def add(self, row: str, problem: str) -> None:
        """Note ``problem`` of ``row``."""
        self._found[Finding(row=row, problem=problem)] = None

    def all(self) -> tuple[Finding, ...]:
        """Everything noted so far."""
        return tuple(self._found)

    def read(
        self, row: str, body: bytes, expected: str, from_body: Callable[[bytes], Value]
    ) -> Value | None:
        """The value of a body, or nothing and a finding."""
        try:
            return read_body(row, body, expected, from_body)
        except LedgerCorruptError as error:
            self.add(row, error.metadata["problem"])
            return None

    @contextmanager
    def reading_values(self, row: str) -> Iterator[None]:
        """Note it of ``row`` if its values turn out to be of kinds nothing can be done with.

        A body that hashes to its digest may still hold a list where a name should be.
        """
        try:
            yield
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            self.add(row, f"its body holds a value of the wrong kind ({type(error).__name__})")

    def compare(self, row: str, columns: Mapping[str, tuple[object, object]]) -> None:
        """Note each column whose value (first) is not what the body says (second)."""
        for column, (stored, vouched) in columns.items():
            if stored != vouched:
                self.add(row, f"column {column!r} says {stored!r}, its body {vouched!r}")

    def number(self, table: str, found: int, expected: int) -> int:
        """Note a gap before position ``found``; the position expected next."""
        if found > expected:
            rows = (
                f"{table}[#{expected}]"
                if found == expected + 1
                else (f"{table}[#{expected}..#{found - 1}]")
            )
            self.add(rows, "missing, as later rows are there")
        return found + 1
