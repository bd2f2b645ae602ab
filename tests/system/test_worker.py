"""``streamlayer worker``: processes that are started, restarted, taken out of their groups, and ended in good order."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamlayer import Admin, NewTopic, Producer
from streamlayer.embedded import Server
from tests import servers
from tests.system.worker_crew import ROOT, WorkerCrew, is_alive
from tests.waiting import aio_wait_until, sync_wait_until

pytestmark = pytest.mark.system

SHOP = """
@app.consumer("orders", group_id="billing")
async def bill(value: bytes, record: ConsumerRecord):
    note(record)
"""


@pytest.fixture
def url() -> Iterator[str]:
    """A server for each test: the topic and the group have the same names in all of them."""
    with Server(binary=servers.binary("valkey")) as server:
        with Admin(url=server.url) as admin:
            admin.create_topics([NewTopic("orders", 4)])
        yield server.url


def members(url: str) -> dict[str, int]:
    """How many partitions each member of the group has."""
    with Admin(url=url) as admin:
        return {
            member.member_id: len(member.assignment)
            for group in admin.describe_groups().values()
            for member in group.members
        }


def test_a_worker_s_life(url: str, tmp_path: Path) -> None:
    """Two processes share the partitions, say so, answer on the port, handle what comes, and end with status 0."""
    with WorkerCrew(url, tmp_path, SHOP, "--processes", "2") as crew:
        crew.wait_until_ready()
        assert sorted(members(url).values()) == [2, 2]
        crew.said(r"group billing: worker 1 has orders:[\d,-]+, worker 2 has orders:[\d,-]+\n")
        status, told = crew.ask("/health")
        assert (status, told["ok"], told["reasons"]) == (200, True, [])
        assert [(each["worker"], each["state"], each["groups"]) for each in told["workers"]] == [
            (1, "ok", ["billing"]),
            (2, "ok", ["billing"]),
        ]
        with Producer(url=url) as producer:
            producer.send_many("orders", [b"%d" % n for n in range(100)], [b"key-%d" % (n % 9) for n in range(100)])
        sync_wait_until(lambda: len(crew.notes()) == 100, "all is handled")
        assert crew.stop() == 0
        assert members(url) == {}
        pids = crew.said(r"worker \d started: pid (\d+)")
        assert [pid for pid in pids if is_alive(int(pid))] == []
        crew.said(r"worker \d \(pid \d+\) ended with status 0 after", times=2)
        assert crew.log().endswith("stopped\n")
        assert not re.search("WARNING|ERROR|Traceback", crew.log())
    assert len({note.pid for note in crew.notes()}) == 2
    assert len({(note.partition, note.offset) for note in crew.notes()}) == 100


@pytest.mark.alone
def test_a_killed_process(url: str, tmp_path: Path) -> None:
    """It leaves its groups at once and another takes its place: its partitions flow again within 300 ms (median)."""
    waits: list[float] = []
    with WorkerCrew(url, tmp_path, SHOP, "--processes", "3") as crew:
        crew.wait_until_ready()
        with Producer(url=url, linger_ms=0) as producer:
            for number in (1, 2, 3, 1, 2):
                sync_wait_until(lambda: sorted(members(url).values()) == [1, 1, 2], "three members have partitions")
                before = len(crew.notes())
                victim = crew.kill(number)
                for partition in range(4):
                    producer.send("orders", b"after-a-kill", partition=partition)
                producer.flush()
                sync_wait_until(lambda seen=before: len(crew.notes()) >= seen + 4, "all partitions flow")
                waits.append(max(note.at for note in crew.notes()[before:]) - crew.killed[victim])
                assert victim not in {note.pid for note in crew.notes()[before:]}
        crew.said(r"worker \d was taken out of group billing after \d+ ms", times=5)
        assert crew.stop() == 0
    assert statistics.median(waits) < 0.3, waits


def test_no_thread_holds_a_place(url: str, tmp_path: Path) -> None:
    """A process that has left its groups, and does not end since a thread of its user's goes on, ends all the same."""
    shop = (
        SHOP
        + """
threading.Thread(target=threading.Event().wait).start()
"""
    )
    with WorkerCrew(url, tmp_path, shop) as crew:
        crew.wait_until_ready()
        pid = crew.pid(1)
        assert pid is not None
        os.kill(pid, signal.SIGTERM)
        crew.said(r"worker 1 \(pid \d+\) ended with status 1")
        crew.said(r"worker 1 started: pid \d+", times=2)


def test_a_child_without_a_supervisor_whose_loop_is_held(url: str, tmp_path: Path) -> None:
    """It ends too, after the grace time and what is on top of it, though no handler lets it."""
    with WorkerCrew(url, tmp_path, STUBBORN, "--grace-ms", "0") as crew:
        crew.wait_until_ready()
        pid = crew.pid(1)
        assert pid is not None
        with Producer(url=url) as producer:
            producer.send("orders", b"block", partition=0)
        sync_wait_until(crew.notes, "it blocks the event loop")
        crew.process.kill()
        sync_wait_until(lambda: not is_alive(pid), "it has ended")


