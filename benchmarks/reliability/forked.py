"""Processes forked from one that has imported everything, so that many can be killed.

Nine tenths of a server's start are imports, which no kill is about. What is forked is
`errata-server serve` itself: it reads its arguments, opens its ledger, loads its model, and
is a process of its own with nothing of any server before it.
"""

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

import errata
import errata.testing

PATIENCE: Final = 300.0
STOP_PATIENCE: Final = 30.0
LOOK_AGAIN: Final = 0.02
LOG_BYTES: Final = 2_000
IMPORTED: Final = ("errata_server.__main__", "errata_server.engine.engine")
processes = multiprocessing.get_context("forkserver")
"""Starts processes from the one that has imported everything."""

processes.set_forkserver_preload(["benchmarks.reliability.ledger_kills", *IMPORTED])


@contextmanager
def server(ledger: str) -> Iterator[errata.testing.RunningServer]:
    """A server with the bundled model on ``ledger``, once it is ready; stopped at the end.

    Raises:
        UnavailableError: the server ended, or was not ready in time; says what it logged.
    """
    with ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="errata-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(temporary))
        ready, log = folder / "ready.json", folder / "server.log"
        arguments = ["--model", "bundled", "--ledger", ledger, "--listen", "127.0.0.1:0"]
        arguments += ["--metrics-port", "0", "--ready-file", str(ready)]
        process = processes.Process(target=serve, args=(arguments, log), daemon=True)
        process.start()
        stack.callback(_stop, process)
        _wait_until_ready(process, ready, log)
        said = json.loads(ready.read_text(encoding="utf-8"))
        yield errata.testing.RunningServer(
            address=said["address"],
            metrics_url=said["metrics"],
            ledger=ledger,
            model=said["model"],
            process_id=said["pid"],
            log=log,
        )


def serve(arguments: list[str], log: Path) -> None:
    """The forked process: becomes a server that nothing of its parent's environment configures."""
    from errata_server.__main__ import cli  # noqa: PLC0415 - imported before it is forked

    for name in [name for name in os.environ if name.startswith("ERRATA_")]:
        del os.environ[name]
    os.setsid()  # Ctrl-C is for the benchmark
    with log.open("wb") as stderr, Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(stderr.fileno(), 2)
    cli(["serve", *arguments])


def _wait_until_ready(process: BaseProcess, ready: Path, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready.exists():
        if not process.is_alive() or time.monotonic() >= deadline:
            said = log.read_bytes()[-LOG_BYTES:].decode(errors="replace") if log.exists() else ""
            raise errata.UnavailableError(
                f"the server was not ready, exit code {process.exitcode}: {said}"
            )
        time.sleep(LOOK_AGAIN)


def _stop(process: BaseProcess) -> None:
    process.terminate()
    process.join(STOP_PATIENCE)
    process.kill()
    process.join()
