"""The port on which a supervisor is asked how its workers are: ``/health`` and ``/ready``, JSON over HTTP, here only.

The rule: whoever asks, and whatever they send, costs a few bytes and ends within seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Self

import msgspec

HOST = "127.0.0.1"
_PATIENCE_S = 5.0
_MOST_BYTES = 16_384
_REASONS = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}

Answer = Callable[[], tuple[bool, object]]


class HealthPort:
    """Listens while the block lasts.

    :param port: 0: any free one.
    :param answers: by path, what says whether all is well, and what to tell as JSON.
    :ivar port: where it listens.
    """

    def __init__(self, port: int, answers: Mapping[str, Answer]) -> None:
        self.port = port
        self._answers = answers
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        """Listen.

        :raises OSError: the port is taken.
        """
        self._server = await asyncio.start_server(self._meet, HOST, self.port, limit=_MOST_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, TimeoutError, EOFError, asyncio.LimitOverrunError):
                async with asyncio.timeout(_PATIENCE_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._answer(head))
                    await writer.drain()
        finally:
            writer.close()

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method not in {"GET", "HEAD"}:
            return _response(405, {"error": "GET only"}, method)
        if path not in self._answers:
            return _response(404, {"error": f"there are {', '.join(sorted(self._answers))}"}, method)
        ok, told = self._answers[path]()
        return _response(200 if ok else 503, told, method)


def _response(status: int, told: object, method: str) -> bytes:
    body = msgspec.json.encode(told) + b"\n"
    lines = [
        f"HTTP/1.1 {status} {_REASONS[status]}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
        *(["Allow: GET, HEAD"] if status == 405 else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else body)
