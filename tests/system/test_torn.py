"""An append-only file torn within a script's transaction, and a second start: told, and both ways out that are named.

Redis up to 7.4 loads such a file well once. What was cut off stays open in the file, so that the next start takes in
half of it, together with what came later. Valkey does not.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from streamlayer import Admin, Consumer, NewTopic, PartitionDamagedError, Producer, TopicPartition
from streamlayer.embedded import Server
from tests import servers
from tests.system.test_cli import Cli

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

TORN, SOUND = TopicPartition("orders", 0), TopicPartition("orders", 1)
MULTI = b"*1\r\n$5\r\nMULTI\r\n"


def file_of(server: Server) -> Path:
    """The append-only file that is written to."""
    assert server._folder is not None
    (newest,) = Path(server._folder, "appendonlydir").glob("*.incr.aof")
    return newest


def kill(server: Server) -> None:
    """SIGKILL, when all is in the file."""
    with redis.Redis.from_url(server.url) as client:
        client.config_set("appendfsync", "always")
        client.set("flushed", "1")
    server.kill()


def tear(server: Server) -> None:
    """Cut the file in the second command of its last transaction, as a power failure may."""
    file = file_of(server)
    content = file.read_bytes()
    transaction = content.rindex(MULTI)
    commands = [found.start() for found in re.finditer(rb"\r\n\*\d+\r\n\$", content[transaction:])]
    file.write_bytes(content[: transaction + commands[1] + 9])


def send(server: Server, tp: TopicPartition, value: bytes) -> int:
    """One record; its offset."""
    with Producer(url=server.url, delivery_timeout_ms=5000) as producer:
        return producer.send_and_wait(tp.topic, value, partition=tp.partition).offset


def values(server: Server) -> dict[TopicPartition, list[bytes]]:
    """All there is."""
    found: dict[TopicPartition, list[bytes]] = {TORN: [], SOUND: []}
    with Consumer(TORN.topic, url=server.url) as consumer:
        for record in consumer.read_to_end():
            found[record.topic_partition].append(record.value)
    return found


@pytest.fixture
def server() -> Iterator[Server]:
    """A server with a damaged partition, and records that were written since the tear."""
    with Server(binary=servers.binary("redis"), port=0) as running:
        with Admin(url=running.url) as admin:
            admin.create_topics([NewTopic(TORN.topic, 2)])
        for value in (b"0", b"1", b"torn"):
            send(running, TORN, value)
        send(running, SOUND, b"before")
        send(running, TORN, b"half")
        kill(running)
        tear(running)
        running.start()
        assert send(running, TORN, b"since") == 3
        assert send(running, SOUND, b"since") == 1
        kill(running)
        running.start()
        with pytest.raises(PartitionDamagedError, match=r"redis-check-aof --fix.*`streamlayer topics repair orders`"):
            send(running, TORN, b"refused")
        assert send(running, SOUND, b"after") == 2
        yield running


def test_the_file_is_mended(server: Server) -> None:
    """`redis-check-aof --fix`, even after the damage was met: sound, without anything that came after the tear."""
    kill(server)
    file = file_of(server)
    checker = file.with_name("redis-check-aof")  # the server is its own checker, under another name
    checker.symlink_to(servers.binary("redis"))
    subprocess.run([checker, "--fix", file], input=b"y\n", check=True, capture_output=True)
    server.start()
    with Admin(url=server.url) as admin:
        assert admin.check_topics() == {}
    assert values(server) == {TORN: [b"0", b"1", b"torn"], SOUND: [b"before"]}
    assert send(server, TORN, b"new") == 3


def test_the_partitions_records_are_given_up(server: Server) -> None:
    """By the command that the error names: the other partition loses nothing, offsets go on, also after a restart."""
    cli = Cli(server.url, "sl")
    out, _ = cli.run("topics", "list")
    assert "damaged" in out
    out, _ = cli.run("topics", "check", status=1)
    assert "the tail is not as long as meta says" in out
    out, _ = cli.run("topics", "repair", "orders", "--yes")
    (offset,) = map(int, re.findall(r"orders\[0\] goes on at (\d+)", out))
    assert offset >= 3
    assert cli.run("topics", "check")[0] == "nothing contradicts\n"
    assert cli.run("topics", "repair", "orders")[0] == "there is nothing to repair in orders\n"
    assert send(server, TORN, b"new") == offset
    kill(server)
    server.start()
    assert send(server, TORN, b"newer") == offset + 1
    assert values(server) == {TORN: [b"new", b"newer"], SOUND: [b"before", b"since", b"after"]}


def test_the_topic_is_deleted(server: Server) -> None:
    """By the command: it does not stumble over what it is to delete."""
    cli = Cli(server.url, "sl")
    _, err = cli.run("topics", "delete", "orders", given=b"n\n", status=1)
    assert "and those of damaged partitions" in err
    assert cli.run("topics", "delete", "orders", "--yes")[0] == "deleted orders\n"
    with Admin(url=server.url) as admin:
        assert admin.list_topics() == []
