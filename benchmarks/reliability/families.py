"""Families of tampering: what somebody who owns the database can do to a ledger.

Invariant: every family makes tamperings of what a ledger held when it was backed up. Those of
`CLUMSY` leave something that does not fit together, which the audit finds; those of `CONSISTENT`
leave a ledger that is in order by itself, which only a ledger checkpoint kept elsewhere can tell
from the true one. Those of `EITHER` leave one or the other.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from sqlalchemy import Column

from benchmarks.reliability.hand import Backup, Hand, Values, hand, restore
from errata_server.domain.log import LogKind
from errata_server.ledger.log import LOGGED
from errata_server.ledger.tables import metadata

WORKING: Final = {"operations", "leases"}
"""Tables that hold no evidence: no history depends on them."""

EVIDENCE: Final = tuple(t for t in metadata.sorted_tables if t.name not in WORKING)
SEVERAL: Final = 5
"""Tamperings of a family that would otherwise have one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tampering:
    """One thing done to a ledger."""

    kind: str
    table: str
    perform: Callable[[Hand], None]

    def commit(self, url: str) -> bool:
        """Do it to the ledger at ``url``, the triggers put back; whether anything is different.

        Raises:
            sqlite3.Error, psycopg.Error: the database does not allow it, see `hand.REFUSED`.
        """
        with hand(url, rearm=True) as found:
            before = found.everything()
            self.perform(found)
            return found.everything() != before


Family = Callable[[Backup, random.Random], Iterator[Tampering]]
"""Tamperings of one sort with a ledger that holds what was backed up."""

# Clumsy: what is left does not fit together ------------------------------------------------


def changed_cells(rows: Backup, draw: random.Random) -> Iterator[Tampering]:
    """Each column of a random row of each table, set to something else."""
    for table in EVIDENCE:
        for column in table.columns:
            row = draw.choice(rows[table.name])
            value = _another(column, row[column.name], rows[table.name], draw)
            yield Tampering(
                kind="changed",
                table=table.name,
                perform=_setting(table.name, row, {column.name: value}),
            )


def forged_bodies(rows: Backup, draw: random.Random) -> Iterator[Tampering]:
    """A body says something else, and the row's digest of it is made to agree."""
    for logged in LOGGED.values():
        name = logged.table.name
        row = draw.choice(rows[name])
        body = _forged(row, draw)
        yield Tampering(
            kind="forged",
            table=name,
            perform=_setting(name, row, {"body": body, logged.digest: _digest(body)}),
        )


def dropped_rows(rows: Backup, draw: random.Random) -> Iterator[Tampering]:
    """A random row of each table is gone."""
    for table in EVIDENCE:
        yield _dropping("dropped", table.name, draw.choice(rows[table.name]))


def dropped_tails(rows: Backup, _: random.Random) -> Iterator[Tampering]:
    """The last row of each numbered table is gone, which leaves no gap in it."""
    for table in EVIDENCE:
        if "position" in table.c and table.name != "revision_edits":
            last = max(rows[table.name], key=lambda row: row["position"])
            yield _dropping("tail dropped", table.name, last)


CLUMSY: Final[tuple[Family, ...]] = (
    changed_cells,
    forged_bodies,
    dropped_rows,
    dropped_tails,
)

# What the audit sees, or else a kept checkpoint -------------------------------------------------


def swapped_cells(rows: Backup, draw: random.Random) -> Iterator[Tampering]:
    """Two rows of a table exchange the content of a column, so their places too."""
    for table in EVIDENCE:
        if len(rows[table.name]) < 2:
            continue
        for column in table.columns:
            first, second = draw.sample(rows[table.name], 2)
            yield Tampering(
                kind="swapped",
                table=table.name,
                perform=_swapping(table.name, first, second, column.name),
            )


def forged_with_entries(rows: Backup, draw: random.Random) -> Iterator[Tampering]:
    """A body says something else, the row's digest and the log's entry are made to agree."""
    for kind, logged in LOGGED.items():
        name = logged.table.name
        row = draw.choice(rows[name])
        body = _forged(row, draw)
        values = {"body": body, logged.digest: _digest(body)}
        entry = _entry_of(rows, kind, row)
        key = str((row | values)[logged.key])
        yield Tampering(
            kind="forged with its entry",
            table=name,
            perform=_in_turn(
                _setting(name, row, values),
                _setting("log_entries", entry, {"digest": _digest(body), "key": key}),
            ),
        )


