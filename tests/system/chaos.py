"""The faults, one function each: what is done to a stage under load. ``test_chaos`` runs them and prints the table.

A fault ends with ``stage.healed()`` (several times, if it strikes several times), and notes in ``stage.fired`` that it
did strike. What is promised stands beside it in `SCENARIOS`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import redis

from tests.system.ailing import (
    disk_failing,
    handed_over,
    led_astray,
    replica_stopped,
    room_by_retention,
    server_loading,
    tail_cut,
    two_primaries,
)
from tests.system.doomed import member_killed, member_stopped, producer_killed, producer_stopped
from tests.system.stage import Stage, client_of
from tests.waiting import sync_wait_until

APPEND = b":producers"  # a key that only appends name


# --- the server ------------------------------------------------------------------------------------------------------


def server_killed(stage: Stage) -> None:
    """SIGKILL, and a start with the append-only file."""
    for _ in range(2):
        stage.load.wait_acked(200)
        stage.primary.kill()
        stage.restart(stage.primary)
        stage.healed()
        stage.load.wait_acked(100)
    stage.fired["restarts"] = 2


def tail_lost(stage: Stage) -> None:
    """SIGKILL, and a start with a file that lacks the newest writes."""
    for _ in range(2):
        stage.load.wait_seen(stage.primary.url)
        with stage.power_failure():
            stage.load.wait_acked(200)
            stage.load.wait_seen(stage.primary.url)
        stage.healed()
        stage.load.wait_acked(200)
    stage.fired["failures"] = 2


def server_stopped(stage: Stage) -> None:
    """SIGSTOP for 1.5 s: what waits in its sockets is executed afterwards."""
    with stage.stopped(stage.primary):
        stage.pass_time(1.5)
    stage.healed()
    stage.fired["pauses"] = 1


def scripts_flushed(stage: Stage) -> None:
    """SCRIPT FLUSH, again and again."""
    with client_of(stage.primary) as client:
        for _ in range(40):
            client.script_flush()
            stage.load.wait_acked(10)
    stage.healed()
    stage.fired["flushes"] = 40


def memory_full(stage: Stage) -> None:
    """At maxmemory: appends are refused; what is there is read and committed to the end; then there is room again."""
    with client_of(stage.primary) as client:
        before = stage.errors("OOM")
        client.config_set("maxmemory", "1")
        sync_wait_until(lambda: stage.errors("OOM") > before, "appends are refused")
        stage.load.wait_seen(stage.primary.url)
        stage.pass_time(1)
        client.config_set("maxmemory", "0")
    stage.healed()
    stage.fired["OOM"] = stage.errors("OOM") - before


def server_busy(stage: Stage) -> None:
    """Somebody's script runs for a second: BUSY, until it is killed."""
    with client_of(stage.primary) as client, client_of(stage.primary) as other:
        client.config_set("busy-reply-threshold", "50")

        def loop() -> None:
            try:
                other.eval("while true do end", 0)
            except redis.ResponseError:
                return  # it was killed

        thread = threading.Thread(target=loop)
        thread.start()
        stage.pass_time(1)
        sync_wait_until(lambda: _killed(client), "the script is killed")
        thread.join()
    stage.healed()
    stage.fired["BUSY"] = stage.errors("BUSY")


def _killed(client: redis.Redis) -> bool:
    try:
        return bool(client.script_kill())
    except redis.ResponseError as error:
        return "NOTBUSY" in str(error)


# --- the way there ---------------------------------------------------------------------------------------------------


def cut_before_execution(stage: Stage) -> None:
    """Connections break with a request on its way, whole or half."""
    for part in (False, True):
        stage.front.cut_requests(20, match=APPEND, part=part)
        _until(stage, "cut", 40 if part else 20)
    stage.healed()


def cut_after_execution(stage: Stage) -> None:
    """Appends are executed and their answers lost."""
    stage.front.drop_replies(40, match=APPEND)
    _until(stage, "dropped", 40)
    stage.healed()


def any_reply_lost(stage: Stage) -> None:
    """Whatever is asked is executed, and its answer lost: fetches, heartbeats, commits too."""
    stage.front.drop_replies(60)
    _until(stage, "dropped", 60)
    stage.healed()


def _until(stage: Stage, name: str, count: int) -> None:
    def struck() -> bool:
        stage.load.check()
        return stage.front.counts[name] >= count

    sync_wait_until(struck, f"{name} {count} times", timeout=40)
    stage.fired[name] = stage.front.counts[name]


def late_requests(stage: Stage) -> None:
    """Appends get stuck, and reach the server after newer ones of the same producer."""
    for _ in range(4):
        stage.front.hold(match=APPEND)
        stage.load.wait_acked(50)
        stage.front.release()
        stage.load.wait_acked(20)
    stage.healed()
    stage.fired["held"] = stage.front.counts["held"]


