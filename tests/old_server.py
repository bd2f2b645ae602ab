"""A server that claims to be old: it answers INFO with what it is given, and OK to everything else."""

from __future__ import annotations

import socketserver
import threading
from types import TracebackType
from typing import Self

from tests.system.resp import Splitter, command_name


class OldServer:
    """Listens on a loopback port. ``seen`` holds the names of the commands that came."""

    def __init__(self, info: str) -> None:
        reply = f"${len(info)}\r\n{info}\r\n".encode()
        seen = self.seen = set[str]()

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                splitter = Splitter()
                while data := self.request.recv(65_536):
                    for command in splitter.feed(data):
                        name = command_name(command)
                        seen.add(name)
                        self.request.sendall(reply if name == "INFO" else b"+OK\r\n")

        socketserver.ThreadingTCPServer.daemon_threads = True
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(poll_interval=0.01), daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self._server.server_address[1]}/0"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
