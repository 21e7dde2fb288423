"""A proxy before PostgreSQL that can lose a COMMIT, or the reply to one."""

import shutil
import socket
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

SIZE = 65_536


class LossyProxy:
    """Passes bytes between clients and a server's Unix socket."""

    def __init__(self, server: Path) -> None:
        self._server = server
        self._folder = Path(tempfile.mkdtemp(prefix="errata-proxy-"))
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._folder / ".s.PGSQL.5432"))
        self._listener.listen()
        self._lose: bool | None = None
        self._more = 0
        self.lost = 0
        """How many commits have been lost."""

    def url(self, database: str) -> str:
        """Where ``database`` is found through this proxy."""
        return f"postgresql://postgres:@/{database}?host={self._folder}"

    def lose_next_commit(self, *, after_it_happened: bool, times: int = 1) -> None:
        """Cut the connections that commit next, before or after the server has committed."""
        self._lose, self._more = after_it_happened, times - 1

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        shutil.rmtree(self._folder)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._server))
            for pump in (self._requests, self._replies):
                threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            while data := _received(client):
                if self._lose is not None and data.endswith(b"COMMIT\x00"):
                    happens = self._lose
                    self._lose = happens if self._more else None
                    self._more -= 1
                    self.lost += 1
                    client.shutdown(socket.SHUT_RDWR)
                    if happens:
                        server.sendall(data)
                        _received(server)
                    server.shutdown(socket.SHUT_RDWR)  # so that it lets go of its locks
                    return
                server.sendall(data)

    def _replies(self, client: socket.socket, server: socket.socket) -> None:
        while data := _received(server):
            try:
                client.sendall(data)
            except OSError:
                return


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(SIZE)
    except OSError:
        return b""
