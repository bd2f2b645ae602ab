"""Faults of servers that live: they load, cannot store, are full, come back with a torn file, are replaced in order.

As in `chaos`: a function a fault, which ends with ``stage.healed()`` and notes in ``stage.fired`` that it did strike.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from streamlayer import Admin, Consumer, NewTopic, Producer, TopicPartition
from tests.system.doomed import members
from tests.system.load import TOPIC
from tests.system.stage import Stage, client_of
from tests.waiting import sync_wait_until


def server_loading(stage: Stage) -> None:
    """SIGKILL, and a start with a file that takes a while to be read: LOADING to everybody."""
    with client_of(stage.primary) as client:
        # In many scripts: between the transactions of its file the server answers.
        for part in range(200):
            client.eval("for i = 1, 2000 do redis.call('SET', KEYS[1] .. i, 'ballast') end", 1, f"ballast:{part}:")
    stage.load.wait_acked(50)
    stage.primary.kill()
    stage.restart(stage.primary)
    stage.healed()
    stage.fired["LOADING"] = stage.errors("LOADING")


def disk_failing(stage: Stage) -> None:
    """A snapshot cannot be stored, and the server refuses writes (MISCONF), until one is."""
    assert stage.primary._folder is not None
    in_the_way = Path(stage.primary._folder, "dump.rdb")
    with client_of(stage.primary) as client:
        before = stage.errors("MISCONF")
        in_the_way.mkdir()
        client.config_set("save", "3600 1000000")
        client.bgsave()
        sync_wait_until(lambda: _last_snapshot(client) == "err", "the snapshot fails")
        sync_wait_until(lambda: stage.errors("MISCONF") > before + 5, "writes are refused")
        stage.pass_time(0.5)
        in_the_way.rmdir()
        client.bgsave()
        sync_wait_until(lambda: _last_snapshot(client) == "ok", "the next one is stored")
    stage.healed()
    stage.fired["MISCONF"] = stage.errors("MISCONF") - before


def _last_snapshot(client: Any) -> str:
    return str(client.info("persistence")["rdb_last_bgsave_status"])


def room_by_retention(stage: Stage) -> None:
    """At maxmemory: appends are refused; members join, read and commit; deleting old records makes room to go on."""
    url = stage.primary.url
    ballast = TopicPartition("ballast", 0)
    with client_of(stage.primary) as client, Admin(url=url) as admin:
        admin.create_topics([NewTopic(ballast.topic, 1)])
        with Producer(url=url) as producer:
            producer.send_many(ballast.topic, [b"x" * 50_000] * 300)
        before = stage.errors("OOM")
        info: Any = client.info("memory")
        client.config_set("maxmemory", info["used_memory"])
        sync_wait_until(lambda: stage.errors("OOM") > before + 5, "appends are refused")
        with members(stage) as crew:
            crew.start("late", colour="sync", how="batch")
            crew.wait(lambda: crew.has("late"), "it is given partitions")
            stage.fired["committed"] = _read_and_commit(url)
            admin.delete_records({ballast: 300})
            stage.healed()
            stage.load.wait_acked(50)
        client.config_set("maxmemory", "0")
    stage.fired["OOM"] = stage.errors("OOM") - before


def _read_and_commit(url: str) -> int:
    """Read all in a group of one's own; how many records are committed then."""
    with Consumer(TOPIC, url=url, group_id="audit", enable_auto_commit=False) as consumer:
        read = sum(1 for _ in consumer.read_to_end())
        consumer.commit()
        stored = sum(consumer.committed(tp) or 0 for tp in consumer.assignment())
    assert stored == read
    return stored


def tail_cut(stage: Stage) -> None:
    """SIGKILL, and a file that ends in the middle of a command, mended as one does after a power failure."""
    for size in (10_007, 20_011):
        stage.load.wait_acked(200)
        stage.load.wait_seen(stage.primary.url)
        stage.primary.kill()
        _cut(stage, size)
        stage.restart(stage.primary)
        stage.healed()
        stage.load.wait_acked(200)
    stage.fired["cuts"] = 2


def _cut(stage: Stage, size: int) -> None:
    assert stage.primary._folder is not None
    files = Path(stage.primary._folder, "appendonlydir")
    (last,) = files.glob("*.incr.aof")
    os.truncate(last, last.stat().st_size - size)
    # The server is its own checker, under another name. The file alone: with the manifest, Valkey 9.1's does not know
    # its own base file.
    checker = files.with_name(f"{'valkey' if stage.kind == 'valkey' else 'redis'}-check-aof")
    if not checker.exists():
        checker.symlink_to(stage.binary)
    subprocess.run([checker, "--fix", last], input=b"y\n", check=True, capture_output=True)


def replica_stopped(stage: Stage) -> None:
    """SIGSTOP of the replica that every send waits for: it is still connected, and silent."""
    for _ in range(3):
        stage.load.wait_acked(30)
        with stage.stopped(stage.replica):
            stage.pass_time(1.3)
        stage.healed()
    stage.fired["stopped"] = 3


def handed_over(stage: Stage) -> None:
    """The replica becomes the primary and the primary its replica, in order; connections to the former one stay."""
    for _ in range(4):
        stage.load.wait_acked(50)
        with client_of(stage.primary) as former, client_of(stage.replica) as next_one:
            former.execute_command("CLIENT", "PAUSE", 10_000, "WRITE")
            sync_wait_until(lambda: _offset(next_one) >= _offset(former), "the replica has everything")
            stage.promote(cut=False)
            former.replicaof("127.0.0.1", stage.port(stage.primary))
            former.execute_command("CLIENT", "UNPAUSE")
        stage.follow(stage.replica, stage.primary)
        stage.healed()
    stage.fired["handed over"] = 4


def two_primaries(stage: Stage) -> None:
    """The replica is promoted, and clients stay with a primary that goes on for itself, till it becomes a replica."""
    for _ in range(2):
        stage.load.wait_acked(50)
        stage.part()
        stage.promote(cut=False)
        stage.pass_time(0.7)
        stage.follow(stage.replica, stage.primary)
        stage.healed()
        stage.load.wait_acked(50)
    stage.fired["promotions"] = 2


def led_astray(stage: Stage) -> None:
    """Two primaries that go on side by side: clients are led to the other one, and back to the first, as it was."""
    for _ in range(2):
        stage.load.wait_seen(stage.primary.url)
        stage.part()
        stage.load.wait_acked(50)
        stage.promote()
        stage.load.wait_acked(100)
        stage.load.wait_seen(stage.primary.url)
        stage.lead_back()
        stage.healed()
        stage.load.wait_acked(100)
        stage.follow(stage.replica, stage.primary)
    stage.fired["led astray"] = 2


def _offset(client: Any) -> int:
    return int(client.info("replication")["master_repl_offset"])