def test_nobody_outlives_the_supervisor(url: str, tmp_path: Path) -> None:
    """When it is killed, its children see it, finish, leave their groups and end."""
    with WorkerCrew(url, tmp_path, SHOP, "--processes", "2") as crew:
        crew.wait_until_ready()
        pids = [int(pid) for pid in crew.said(r"worker \d started: pid (\d+)")]
        crew.process.kill()
        crew.process.wait()
        sync_wait_until(lambda: not any(map(is_alive, pids)), "they have ended")
        assert members(url) == {}
        assert crew.log().count("the supervisor is gone: ending") == 2


STUBBORN = """
@app.consumer("orders", group_id="billing", session_timeout_ms=60_000)
async def bill(value: bytes, record: ConsumerRecord):
    note(record)
    if value == b"hang":
        await asyncio.Event().wait()
    if value == b"block":
        threading.Event().wait()
    if value == b"exit":
        os._exit(7)
"""


def test_the_second_signal(url: str, tmp_path: Path) -> None:
    """A handler that does not end is waited for; the second Ctrl-C ends all at once, and nobody is left in a group."""
    with WorkerCrew(url, tmp_path, STUBBORN, "--processes", "2") as crew:
        crew.wait_until_ready()
        with Producer(url=url) as producer:
            producer.send("orders", b"hang", partition=0)
        sync_wait_until(crew.notes, "it hangs")
        os.killpg(crew.process.pid, signal.SIGINT)  # as a terminal does: to the children too, who ignore it
        crew.said(r"worker \d \(pid \d+\) ended with status 0")
        assert crew.process.poll() is None
        assert crew.ask("/ready")[0] == 503
        os.killpg(crew.process.pid, signal.SIGINT)
        assert crew.process.wait(10) == 130
        assert members(url) == {}
        assert "Traceback" not in crew.log()
        assert crew.log().endswith("stopped at once\n")


def test_a_handler_that_does_not_end(url: str, tmp_path: Path) -> None:
    """After the grace time, and what is on top of it, its process is killed, and the exit status says so."""
    with WorkerCrew(url, tmp_path, STUBBORN, "--grace-ms", "0") as crew:
        crew.wait_until_ready()
        with Producer(url=url) as producer:
            producer.send("orders", b"block", partition=0)
        sync_wait_until(crew.notes, "it blocks the event loop")
        assert crew.stop() == 1
        crew.said(r"worker 1 \(pid \d+\) did not end in time: it is killed")
        assert members(url) == {}


def test_health_says_what_is_wrong(url: str, tmp_path: Path) -> None:
    """A process that dies again and again is restarted ever later; one whose event loop is held is named."""
    with WorkerCrew(url, tmp_path, STUBBORN, "--processes", "2") as crew:
        crew.wait_until_ready()
        with Producer(url=url) as producer:
            producer.send("orders", b"exit", partition=0)
        crew.said(r"worker \d \(pid \d+\) ended with status 7", times=4)
        assert re.search(r"worker \d starts again in \d{3,4} ms", crew.log())
        status, told = sync_wait_until(
            lambda: found if (found := crew.ask("/health"))[0] == 503 else None, "health tells that one is away"
        )
        assert (status, told["ok"]) == (503, False)
        assert re.fullmatch(r"worker \d ended with status 7", told["reasons"][0])
        assert crew.ask("/ready")[0] == 503


def test_a_held_event_loop(url: str, tmp_path: Path) -> None:
    """A process that says nothing for seconds is named by `/health`, and is left alone: it may come back."""
    with WorkerCrew(url, tmp_path, STUBBORN) as crew:
        crew.wait_until_ready()
        with Producer(url=url) as producer:
            producer.send("orders", b"block", partition=0)
        status, told = sync_wait_until(
            lambda: found if (found := crew.ask("/health"))[0] == 503 else None, "health tells that it is stuck"
        )
        assert status == 503
        assert re.match(r"worker 1 has said nothing for \d+ s: it is stopped, or a handler holds", told["reasons"][0])


def test_a_child_dies_while_the_server_is_away(tmp_path: Path) -> None:
    """It is taken out of its group as soon as the server is back, long before its session is over."""
    shop = SHOP.replace('"billing"', '"billing", session_timeout_ms=60_000')
    with (
        Server(tmp_path / "data", binary=servers.binary("valkey")) as server,
        WorkerCrew(server.url, tmp_path, shop, "--processes", "2") as crew,
    ):
        with Admin(url=server.url) as admin:
            admin.create_topics([NewTopic("orders", 4)], exist_ok=True)
        servers.make_exact(server)
        crew.wait_until_ready()
        sync_wait_until(lambda: sorted(members(server.url).values()) == [2, 2], "both have partitions")
        server.kill()
        crew.kill(1)
        crew.said(r"worker 1 \(pid \d+\) was ended by SIGKILL")
        server.start()
        crew.said(r"worker 1 was taken out of group billing")
        sync_wait_until(lambda: sorted(members(server.url).values()) == [2, 2], "the new one has the old one's")
        assert crew.stop() == 0


