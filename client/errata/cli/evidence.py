"""``checkpoint``, ``prove``, ``keygen``: what an auditor keeps, asks for and signs with."""

from pathlib import Path
from typing import Annotated

import typer

import errata
from errata._config import default_actor
from errata._keys import read_text
from errata.cli import _render as render
from errata.cli._keeper import compared, keep
from errata.cli._options import Witness, command
from errata.cli._screen import FAILED, Screen
from errata.cli._session import Session

app = typer.Typer()


@command(app, "checkpoint")
def checkpoint(
    session: Session,
    witness: Witness,
    size: Annotated[
        int, typer.Option(min=0, help="The log as it was with so many entries; now if not given.")
    ] = 0,
    save: Annotated[
        Path | None,
        typer.Option(
            help="Keep it here. One that is here already is replaced only if the log goes on "
            "from it.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Show the size and root of the log, signed where the server has a key. Keep it elsewhere."""
    found = session.client.checkpoint(size=size, keys=witness.keys())
    if save is not None:
        _save(session, witness, save, found)
    session.screen.result({"checkpoint": found}, _checkpoint(found))
    if not found.signatures:
        session.screen.note("warning: it is not signed; anybody could have written it")


@command(app, "prove")
def prove(
    session: Session,
    witness: Witness,
    name: Annotated[
        str,
        typer.Argument(
            metavar="EDIT|REVISION|REPORT",
            help="An edit's or a revision's id, or any of the three by its full name.",
        ),
    ],
    against: Annotated[
        Path | None,
        typer.Option(help="Prove it by a ledger checkpoint that was kept.", metavar="CHECKPOINT"),
    ] = None,
) -> None:
    """Check a proof that an edit, a revision or a report is in the log."""
    kept = None if against is None else errata.LedgerCheckpoint.parse(read_text(against))
    proof = session.client.prove(name, against=kept, keys=witness.keys())
    session.screen.result(
        {"proof": proof},
        render.pairs(
            [
                (proof.entry.kind, proof.entry.key),
                ("digest", proof.entry.digest),
                ("entry", f"{proof.entry.position} of {(kept or proof.checkpoint).size}"),
                ("proof", f"{len(proof.hashes)} hashes lead to the root"),
                ("checkpoint", f"{against}" if against else "the server's own, at present"),
                ("signed by", (kept or proof.checkpoint).key),
            ]
        ),
    )


@command(app, "keygen")
def keygen(
    screen: Screen,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the private key goes.")],
    name: Annotated[
        str, typer.Option(help="Whose key it is, else $ERRATA_ACTOR, else the login name.")
    ] = "",
) -> None:
    """Make an Ed25519 key: the private one into FILE, the public one to standard output."""
    key = errata.SigningKey.generate(name or default_actor())
    key.write(file)
    screen.result({"public_key": str(key.public), "file": str(file)}, str(key.public))


def _save(session: Session, witness: Witness, path: Path, found: errata.LedgerCheckpoint) -> None:
    if path.exists():
        held = compared(session, path, witness.keys())
        back = held.kept_size is not None and held.kept_size > found.size
        findings = held.findings
        if back and not findings:
            findings = (
                errata.Finding(row="log", problem=f"{path} has a later one, of {held.kept_size}"),
            )
        if findings:
            session.screen.result(
                {"checkpoint": found, "findings": findings}, render.findings(findings)
            )
            session.screen.note(f"{path} was left as it is")
            raise typer.Exit(FAILED)
    keep(path, found)
    session.screen.note(f"wrote {path}")


def _checkpoint(shown: errata.LedgerCheckpoint) -> str:
    return shown.note.rstrip("\n")
