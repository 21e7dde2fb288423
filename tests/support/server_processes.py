"""A server in a process of its own, to be ended by signals."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.torch_servers import TINY, ledger_url

PATIENCE = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProcess:
    """A server that is ready, or was."""

    address: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def events(self) -> list[dict[str, Any]]:
        """What it has logged."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]


@contextmanager
def server_process(
    folder: Path, checkpoint: Path, *arguments: str, name: str = "server", ledger: str = ""
) -> Iterator[ServerProcess]:
    """``errata-server serve`` on the files that `torch_servers.assemble` left in ``folder``.

    Several may run in one folder under names of their own; ``ledger`` is another one than the
    folder's.
    """
    ready, log = folder / f"{name}-ready.json", folder / f"{name}.log"
    ready.unlink(missing_ok=True)
    files = {"--policy": "policy", "--known-facts": "known_facts", "--texts": "texts"}
    command = [sys.executable, "-m", "errata_server", "serve", "--listen", "127.0.0.1:0"]
    command += ["--model", str(checkpoint), "--model-id", TINY]
    command += ["--ledger", ledger or ledger_url(folder)]
    command += ["--cache", str(folder / "cache"), "--ready-file", str(ready)]
    for option, file in files.items():
        command += [option, str(folder / f"{file}.json")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.DEVNULL, stderr=stderr, env=environment
        )
    try:
        said = _once_ready(process, ready, log)
        yield ServerProcess(address=said["address"], process=process, log=log)
    finally:
        process.kill()
        process.wait()


def _once_ready(process: "subprocess.Popen[bytes]", ready: Path, log: Path) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE
    while not ready.exists():
        assert process.poll() is None, log.read_text(encoding="utf-8")
        assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
        time.sleep(0.02)
    said: dict[str, Any] = json.loads(ready.read_text(encoding="utf-8"))
    return said
