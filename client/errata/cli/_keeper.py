"""A ledger checkpoint in a file: what an auditor keeps, compares, and brings forward.

Invariants: a kept checkpoint is replaced only by one that was proven to go on from it, and in
one step; what cannot be compared is a finding, not a success.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import RenderableType

import errata
from errata._config import checkpoint_file
from errata._keys import read_text
from errata.cli._session import Session

_KEPT_OUT = "where the server's database cannot reach it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What holding the log against a kept checkpoint came to."""

    file: str
    """Where the checkpoint is kept; empty where none is."""

    kept_size: int | None = None
    present: errata.LedgerCheckpoint | None = None
    findings: tuple[errata.Finding, ...] = ()
    rendered: RenderableType = field(default="", repr=False)


class Keeper:
    """One file with one ledger checkpoint, and the log it is held against."""

    def __init__(
        self, session: Session, keys: list[errata.PublicKey] | None, against: Path | None
    ) -> None:
        self._session = session
        self._keys = keys
        self._against = against
        self._kept = None if against else checkpoint_file()

    def compare(self) -> Compared:
        """The log held against the file; nothing where no file is named.

        Raises:
            InvalidInputError: the file cannot be read, or holds no ledger checkpoint.
        """
        path = self._against or self._kept
        if path is None:
            return Compared(file="", rendered="No kept checkpoint was compared; give --against.")
        if self._kept and not path.exists():
            return self._first(path)
        return compared(self._session, path, self._keys)

    def bring_forward(self, found: Compared) -> None:
        """Keep the present checkpoint in place of the one it goes on from."""
        if self._kept is None or found.present is None:
            return
        if found.kept_size is None or found.kept_size < found.present.size:
            keep(self._kept, found.present)
            self._session.screen.note(f"kept a checkpoint of {found.present.size} in {self._kept}")

    def _first(self, path: Path) -> Compared:
        """Nothing is kept yet: the present checkpoint is the first."""
        present = self._session.client.checkpoint(keys=self._keys)
        return Compared(
            file=str(path),
            present=present,
            rendered=f"No checkpoint was kept in {path}; this one is the first.",
        )


def compared(session: Session, path: Path, keys: list[errata.PublicKey] | None) -> Compared:
    """The log held against the checkpoint in a file.

    Raises:
        InvalidInputError: the file cannot be read, or holds no ledger checkpoint.
    """
    note = read_text(path)
    try:
        kept = errata.LedgerCheckpoint.parse(note)
    except errata.InvalidInputError as error:
        raise errata.InvalidInputError(f"{path}: {error}", {"file": str(path)}) from None
    try:
        found = session.client.compare(kept, keys=keys)
    except errata.LedgerCorruptError as error:  # the server refuses to go on from what it reads
        problem = errata.Finding(row=error.metadata.get("row", "log"), problem=str(error))
        return Compared(file=str(path), kept_size=kept.size, findings=(problem,))
    sizes = f"entry {kept.size} to entry {found.present.size}"
    return Compared(
        file=str(path),
        kept_size=kept.size,
        present=found.present,
        findings=found.findings,
        rendered=(
            f"The log goes on from {path}: {sizes}."
            if found.clean
            else f"The log does NOT go on from {path}."
        ),
    )


def keep(path: Path, checkpoint: errata.LedgerCheckpoint) -> None:
    """Put a checkpoint into a file, whole or not at all.

    Raises:
        InvalidInputError: the file cannot be written.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        partial.write_text(checkpoint.note, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise errata.InvalidInputError(
            f"cannot write {path} ({error.strerror}); keep it {_KEPT_OUT}", {"file": str(path)}
        ) from error
