"""What a group of processes does when a member dies, a connection breaks, the server stands still or starts again.

The server is stopped and killed as a whole; who is alive must not be put out of the group for it, and who died must go.
"""

from __future__ import annotations

import logging
import os
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from streamlayer.embedded import Server
from tests import servers
from tests.profiles import THOROUGH
from tests.system.group_crew import Crew, now_ns
from tests.system.group_judge import judge_group
from tests.waiting import sync_wait_until

logger = logging.getLogger("tests.groups")
pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

SESSION_MS = 1000
OPTIONS = {"session_timeout_ms": SESSION_MS, "heartbeat_interval_ms": 300}
NAMES = ("a", "b", "c")
TAKEOVERS = 20 if THOROUGH else 3
NOISE_MS = 350
"""What a busy machine may add."""


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that a test may stop and kill."""
    with Server(binary=servers.binary(request.param), port=0) as running:
        servers.make_exact(running)
        yield running


@pytest.fixture
def crew(server: Server, tmp_path: Path) -> Iterator[Crew]:
    """Three members that share the partitions and read what is appended."""
    with Crew(server.url, tmp_path, work_ms=0, **OPTIONS) as crew:
        crew.produce()
        crew.observe()
        for name, colour in zip(NAMES, ("aio", "sync", "aio"), strict=True):
            crew.start(name, colour=colour, how="batch")
        crew.wait_shared(*NAMES)
        for name in NAMES:
            crew.wait(lambda name=name: crew.said(name, "read"), f"{name} reads")
        yield crew


def flows_again(crew: Crew, partitions: set[int], since: int, *, but_by: str = "") -> float:
    """Wait until records of all these were handed out since a moment; after how many ms the last of them came.

    :param but_by: whose own do not count: who was killed just then.
    """
    first: dict[int, int] = {}

    def all_read() -> bool:
        for line in crew.lines():
            if line.what == "read" and line.at > since and line.actor.rpartition(".")[0] != but_by:
                first.setdefault(line.more["partition"], line.at)
        return partitions <= first.keys()

    crew.wait(all_read, f"the partitions {partitions} are read")
    return (max(first[number] for number in partitions) - since) / 1e6


def read_on(crew: Crew, more: int = 300) -> None:
    """Wait until so many more records were handed out."""
    since = now_ns()

    def enough() -> bool:
        return sum(len(x.more["records"]) for x in crew.lines() if x.what == "read" and x.at > since) >= more

    crew.wait(enough, f"{more} more records are read")


def told(crew: Crew, since: int) -> list[str]:
    """What listeners were told since a moment."""
    return [line.what for line in crew.lines() if line.what in {"assigned", "revoked", "lost"} and line.at > since]


def test_a_dead_members_partitions_flow_again_within_a_session(crew: Crew) -> None:
    """One of three is killed, again and again: the others read its partitions within a session and 150 ms."""
    took: list[float] = []
    for turn in range(TAKEOVERS):
        victim = crew.names[turn % 3]
        had, others = crew.has(victim), [name for name in crew.names if name != victim]
        began = now_ns()
        crew.kill(victim)
        took.append(flows_again(crew, had, began, but_by=victim))
        crew.wait_shared(*others)
        crew.start(f"{victim}{turn}", colour="sync", how="batch")
        crew.wait_shared(*crew.names)
    logger.info("ms from a death until its partitions are read: %s", [round(ms) for ms in sorted(took)])
    history = crew.finish()
    assert judge_group(history, floors={"killed": TAKEOVERS, "taken over": TAKEOVERS}) == []
    assert not [line for line in history.lines if line.what == "lost"]
    assert statistics.median(took) < SESSION_MS + 150 + NOISE_MS
    assert max(took) < 2 * SESSION_MS + 150 + 2 * NOISE_MS  # a machine that stands still for a moment does so once


def test_a_paused_server_costs_no_live_member_its_place(server: Server, crew: Crew) -> None:
    """It stands still for 1.3 sessions: the living stay; who died meanwhile goes after one more session."""
    dead = crew.has("c")
    assert server.pid is not None
    began = time.monotonic()
    os.kill(server.pid, signal.SIGSTOP)
    crew.kill("c")
    sync_wait_until(lambda: time.monotonic() - began > 1.3 * SESSION_MS / 1000, "1.3 sessions pass")
    os.kill(server.pid, signal.SIGCONT)
    since = now_ns()
    took = flows_again(crew, dead, since)
    crew.wait_shared("a", "b")
    read_on(crew)
    logger.info("ms from the end of the pause until the dead member's partitions are read: %d", took)
    history = crew.finish()
    assert judge_group(history, floors={"killed": 1, "records": 300}) == []
    assert not [line for line in history.lines if line.what == "lost"]
    assert took < 2 * SESSION_MS + 150 + 2 * NOISE_MS


def test_a_restarted_server_costs_nobody_anything(server: Server, crew: Crew) -> None:
    """Killed and started with its append-only file, twice: nobody is told anything, all goes on."""
    since = now_ns()
    for _ in range(2):
        server.kill()
        server.start()
        servers.make_exact(server)
        back = now_ns()
        took = flows_again(crew, set(range(crew.partitions)), back)
        logger.info("ms from the restart until all partitions are read: %d", took)
    read_on(crew)
    assert told(crew, since) == []
    assert judge_group(crew.finish(), floors={"records": 300, "committed": 30}) == []


def test_a_member_whose_connections_are_killed_goes_on(server: Server, crew: Crew) -> None:
    """All connections of one member, three times: it keeps its partitions and goes on reading them."""
    since = now_ns()
    with redis.Redis.from_url(server.url) as client:
        for _ in range(3):
            had = crew.has("a")
            began = now_ns()
            # One reads, one listens, one keeps the membership.
            cut = sync_wait_until(lambda: _three([c["id"] for c in client.client_list() if c["name"] == "a"]), "a is")
            for number in cut:
                client.client_kill_filter(_id=number)
            flows_again(crew, had, began)
    read_on(crew)
    assert told(crew, since) == []
    assert judge_group(crew.finish(), floors={"records": 300, "committed": 30}) == []


def _three(connections: list[str]) -> list[str]:
    return connections if len(connections) == 3 else []
