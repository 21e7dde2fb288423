"""The ledger's URL: which database, and how long and how often to try it.

Invariants: a parameter of ours never reaches a driver, and a driver's own (TLS above all)
reaches it as it was written; one that neither knows is refused; no message repeats a URL or a
value of it, as either may hold a password.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.util import asbool

from errata_server.domain.errors import InvalidInputError

SQLITE: Final = "sqlite"
POSTGRESQL: Final = "postgresql"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What a URL's query may say of connections: `pool_size=20&lock_timeout=2`."""

    pool_size: int = 10
    """Connections kept open."""

    pool_overflow: int = 10
    """Connections opened beyond those while all of them are busy."""

    pool_timeout: float = 5.0
    """Seconds to wait for a free connection."""

    pool_recycle: int = 1_800
    """Seconds after which a connection is replaced when it is next asked for."""

    lock_timeout: float
    """Seconds a writer waits for another one."""

    statement_timeout: float = 10.0
    """Seconds one statement may take; PostgreSQL."""

    idle_timeout: float = 15.0
    """Seconds a transaction may wait for its next statement; PostgreSQL."""


TUNING: Final[Mapping[str, Tuning]] = {
    SQLITE: Tuning(lock_timeout=5.0),
    POSTGRESQL: Tuning(lock_timeout=2.0),
}
_WHOLE: Final = frozenset({"pool_size", "pool_overflow", "pool_recycle"})
_POSTGRESQL_ONLY: Final = frozenset({"statement_timeout", "idle_timeout"})
_NAMES: Final = _WHOLE | _POSTGRESQL_ONLY | {"pool_timeout", "lock_timeout"}
_LARGEST: Final = 1_000_000

_SQLITE_DRIVER: Final = frozenset({"cached_statements", "check_same_thread", "detect_types", "uri"})
_SQLITE_FILE: Final = frozenset({"cache", "immutable", "mode", "modeof", "nolock", "psow", "vfs"})
"""What SQLite itself reads where the file is given as a URI."""

_FOR_EACH_SERVER: Final = frozenset({"host", "port"})
"""Parameters of libpq's that may be given several times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerUrl:
    """A URL taken apart."""

    driver: URL
    """What the driver is given."""

    tuning: Tuning

    @property
    def kind(self) -> str:
        """`SQLITE` or `POSTGRESQL`."""
        return self.driver.get_backend_name()


def read_url(url: str) -> LedgerUrl:
    """``url`` taken apart.

    Raises:
        InvalidInputError: it is malformed or names another kind of database, a parameter of
            it is unknown or cannot be used, or PostgreSQL's driver is not installed.
    """
    parsed = _database(url)
    kind = parsed.get_backend_name()
    _require_usable(url, parsed)
    ours = {name: value for name, value in parsed.query.items() if name in _NAMES}
    given = {name: _number(name, value, kind) for name, value in ours.items()}
    defaults = TUNING[kind]
    return LedgerUrl(
        driver=parsed.difference_update_query(ours),
        tuning=Tuning(
            pool_size=int(given.get("pool_size", defaults.pool_size)),
            pool_overflow=int(given.get("pool_overflow", defaults.pool_overflow)),
            pool_timeout=given.get("pool_timeout", defaults.pool_timeout),
            pool_recycle=int(given.get("pool_recycle", defaults.pool_recycle)),
            lock_timeout=given.get("lock_timeout", defaults.lock_timeout),
            statement_timeout=given.get("statement_timeout", defaults.statement_timeout),
            idle_timeout=given.get("idle_timeout", defaults.idle_timeout),
        ),
    )


def _database(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise _malformed() from None
    backend = parsed.drivername.partition("+")[0]
    if backend not in {SQLITE, POSTGRESQL, "postgres"}:
        raise InvalidInputError(
            f"the ledger cannot be kept in {backend}; use sqlite:///PATH or postgresql://HOST/NAME",
            field="ledger",
            backend=backend,
        )
    if backend == SQLITE and parsed.database in {None, "", ":memory:"}:
        raise InvalidInputError(
            "the ledger must be a file to outlive the server; write sqlite:///PATH",
            field="ledger",
        )
    return parsed.set(drivername=SQLITE if backend == SQLITE else f"{POSTGRESQL}+psycopg")


def _require_usable(url: str, parsed: URL) -> None:
    """Do nothing if every parameter is ours or the driver's, and the driver can be called."""
    try:
        drivers = _parameters_of_driver(parsed)
        for name in _names(url, parsed) - _NAMES:
            if name not in drivers:
                raise _unusable(name, _unknown(parsed))
            if not isinstance(parsed.query.get(name, ""), str) and name not in _FOR_EACH_SERVER:
                raise _unusable(name, "must be given once")
        parsed.get_dialect()().create_connect_args(parsed.difference_update_query(_NAMES))
    except (ArgumentError, ValueError):
        raise _malformed() from None


def _names(url: str, parsed: URL) -> set[str]:
    """The names of all parameters, those that SQLAlchemy drops for want of a value too."""
    query = url.rpartition("@")[2].partition("?")[2]  # what is before an @ may be a password
    return {*parsed.query, *(name for name, _ in parse_qsl(query, keep_blank_values=True))}


def _parameters_of_driver(parsed: URL) -> frozenset[str]:
    if parsed.get_backend_name() == SQLITE:
        is_uri = asbool(parsed.query.get("uri", False))
        return _SQLITE_DRIVER | _SQLITE_FILE if is_uri else _SQLITE_DRIVER
    try:
        # Imported here: only a PostgreSQL ledger needs the driver.
        from psycopg import pq  # noqa: PLC0415
    except ImportError as error:
        raise InvalidInputError(
            "a PostgreSQL ledger needs psycopg; install it with pip install 'errata[postgres]'",
            field="ledger",
        ) from error
    return frozenset(option.keyword.decode() for option in pq.Conninfo.get_defaults())


def _unknown(parsed: URL) -> str:
    if parsed.get_backend_name() == SQLITE:
        return f"is unknown; take one of {', '.join(sorted(_NAMES - _POSTGRESQL_ONLY))}"
    return f"is unknown; take one of libpq's or of {', '.join(sorted(_NAMES))}"


def _number(name: str, value: str | tuple[str, ...], kind: str) -> float:
    if kind == SQLITE and name in _POSTGRESQL_ONLY:
        raise _unusable(name, "is for PostgreSQL; leave it out of a sqlite:/// URL")
    try:
        number = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        number = math.nan
    lowest = 1 if name == "pool_size" else 0
    if not lowest <= number <= _LARGEST or (name in _WHOLE and not number.is_integer()):
        whole = "a whole number" if name in _WHOLE else "a number of seconds"
        raise _unusable(name, f"must be given once, as {whole} from {lowest} to {_LARGEST}")
    return number


def _malformed() -> InvalidInputError:
    return InvalidInputError(
        "the ledger's URL is malformed; write sqlite:///PATH or postgresql://HOST/NAME",
        field="ledger",
    )


def _unusable(name: str, problem: str) -> InvalidInputError:
    return InvalidInputError(
        f"the parameter {name} of the ledger's URL {problem}", field="ledger", parameter=name
    )
