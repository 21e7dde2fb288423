"""The suite `tampering`: is every change behind errata's back found?

A ledger is written by the ledger's own functions, and then tampered with by direct SQL as the
owner of the database may, over every table and column of evidence, one tampering at a time.
Each must be found by the audit, or by somebody who took a ledger checkpoint before it and holds
that against the log, as `errata audit --against` does.

Invariant: each tampering is committed, the triggers put back, and the ledger restored after it,
so that everybody looks through connections of their own at what is really there.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from benchmarks.document import Document
from benchmarks.reliability.auditor import Auditor
from benchmarks.reliability.chronicle import Chronicle
from benchmarks.reliability.databases import opened, stores
from benchmarks.reliability.families import FAMILIES, Tampering, old_backups
from benchmarks.reliability.hand import REFUSED, Backup, back_up, hand, restore
from benchmarks.reliability.options import Options, log
from benchmarks.reliability.writes import Author, author
from errata_server.domain.revisions import RevisionKind
from errata_server.ledger.ledger import Ledger

ROUNDS: Final = 1_000
"""Tamperings, over all databases together."""

EDITS: Final = 10
CHAPTERS: Final = 6
"""Parts of the history; between two a backup is made."""


@dataclass(slots=True)
class TamperingTally:
    """What was found, by kind and table."""

    tamperings: int = 0
    refused: int = 0
    """What the database itself did not allow."""

    found_by_audit: int = 0
    found_by_checkpoint: int = 0
    """What the audit alone does not see."""

    by_checkpoint: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A ledger with a history, and who looks at it."""

    url: str
    auditor: Auditor
    copies: Sequence[Backup]
    """What it held after each chapter; the last is what it holds."""

    @property
    def clean(self) -> bool:
        """Whether nothing is found where nothing was done."""
        return not self.auditor.audit() and not self.auditor.compare(self.auditor.keep())


@contextmanager
def scene(url: str, seed: int) -> Iterator[Scene]:
    """A history on the empty ledger at ``url``."""
    chronicle = Chronicle(draw=random.Random(seed), subjects=5)
    with opened(url) as ledger:
        copies = write_history(ledger, url, chronicle)
        auditor = Auditor(ledger=ledger, model=chronicle.model, base=chronicle.description.digest)
        yield Scene(url=url, auditor=auditor, copies=copies)


def write_history(ledger: Ledger, url: str, chronicle: Chronicle) -> list[Backup]:
    """Write something of everything; what the ledger held after each chapter."""
    copies = []
    written = author(ledger, chronicle, edits=EDITS)
    for number in range(CHAPTERS):
        for _ in range(4):
            change, after = written.change()
            change.perform(ledger)
            written.note(change, after)
        for write in (*written.propose(), written.approve(), written.suite()):
            write.perform(ledger)
            written.note(write)
        _add_what_nobody_names(ledger, written, number)
        copies.append(back_up(url))
    return copies


def _add_what_nobody_names(ledger: Ledger, written: Author, number: int) -> None:
    """A branch with a change of its own, a later profile, a further report."""
    chronicle, top = written.chronicle, written.top
    first = chronicle.branch(top, f"trial-{number}")
    ledger.append(first.revision)
    free = sorted(written.edits.keys() - {edit.edit for edit in top.applied.applied})
    chosen = [written.edits[edit] for edit in free[:1]]
    if chosen:
        ledger.append(chronicle.change(first, RevisionKind.APPLY, chosen).revision)
    ledger.put_profile(chronicle.model, replace(chronicle.profile, seed=number + 1))
    edit = written.edits[chronicle.draw.choice(sorted(written.edits))].edit
    ledger.record_report(chronicle.report(edit, top.revision.id))


def tamperings(copies: Sequence[Backup], draw: random.Random) -> Iterator[Tampering]:
    """Without end: every family in turn, each over what it is about."""
    rows = copies[-1]
    while True:
        for family in FAMILIES:
            yield from family(rows, draw)
        yield from old_backups(rows, copies, draw)


def try_one(scene: Scene, tampering: Tampering, tally: TamperingTally) -> None:
    """Take a ledger checkpoint, tamper, look, and take it back."""
    kept = scene.auditor.keep()
    try:
        if not tampering.commit(scene.url):
            return
    except REFUSED:
        tally.refused += 1
        return
    tally.tamperings += 1
    tally.kinds[tampering.kind] += 1
    if scene.auditor.audit():
        tally.found_by_audit += 1
    elif scene.auditor.compare(kept):
        tally.found_by_checkpoint += 1
        tally.by_checkpoint[f"{tampering.kind}: {tampering.table}"] += 1
    else:
        tally.missed[f"{tampering.kind}: {tampering.table}"] += 1
    with hand(scene.url, rearm=True) as found:
        restore(found, scene.copies[-1])


def play(url: str, count: int, seed: int, tally: TamperingTally) -> None:
    """So many tamperings with one ledger.

    Raises:
        RuntimeError: something is found although nothing was done, so nothing found counts.
    """
    wanted = tally.tamperings + count
    with scene(url, seed) as found:
        with hand(url, rearm=True):
            pass  # gone for a while, the triggers alone must give nothing away
        require_clean(found)
        for tampering in tamperings(found.copies, random.Random(seed)):
            if tally.tamperings >= wanted:
                break
            try_one(found, tampering, tally)
        require_clean(found)


def require_clean(found: Scene) -> None:
    """Do nothing if nothing is found in a ledger that nobody has tampered with.

    Raises:
        RuntimeError: something is.
    """
    if not found.clean:
        raise RuntimeError(f"{found.url} is not in order by itself: {found.auditor.audit()}")


def run(options: Options) -> Document:
    """As many tamperings as ``options`` say, evenly over the databases."""
    tally = TamperingTally()
    with stores(options.kinds) as found:
        for store in found:
            count = -(-options.rounds // len(found))
            log.print(f"{store.kind}: {count} tamperings")
            with store.ledger() as url:
                play(url, count, options.seed, tally)
    return Document(
        benchmark="reliability tampering",
        settings=options.settings,
        figures={
            "tamperings": tally.tamperings,
            "refused": tally.refused,
            "found_by_audit": tally.found_by_audit,
            "found_by_checkpoint": tally.found_by_checkpoint,
            "missed": sum(tally.missed.values()),
        },
        details={
            "kinds": dict(tally.kinds),
            "found_by_checkpoint": dict(tally.by_checkpoint),
            "missed": dict(tally.missed),
        },
    )
