"""The databases a suite runs on: SQLite files and a PostgreSQL server of its own."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from pathlib import Path

from benchmarks.postgresql import PostgresqlServer
from errata_server.ledger.database import Database
from errata_server.ledger.ledger import Ledger
from errata_server.ledger.migrate import migrate


class Kind(StrEnum):
    """A kind of database a ledger can be kept in."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"


@dataclass(slots=True, kw_only=True)
class Store:
    """Gives out migrated, empty ledgers of one kind of database."""

    kind: Kind
    folder: Path
    postgresql: PostgresqlServer | None = None
    """The server the ledgers are on, where they are on one."""

    _numbers: "count[int]" = field(default_factory=count)

    def fresh(self) -> str:
        """The URL of a ledger nobody has written to."""
        name = f"ledger_{next(self._numbers)}"
        if self.postgresql is None:
            url = f"sqlite:///{self.folder / name}.db"
        else:
            url = self.postgresql.create(name)
        migrate(url)
        return url

    def drop(self, url: str) -> None:
        """Give up a ledger that `fresh` gave."""
        if self.postgresql is None:
            for path in self.folder.glob(f"{Path(url).name}*"):
                path.unlink()
        else:
            self.postgresql.drop(Path(url.partition("?")[0]).name)

    @contextmanager
    def ledger(self) -> Iterator[str]:
        """A fresh ledger's URL, dropped at the end."""
        url = self.fresh()
        try:
            yield url
        finally:
            self.drop(url)


@contextmanager
def stores(kinds: Sequence[Kind], *, durable: bool = False) -> Iterator[tuple[Store, ...]]:
    """A store of each kind; all of it goes at the end."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="errata-reliability-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        found = []
        for kind in kinds:
            server = None
            if kind is Kind.POSTGRESQL:
                server = stack.enter_context(PostgresqlServer(durable=durable))
            found.append(Store(kind=kind, folder=folder, postgresql=server))
        yield tuple(found)


@contextmanager
def opened(url: str) -> Iterator[Ledger]:
    """The ledger at ``url`` over connections of its own."""
    database = Database(url)
    try:
        yield Ledger(database)
    finally:
        database.close()