EITHER: Final[tuple[Family, ...]] = (swapped_cells, forged_with_entries)

# In order by itself -------------------------------------------------------------------------


def cut_logs(rows: Backup, draw: random.Random) -> Iterator[Tampering]:
    """The newest entries of the log with the rows they stand for; branches are set back."""
    entries = rows["log_entries"]
    genesis = _genesis(rows)
    for _ in range(SEVERAL):
        start = draw.randrange(genesis + 1, len(entries))
        while start > genesis + 1 and entries[start]["kind"] == LogKind.REPORT:
            start -= 1  # an edit without its first report would be noticed
        yield Tampering(
            kind="log cut", table="log_entries", perform=_cutting(rows, entries[start:])
        )


def rewritten_histories(rows: Backup, draw: random.Random) -> Iterator[Tampering]:
    """One revision names another actor, and everything after it is computed anew."""
    made = [e for e in rows["log_entries"] if e["kind"] == LogKind.REVISION]
    for _ in range(SEVERAL):
        start = draw.choice(made)["position"]
        actor = f"mallory-{draw.getrandbits(16)}"
        yield Tampering(
            kind="history rewritten",
            table="revisions",
            perform=partial(_rewrite, rows=rows, start=start, actor=actor),
        )


def forgotten_rows(rows: Backup, _: random.Random) -> Iterator[Tampering]:
    """The last row of a table that no revision vouches for, with its entry and without a gap."""
    first: dict[str, str] = {}
    for report in sorted(rows["reports"], key=lambda row: row["position"]):
        first.setdefault(report["edit"], report["id"])
    needed = {row["report"] for name in ("revision_edits", "approvals") for row in rows[name]}
    needed |= set(first.values())
    for kind in (LogKind.APPROVAL, LogKind.SUITE, LogKind.REPORT):
        name = LOGGED[kind].table.name
        last = max(rows[name], key=lambda row: row["position"], default=None)
        if last is None or (kind is LogKind.REPORT and last["id"] in needed):
            continue
        entry = _entry_of(rows, kind, last)
        later = rows["log_entries"][entry["position"] + 1 :]
        yield Tampering(
            kind="forgotten",
            table=name,
            perform=_in_turn(
                partial(Hand.delete, table=name, row=last),
                partial(Hand.delete, table="log_entries", row=entry),
                *(_setting("log_entries", one, {"position": one["position"] - 1}) for one in later),
            ),
        )


CONSISTENT: Final[tuple[Family, ...]] = (cut_logs, rewritten_histories, forgotten_rows)
FAMILIES: Final = (*CLUMSY, *EITHER, *CONSISTENT)
"""All but `old_backups`, which need to know what was."""


def old_backups(
    rows: Backup, earlier: Sequence[Backup], draw: random.Random
) -> Iterator[Tampering]:
    """The ledger is what it was some time ago."""
    older = [one for one in earlier if one != rows]
    for _ in range(SEVERAL):
        backup = draw.choice(older)
        yield Tampering(kind="old backup", table="all", perform=partial(restore, backup=backup))


# What they are made of ----------------------------------------------------------------------


def _setting(table: str, row: Values, values: Values) -> Callable[[Hand], None]:
    return partial(Hand.update, table=table, row=row, values=values)


def _dropping(kind: str, table: str, row: Values) -> Tampering:
    return Tampering(kind=kind, table=table, perform=partial(Hand.delete, table=table, row=row))


def _in_turn(*steps: Callable[[Hand], None]) -> Callable[[Hand], None]:
    def perform(found: Hand) -> None:
        for step in steps:
            step(found)

    return perform


def _swapping(table: str, first: Values, second: Values, column: str) -> Callable[[Hand], None]:
    """Both rows are taken out first: a unique column would refuse the first of two updates."""
    mine, theirs = first | {column: second[column]}, second | {column: first[column]}
    return _in_turn(
        partial(Hand.delete, table=table, row=first),
        partial(Hand.delete, table=table, row=second),
        lambda found: found.insert(table, mine, theirs),
    )