def repeated_requests(stage: Stage) -> None:
    """Each of so many requests reaches the server twice."""
    stage.front.repeat_requests(100)
    _until(stage, "repeated", 100)
    stage.healed()


def black_hole(stage: Stage) -> None:
    """Nothing passes, upwards, downwards, or both, and nobody is told."""
    for direction in ("up", "down", "both"):
        stage.front.blackhole(direction)  # type: ignore[arg-type]
        stage.pass_time(1)
        stage.front.heal()
        stage.healed()
        stage.load.wait_acked(20)
    stage.fired["holes"] = 3


def refused(stage: Stage) -> None:
    """Connections are cut, and new ones refused for a while."""
    for _ in range(2):
        stage.front.refuse()
        stage.front.kill_all()
        stage.pass_time(0.7)
        stage.front.heal()
        stage.healed()
        stage.load.wait_acked(20)
    stage.fired["killed"] = stage.front.counts["killed"]


def connections_killed(stage: Stage) -> None:
    """CLIENT KILL of all, subscriptions too."""
    killed = 0
    with client_of(stage.primary) as client:
        for _ in range(8):
            for kind in ("normal", "pubsub"):
                killed += client.client_kill_filter(_type=kind, skipme=True)
            stage.load.wait_acked(30)
    stage.healed()
    stage.fired["killed"] = killed


# --- primaries and replicas ------------------------------------------------------------------------------------------


def demoted(stage: Stage) -> None:
    """The server becomes a replica of nobody that answers (READONLY), and a primary again."""
    with client_of(stage.primary) as client:
        client.replicaof("127.0.0.1", 1)
        sync_wait_until(lambda: stage.errors("READONLY") > 0, "somebody has met it")
        stage.pass_time(1)
        client.replicaof("no", "one")
    stage.healed()
    stage.fired["READONLY"] = stage.errors("READONLY")


def replica_missed_writes(stage: Stage) -> None:
    """The primary dies, and the one that takes over had not heard the newest writes."""
    stage.load.wait_seen(stage.primary.url)
    stage.part()
    stage.load.wait_acked(200)
    stage.load.wait_seen(stage.primary.url)
    stage.primary.kill()
    stage.promote()
    stage.healed()
    stage.load.wait_acked(200)
    stage.fired["failovers"] = 1


def there_and_back(stage: Stage) -> None:
    """A to B and to A again, in the same process, each time without the newest writes."""
    for _ in range(2):
        stage.load.wait_seen(stage.primary.url)
        stage.part()
        stage.load.wait_acked(100)
        stage.promote()
        stage.healed()
        stage.load.wait_acked(100)
        stage.follow(stage.replica, stage.primary)
    stage.fired["failovers"] = 2


def failover(times: int) -> Callable[[Stage], None]:
    """The primary dies under load, and its replica takes over; who died comes back as its replica. So many times.

    Every other time sends are waiting then for a replica that stands still: written, and not yet safe.
    """

    def strike(stage: Stage) -> None:
        for turn in range(times):
            stage.load.wait_acked(40)
            with stage.stopped(stage.replica) if turn % 2 else contextlib.nullcontext():
                if turn % 2:
                    stage.pass_time(0.1)
                stage.primary.kill()
            stage.promote()
            stage.restart(stage.replica)
            stage.follow(stage.replica, stage.primary)
            stage.healed()
        stage.fired["failovers"] = times

    return strike


def isolated(stage: Stage) -> None:
    """The primary loses its replica and goes on alone, with its clients; then the other side takes over."""
    for _ in range(2):
        stage.load.wait_acked(50)
        stage.part()
        stage.pass_time(0.7)
        stage.promote()
        stage.follow(stage.replica, stage.primary)
        stage.healed()
    stage.fired["isolations"] = 2


@dataclass(frozen=True)
class Scenario:
    """A fault, and what is promised in it.

    :ivar lossy: acknowledged records may be gone; everybody concerned is told.
    :ivar unread: records that were read before replicas had them may be gone, and those who read them are told; none
        that was acknowledged.
    """

    name: str
    strike: Callable[[Stage], None]
    kind: str
    colour: str
    acks: Any = "all"
    replica: bool = False
    lossy: bool = False
    unread: bool = False
    topic: Mapping[str, Any] = field(default_factory=dict)
    options: str = ""

    @property
    def title(self) -> str:
        """As it stands in the table."""
        return f"{self.name} ({self.kind}, {self.colour})"


SAFE: Mapping[str, Any] = {"min_insync_replicas": 2}
QUICK = "?socket_timeout=0.2"