def run(*args: str, folder: Path) -> tuple[int, str]:
    """The command's status, and its words as one line."""
    done = subprocess.run(
        [sys.executable, "-m", "streamlayer._cli", *args],
        check=False, cwd=folder, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, " ".join((done.stdout + done.stderr).replace("│", " ").split())


def test_a_module_that_sets_up_logging(url: str, tmp_path: Path) -> None:
    """What it says holds for the supervisor and for the processes."""
    shop = (
        SHOP
        + """
import logging
logging.basicConfig(format="MINE %(message)s", level="INFO")
"""
    )
    with WorkerCrew(url, tmp_path, shop) as crew:
        crew.wait_until_ready()
        crew.said(r"(?m)^MINE bill \(billing\) got orders")
        assert crew.stop() == 0
        assert {line.partition(" ")[0] for line in crew.log().splitlines()} == {"MINE"}


def test_lifespan(url: str, tmp_path: Path) -> None:
    """Each process runs the app's start-up and shut-down; one whose shut-down fails shows in the exit status."""
    shop = (
        """
import contextlib, logging

@contextlib.asynccontextmanager
async def lifespan(app):
    logging.info("opened")
    yield
    logging.info("closed")
    raise OSError("the drawer is stuck")

app = App(lifespan=lifespan)
"""
        + SHOP
    )
    with WorkerCrew(url, tmp_path, shop, "--processes", "2") as crew:
        crew.wait_until_ready()
        assert len(crew.said(r"\] opened\n")) == 2
        assert crew.stop() == 1
        assert len(crew.said(r"\] closed\n")) == 2
        assert crew.log().count("OSError: the drawer is stuck") == 2
        assert members(url) == {}


def test_ready_is_who_has_joined(url: str, tmp_path: Path) -> None:
    """While a process is still starting it is well, and not ready."""
    shop = (
        """
import contextlib

@contextlib.asynccontextmanager
async def lifespan(app):
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
    yield

app = App(lifespan=lifespan)
"""
        + SHOP
    )
    with WorkerCrew(url, tmp_path, shop) as crew:
        sync_wait_until(lambda: crew.ask("/health")[1]["workers"][0]["state"] == "new", "it says that it is new")
        assert crew.ask("/health")[0] == 200
        status, told = crew.ask("/ready")
        assert (status, told["reasons"]) == (503, ["worker 1 has not joined its groups yet"])
        (tmp_path / "go").touch()
        crew.wait_until_ready()
        assert sorted(members(url).values()) == [4]
        assert crew.stop() == 0


def test_wrong_usage(tmp_path: Path) -> None:
    """What cannot be run is said in plain words, with status 2, before any process is started."""
    (tmp_path / "shop.py").write_text("app = 1\n")
    status, said = run("worker", "shop:app", folder=tmp_path)
    assert (status, "shop:app is no App but a int" in said) == (2, True), said
    status, said = run("worker", "shop:app", "--log-level", "loud", folder=tmp_path)
    assert (status, "'loud' is none of debug, info, warning, error" in said) == (2, True), said
    status, said = run("--namespace", "x", "worker", "shop:app", folder=tmp_path)
    assert (status, "App(namespace=…)" in said) == (2, True), said


def test_a_port_that_is_taken(url: str, tmp_path: Path) -> None:
    """It is said before any process is started."""
    with WorkerCrew(url, tmp_path, SHOP) as crew:
        (port,) = crew.said(r"http://127\.0\.0\.1:(\d+)/health")
        status, said = run("worker", "shop:app", "--port", port, folder=tmp_path)
        assert status == 1
        assert "address already in use" in said
        assert "started" not in said


async def _ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        answer = await reader.read()
    except ConnectionResetError:
        answer = b""  # it was closed before all had been read
    writer.close()
    return answer


async def test_what_else_the_port_is_asked(url: str, tmp_path: Path) -> None:
    """Other paths, other methods, no HTTP at all, too much of it: an answer or none, and the port goes on."""
    with WorkerCrew(url, tmp_path, SHOP) as crew:
        port = int(crew.said(r"http://127\.0\.0\.1:(\d+)/health")[0])

        async def healthy() -> bool:
            return (await _ask(port, b"GET /health HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 ")

        await aio_wait_until(healthy, "all have started")
        answers = {
            b"GET /nothing HTTP/1.1": b"HTTP/1.1 404 ",
            b"POST /health HTTP/1.1": b"HTTP/1.1 405 ",
            b"hello": b"HTTP/1.1 405 ",
            b"\xff\x00 \xfe": b"HTTP/1.1 405 ",
            b"GET /health?verbose HTTP/1.0": b"HTTP/1.1 200 ",
        }
        for request, begin in answers.items():
            assert (await _ask(port, request + b"\r\n\r\n")).startswith(begin)
        assert await _ask(port, b"x" * 100_000) == b""
        head, _, body = (await _ask(port, b"HEAD /health HTTP/1.1\r\n\r\n")).partition(b"\r\n\r\n")
        assert (head.startswith(b"HTTP/1.1 200 "), body) == (True, b"")
        _, _, body = (await _ask(port, b"GET /health HTTP/1.1\r\n\r\n")).partition(b"\r\n\r\n")
        assert json.loads(body)["ok"] is True