def _cutting(rows: Backup, cut: Sequence[Values]) -> Callable[[Hand], None]:
    owners = _owners(rows)

    def perform(found: Hand) -> None:
        for entry in reversed(cut):
            table, row = owners[entry["kind"], entry["key"]]
            found.run("DELETE FROM revision_edits WHERE revision = ?", [entry["key"]])
            found.delete(table, row)
            found.delete("log_entries", entry)
        _point_at_last_revisions(found)

    return perform


def _rewrite(found: Hand, *, rows: Backup, start: int, actor: str) -> None:
    owners = _owners(rows)
    renamed: dict[str, str] = {}
    for entry in rows["log_entries"][start:]:
        table, row = owners[entry["kind"], entry["key"]]
        digest = LOGGED[LogKind(entry["kind"])].digest
        body = bytes(row["body"])
        if entry["position"] == start:
            body = _spelt(json.loads(body) | {"actor": actor})
        for old, new in renamed.items():
            body = body.replace(old.encode(), new.encode())
        if body == bytes(row["body"]):
            continue
        renamed[row[digest]] = _digest(body)
        values: Values = {"body": body, digest: renamed[row[digest]]}
        for column in ("parent", "report"):
            if column in row:
                values[column] = renamed.get(row[column], row[column])
        found.update(table, row, values)
        key = renamed.get(entry["key"], entry["key"])
        found.update("log_entries", entry, {"key": key, "digest": renamed[row[digest]]})
    for use in rows["revision_edits"]:
        moved = {name: renamed.get(use[name], use[name]) for name in ("revision", "report")}
        found.update("revision_edits", use, moved)
    _point_at_last_revisions(found)


def _point_at_last_revisions(found: Hand) -> None:
    """Let every branch point at the last revision that is there; drop those without any."""
    made = found.rows("revisions")
    for branch in found.rows("branches"):
        own = [r for r in made if (r["model"], r["branch"]) == (branch["model"], branch["name"])]
        if not own:
            found.delete("branches", branch)
            continue
        last = max(own, key=lambda row: row["sequence"])
        found.update("branches", branch, {"head": last["id"], "sequence": last["sequence"]})


def _owners(rows: Backup) -> dict[tuple[str, str], tuple[str, Values]]:
    """The row that each entry of the log stands for, by kind and key."""
    return {
        (kind.value, str(row[logged.key])): (logged.table.name, row)
        for kind, logged in LOGGED.items()
        for row in rows[logged.table.name]
    }


def _entry_of(rows: Backup, kind: LogKind, row: Values) -> Values:
    key = str(row[LOGGED[kind].key])
    return next(e for e in rows["log_entries"] if (e["kind"], e["key"]) == (kind.value, key))


def _genesis(rows: Backup) -> int:
    """The position of the first revision's entry."""
    entries = rows["log_entries"]
    return next(int(e["position"]) for e in entries if e["kind"] == LogKind.REVISION)


def _another(
    column: Column[Any], value: object, rows: Sequence[Values], draw: random.Random
) -> object:
    if isinstance(value, bytes):
        spoilt = bytearray(value)
        spoilt[draw.randrange(len(spoilt))] ^= 1 << draw.randrange(8)
        return bytes(spoilt)
    if isinstance(value, int):
        return max(0, value + draw.choice((-1, 1, 2, 7)))
    others = sorted({str(row[column.name]) for row in rows} - {str(value)})
    if others and draw.random() < 0.5:
        return draw.choice(others)
    said = str(value)
    if len(said) == 64:
        return _digest(said.encode())
    return f"{said}x" if said else "x"


def _forged(row: Values, draw: random.Random) -> bytes:
    """A body that says something else, spelt as canonically."""
    fields = json.loads(bytes(row["body"]))
    _reword(fields, draw)
    return _spelt(fields)


def _reword(fields: Values, draw: random.Random) -> None:
    """Change one text or number somewhere in a body."""
    names = [name for name, value in fields.items() if isinstance(value, str | int | dict | list)]
    name = draw.choice(sorted(names))
    value = fields[name]
    if isinstance(value, dict) and value:
        _reword(value, draw)
    elif isinstance(value, list):
        fields[name] = [*value, *value[:1]] if value else ["x"]
    elif isinstance(value, bool | int):
        fields[name] = int(value) + 1
    else:
        fields[name] = f"{value}x"


def _spelt(fields: Values) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
