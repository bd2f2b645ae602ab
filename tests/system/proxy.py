"""A proxy between client and server that does to them what networks do: swallow, cut, hold back, delay, refuse.

    with Proxy(server.url) as proxy:
        proxy.drop_replies(2, match=b"EVALSHA")
        ...                                        # two calls are executed, and their connections break
        assert proxy.counts["dropped"] == 2

It runs in a thread of its own, so that sync and async tests use it alike; a fault is in force when its method returns.
The rule: bytes are never reordered or invented; every fault that fires is counted, so that no test passes in vain.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, TypeVar
from urllib.parse import quote, unquote, urlsplit

from tests.system.resp import Splitter, command_name

T = TypeVar("T")
Direction = Literal["up", "down", "both"]  # up: towards the server

# Connecting is not what a fault without `match` is meant for.
HANDSHAKE = frozenset({"HELLO", "AUTH", "CLIENT", "SELECT", "READONLY"})
# After these, answers come unasked and cannot be paired with requests.
STREAMING = frozenset({"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "MONITOR"})
PIECE = 65_536


@dataclass
class Fault:
    """What is done to the next `left` requests that contain `match` (None: to any but a handshake)."""

    name: str  # what it is counted as
    left: int
    match: bytes | None
    part: bool = False

    def hits(self, command: bytes) -> bool:
        """Whether this request is meant; if so, one less is left."""
        meant = command_name(command) not in HANDSHAKE if self.match is None else self.match in command
        if self.left <= 0 or not meant:
            return False
        self.left -= 1
        return True


class Proxy:
    """One listening address before one server. `counts` tells what passed and what fired.

    Keys of `counts`: connections, commands, replies; dropped, cut, held, repeated, killed (what fired);
    unreachable (connections that found no server); and each command's name in capitals.
    """

    def __init__(self, upstream: str, *, unix: bool = False) -> None:
        self._upstream = urlsplit(upstream)
        self._unix = unix
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._folder = tempfile.mkdtemp(prefix="sl-proxy-") if unix else ""
        self._port = 0
        self._listener: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self.tally: Counter[str] = Counter()
        self.faults: list[Fault] = []
        self.failures: list[BaseException] = []  # mistakes of the proxy itself
        self.pause_s = self.pause_each_s = 0.0
        self.open_up, self.open_down, self.released = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._open_gates()

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        for failure in self.failures:
            raise failure

    @property
    def url(self) -> str:
        """Where clients connect; user, password and database are the upstream's."""
        user = f"{self._upstream.netloc.rpartition('@')[0]}@" if "@" in self._upstream.netloc else ""
        if self._unix:
            return f"unix://{user}{quote(self._socket)}?{self._upstream.query}"
        database = self._upstream.path if self._upstream.scheme != "unix" else ""
        query = f"?{self._upstream.query}" if self._upstream.query else ""
        return f"redis://{user}127.0.0.1:{self._port}{database}{query}"

    @property
    def counts(self) -> Counter[str]:
        """What passed and what fired so far."""
        return self.tally.copy()

    # --- faults that hit the next n requests ------------------------------------------------------------------------

    def drop_replies(self, n: int = 1, match: bytes | None = None) -> None:
        """Let the server execute the next `n` matching requests; swallow each reply, and cut the connection."""
        self._add(Fault("dropped", n, match))

    def cut_requests(self, n: int = 1, match: bytes | None = None, *, part: bool = False) -> None:
        """Cut the connection instead of forwarding the next `n` matching requests; `part`: half of it gets there."""
        self._add(Fault("cut", n, match, part))

    def repeat_requests(self, n: int = 1, match: bytes | None = None) -> None:
        """Send the next `n` matching requests to the server twice; the client gets the first answer only."""
        self._add(Fault("repeated", n, match))

    def hold(self, n: int = 1, match: bytes | None = None) -> None:
        """Keep the next `n` matching requests, and what follows on their connections, until `release`.

        They reach the server then even if the client has closed the connection: a late request.
        """

        async def close_gate() -> None:
            self.released.clear()
            self.faults.append(Fault("held", n, match))

        self._do(close_gate)

    def release(self) -> None:
        """Let go of what is held; nothing more is held."""

        async def open_gate() -> None:
            self.faults = [fault for fault in self.faults if fault.name != "held"]
            self.released.set()

        self._do(open_gate)

    # --- faults that last -------------------------------------------------------------------------------------------

    def blackhole(self, direction: Direction = "both") -> None:
        """Let nothing pass in this direction, and tell nobody, until `heal`; what waits is delivered then, as TCP does.

        What waits towards the server is delivered even if the client has closed meanwhile; `kill_all` drops it.
        """

        async def close_gates() -> None:
            if direction != "down":
                self.open_up.clear()
            if direction != "up":
                self.open_down.clear()

        self._do(close_gates)

    def delay(self, ms: float, *, each: bool = False) -> None:
        """Deliver what the server answers `ms` later, or each answer `ms` after the one before it; 0 ends it."""

        async def set_pause() -> None:
            self.pause_s, self.pause_each_s = (0.0, ms / 1000) if each else (ms / 1000, 0.0)

        self._do(set_pause)

    def refuse(self) -> None:
        """Refuse new connections until `heal`; those that are open stay."""
        self._do(self._stop_listening)

    def heal(self) -> None:
        """End all faults; deliver what waits."""

        async def end() -> None:
            self.faults.clear()
            self.pause_s = self.pause_each_s = 0.0
            self._open_gates()
            await self._listen()

        self._do(end)

    def point_at(self, upstream: str) -> None:
        """Lead new connections to another server; those that are open stay where they are."""

        async def turn() -> None:
            self._upstream = urlsplit(upstream)

        self._do(turn)

    def kill_all(self) -> int:
        """Cut every open connection, with all that waits on it; return how many there were."""

        async def kill() -> int:
            connections = list(self._connections)
            for connection in connections:
                connection.cut()
            self.tally["killed"] += len(connections)
            return len(connections)

        return self._do(kill)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _do(self, work: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def _add(self, fault: Fault) -> None:
        async def add() -> None:
            self.faults.append(fault)

        self._do(add)

    def fires(self, name: str, command: bytes) -> Fault | None:
        """Return the fault of this name that hits the request, and count it."""
        for fault in self.faults:
            if fault.name == name and fault.hits(command):
                self.tally[name] += 1
                return fault
        return None

    def _open_gates(self) -> None:
        for gate in (self.open_up, self.open_down, self.released):
            gate.set()

    @property
    def _socket(self) -> str:
        return str(Path(self._folder, "proxy.sock"))

    async def _listen(self) -> None:
        if self._listener is not None:
            return
        if self._unix:
            self._listener = await asyncio.start_unix_server(self._accept, self._socket)
        else:
            self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
            self._port = self._listener.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _close(self) -> None:
        await self._stop_listening()
        for connection in list(self._connections):
            connection.cut()
        while self._connections:
            await asyncio.gather(*(connection.ended.wait() for connection in self._connections))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tally["connections"] += 1
        try:
            upstream = await self._connect()
        except OSError:
            self.tally["unreachable"] += 1
            writer.transport.abort()
            return
        connection = _Connection(self, (reader, writer), upstream)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._upstream.scheme == "unix":
            return await asyncio.open_unix_connection(unquote(self._upstream.path))
        return await asyncio.open_connection(self._upstream.hostname, self._upstream.port or 6379)


class _Connection:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(
        self,
        proxy: Proxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._from_client, self._to_client = client
        self._from_server, self._to_server = server
        self._unanswered: deque[tuple[bytes, bool]] = deque()  # (request, whether the client gets the answer)
        self._streaming = False
        self._pumps: list[asyncio.Task[None]] = []
        self.ended = asyncio.Event()

    async def run(self) -> None:
        """Pump both ways until the server's side ends: a client that has gone may have left a late request behind."""
        up, down = asyncio.create_task(self._pump_up()), asyncio.create_task(self._pump_down())
        self._pumps = [up, down]
        try:
            await asyncio.wait([down])
        finally:
            self.cut()
            await asyncio.wait([up, down])
            self._proxy.failures += [
                failure
                for pump in (up, down)
                if not pump.cancelled() and (failure := pump.exception()) and not isinstance(failure, OSError)
            ]
            self.ended.set()

    def cut(self) -> None:
        """Break both sides at once, whatever is under way."""
        self._to_client.transport.abort()
        self._to_server.transport.abort()
        for pump in self._pumps:
            pump.cancel()

    async def _pump_up(self) -> None:
        splitter = Splitter()
        while data := await self._read_client():
            for command in splitter.feed(data):
                await self._request(command)
        await self._proxy.open_up.wait()
        self._to_server.write_eof()

    async def _read_client(self) -> bytes:
        # A client that breaks the connection is one that ends it: what it has sent before still goes its way.
        with contextlib.suppress(ConnectionError):
            return await self._from_client.read(PIECE)
        return b""

    async def _request(self, command: bytes) -> None:
        proxy, name = self._proxy, command_name(command)
        proxy.tally.update(("commands", name))
        await proxy.open_up.wait()
        if proxy.fires("held", command):
            await proxy.released.wait()
        if cut := proxy.fires("cut", command):
            if cut.part:
                self._to_server.write(command[: len(command) // 2])
                await self._to_server.drain()
            self.cut()
            await asyncio.sleep(0)  # noqa: TID251 - the cancellation arrives here
        self._streaming = self._streaming or name in STREAMING
        self._unanswered.append((command, True))
        self._to_server.write(command)
        if proxy.fires("repeated", command):
            self._unanswered.append((command, False))
            self._to_server.write(command)
        await self._to_server.drain()

    async def _pump_down(self) -> None:
        splitter = Splitter()
        while data := await self._from_server.read(PIECE):
            if self._proxy.pause_s:
                await asyncio.sleep(self._proxy.pause_s)  # noqa: TID251 - the fault itself
            for reply in splitter.feed(data):
                if self._proxy.pause_each_s:
                    await asyncio.sleep(self._proxy.pause_each_s)  # noqa: TID251 - as above
                await self._reply(reply)
            if not self._to_client.is_closing():
                with contextlib.suppress(ConnectionError):
                    await self._to_client.drain()
        await self._proxy.open_down.wait()
        self._to_client.close()

    async def _reply(self, reply: bytes) -> None:
        proxy, wanted = self._proxy, True
        await proxy.open_down.wait()
        unasked = self._streaming or reply.startswith(b">") or not self._unanswered
        if not unasked:
            command, wanted = self._unanswered.popleft()
            proxy.tally["replies"] += 1
            if wanted and proxy.fires("dropped", command):
                self.cut()
                await asyncio.sleep(0)  # noqa: TID251 - the cancellation arrives here
        if wanted and not self._to_client.is_closing():
            self._to_client.write(reply)
