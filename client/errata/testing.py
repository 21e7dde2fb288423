"""A real errata server of your own, for tests and for trying things out.

::

    with errata.testing.server() as running, errata.Client(running.address) as client:
        ...

Invariants: the server listens on this machine alone, on a free port; its ledger is new and
goes when the context ends, unless one was given; nothing of the caller's environment
configures it. The server is a process of its own: this module imports none of its code.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from errata._errors import ErrataError, UnavailableError

_LOOK_AGAIN: Final = 0.05
_STOP_PATIENCE: Final = 30.0
_LOG_LINES: Final = 5
_SERVER_PACKAGES: Final = ("torch", "transformers", "sqlalchemy", "alembic", "structlog")
"""What ``errata[server]`` brings: the server's code comes with the client, these do not."""


class ServerNotInstalledError(ErrataError):
    """This Python has the client alone."""

    reason = "SERVER_NOT_INSTALLED"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A server that is ready."""

    address: str
    metrics_url: str
    ledger: str
    model: str
    process_id: int
    log: Path
    """What the server has written to stderr: JSON, a line an event."""


@contextmanager
def server(
    model: str = "bundled",
    *,
    ledger: str | None = None,
    timeout: float = 300.0,
    arguments: Sequence[str] = (),
) -> Iterator[RunningServer]:
    """Start ``errata-server``, wait until it is ready, stop it at the end.

    Args:
        model: ``bundled``, a checkpoint's folder or a hub id.
        ledger: URL of the ledger's database; a new SQLite file where not given.
        timeout: Seconds the server may take to be ready.
        arguments: More arguments of ``errata-server serve``.

    Raises:
        ServerNotInstalledError: ``errata[server]`` is not installed here.
        UnavailableError: the server ended, or was not ready in time; says what it logged.
    """
    command = _server_command()
    with ExitStack() as stack:
        # Cleaning up must not fail over a file that the database still holds for a moment.
        temporary = tempfile.TemporaryDirectory(prefix="errata-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(temporary))
        url = ledger or f"sqlite:///{folder / 'ledger.db'}"
        ready, log = folder / "ready.json", folder / "server.log"
        command += ["serve", "--model", model, "--ledger", url, "--listen", "127.0.0.1:0"]
        command += ["--metrics-port", "0", "--ready-file", str(ready), *arguments]
        process = _started(command, log)
        stack.callback(_stop, process)
        _wait_until_ready(process, ready, log, timeout)
        said = json.loads(ready.read_text(encoding="utf-8"))
        yield RunningServer(
            address=said["address"],
            metrics_url=said["metrics"],
            ledger=url,
            model=said["model"],
            process_id=process.pid,
            log=log,
        )


def _server_command() -> list[str]:
    if any(importlib.util.find_spec(package) is None for package in _SERVER_PACKAGES):
        raise ServerNotInstalledError(
            "the server is not installed here; install it with: pip install 'errata[server]'"
        )
    return [sys.executable, "-m", "errata_server"]


def _started(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    inherited = {name: value for name, value in os.environ.items() if name[:7] != "ERRATA_"}
    # The child must find the package where this process does, installed or not.
    inherited["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    with log.open("wb") as stderr:
        return subprocess.Popen(  # noqa: S603 - our own server, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=inherited,
            # Ctrl-C in a terminal reaches the whole group: the client decides when to stop.
            start_new_session=True,
        )


def _wait_until_ready(
    process: subprocess.Popen[bytes], ready: Path, log: Path, timeout: float
) -> None:
    deadline = time.monotonic() + timeout
    while not ready.exists():
        if process.poll() is not None:
            raise UnavailableError(
                f"the server ended with {process.returncode} before it was ready: {_tail(log)}",
                {"exit_code": str(process.returncode)},
            )
        if time.monotonic() >= deadline:
            raise UnavailableError(
                f"the server was not ready within {timeout:g} seconds: {_tail(log)}",
                {"timeout": f"{timeout:g}"},
            )
        time.sleep(_LOOK_AGAIN)


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return " / ".join(lines[-_LOG_LINES:]) or "it logged nothing"


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