SHORT = [
    Scenario("server killed, file complete", server_killed, "redis", "aio"),
    Scenario("server killed, end of the file lost", tail_lost, "valkey", "sync", lossy=True),
    Scenario("memory full", memory_full, "redis", "sync"),
    Scenario("server demoted", demoted, "valkey", "aio"),
    Scenario("failover, acks=1, writes missed", replica_missed_writes, "redis", "aio", 1, replica=True, lossy=True),
    Scenario("A to B to A", there_and_back, "valkey", "aio", 1, replica=True, lossy=True),
    Scenario("failover, acks=all, 3 times", failover(3), "valkey", "sync", replica=True, unread=True, topic=SAFE),
    Scenario("any reply lost", any_reply_lost, "redis", "sync"),
]
"""Those that each run of the tests plays."""

LONG = [
    Scenario("server killed, file complete", server_killed, "valkey", "sync"),
    Scenario("server killed, end of the file lost", tail_lost, "redis", "aio", lossy=True),
    Scenario("server stopped", server_stopped, "valkey", "sync"),
    Scenario("server stopped", server_stopped, "redis", "aio"),
    Scenario("scripts flushed", scripts_flushed, "redis", "sync"),
    Scenario("memory full", memory_full, "valkey", "aio"),
    Scenario("server busy", server_busy, "redis", "sync"),
    Scenario("server busy", server_busy, "valkey", "aio"),
    Scenario("cut before execution", cut_before_execution, "valkey", "sync"),
    Scenario("cut before execution", cut_before_execution, "redis", "aio"),
    Scenario("cut after execution", cut_after_execution, "redis", "sync"),
    Scenario("cut after execution", cut_after_execution, "valkey", "aio"),
    Scenario("any reply lost", any_reply_lost, "valkey", "aio"),
    Scenario("late requests", late_requests, "valkey", "sync", options=QUICK),
    Scenario("late requests", late_requests, "redis", "aio", options=QUICK),
    Scenario("repeated requests", repeated_requests, "redis", "sync"),
    Scenario("black hole", black_hole, "valkey", "aio", options=QUICK),
    Scenario("black hole", black_hole, "redis", "sync", options=QUICK),
    Scenario("connections refused", refused, "valkey", "sync"),
    Scenario("connections killed", connections_killed, "redis", "aio"),
    Scenario("connections killed", connections_killed, "valkey", "sync"),
    Scenario("server demoted", demoted, "redis", "sync"),
    Scenario("failover, acks=1, writes missed", replica_missed_writes, "valkey", "sync", 1, replica=True, lossy=True),
    Scenario("A to B to A", there_and_back, "redis", "sync", 1, replica=True, lossy=True),
    Scenario("primary isolated", isolated, "valkey", "aio", replica=True, unread=True, topic=SAFE),
    Scenario("primary isolated", isolated, "redis", "sync", replica=True, unread=True, topic=SAFE),
    Scenario("producer killed", producer_killed, "valkey", "sync"),
    Scenario("producer stopped", producer_stopped, "redis", "aio"),
    Scenario("member killed", member_killed, "redis", "sync"),
    Scenario("member stopped", member_stopped, "valkey", "aio"),
    Scenario("server loading", server_loading, "redis", "aio"),
    Scenario("memory full, retention makes room", room_by_retention, "redis", "aio"),
    Scenario("memory full, retention makes room", room_by_retention, "valkey", "sync"),
    Scenario("server killed, file torn and mended", tail_cut, "valkey", "aio", lossy=True),
    Scenario("server killed, file torn and mended", tail_cut, "redis", "sync", lossy=True),
    Scenario("primary and replica change places", handed_over, "valkey", "sync", replica=True),
    Scenario("primary and replica change places", handed_over, "redis", "aio", replica=True),
    Scenario("two primaries, acks=1", two_primaries, "redis", "sync", 1, replica=True, lossy=True),
    Scenario("two primaries, there and back", led_astray, "valkey", "aio", 1, replica=True, lossy=True),
    Scenario("two primaries, there and back", led_astray, "redis", "sync", 1, replica=True, lossy=True),
    Scenario("two primaries, acks=all", two_primaries, "valkey", "aio", replica=True, unread=True, topic=SAFE),
    Scenario("replica stopped, acks=all", replica_stopped, "valkey", "aio", replica=True, topic=SAFE),
    Scenario("disk failing", disk_failing, "redis", "sync"),
    Scenario("disk failing", disk_failing, "valkey", "aio"),
    Scenario("failover, acks=all, 20 times", failover(20), "redis", "sync", replica=True, unread=True, topic=SAFE),
    Scenario("failover, acks=all, 20 times", failover(20), "valkey", "aio", replica=True, unread=True, topic=SAFE),
]
"""The others: `make chaos`."""
