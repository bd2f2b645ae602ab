"""``streamlayer doctor`` against real servers: well, ill in several ways, forbidden to look, and not there."""

from __future__ import annotations

import json
import resource
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from streamlayer import Admin, Consumer, NewTopic, Producer, TopicPartition
from streamlayer._core.rights import acl_rules
from streamlayer.embedded import Server
from streamlayer.errors import InsufficientDurabilityError
from tests import servers
from tests.old_server import OldServer
from tests.system.test_cli import Cli
from tests.waiting import sync_wait_until

pytestmark = pytest.mark.system


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that a test may make ill."""
    with Server(binary=servers.binary(request.param), port=0) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[redis.Redis]:
    """To make it ill."""
    with redis.Redis.from_url(server.url) as client:
        yield client


def doctor(url: str, *arguments: str, status: int = 0) -> dict[str, dict[str, Any]]:
    """Its findings by subject; it ends with this status."""
    out, _ = Cli(url, "sl").run("doctor", "--json", *arguments, status=status)
    return {finding["subject"]: finding for finding in json.loads(out)}


def unwell(findings: dict[str, dict[str, Any]]) -> dict[str, str]:
    """What is not ok."""
    return {subject: each["verdict"] for subject, each in findings.items() if each["verdict"] != "ok"}


def test_a_server_that_is_well(server: Server, client: redis.Redis) -> None:
    """Status 0, with --strict too; a person reads a line per finding; and nothing was written."""
    client.config_set("maxmemory", "1gb")
    keys = set(client.keys("*"))
    findings = doctor(server.url, "--strict")
    assert unwell(findings) == {}
    words, _ = Cli(server.url, "sl").run("doctor")
    assert len(words.splitlines()) == len(findings)
    assert "noeviction: nothing is thrown away silently" in words
    assert set(client.keys("*")) == keys


def test_a_server_that_is_ill(server: Server, client: redis.Redis) -> None:
    """Several things at once, each with what to do; status 1. A damaged partition is among them."""
    with Admin(url=server.url) as admin, Producer(url=server.url) as producer:
        admin.create_topics([NewTopic("orders", 1, config={"min_insync_replicas": 2}), NewTopic("broken", 1)])
        producer.send_and_wait("broken", b"a")
        with Consumer("broken", url=server.url, group_id="billing") as consumer:
            consumer.poll(2000)
            consumer.commit()
        producer.send_many("broken", [b"b", b"c"])
    client.hset("sl:t:{broken:0}:meta", "damaged", "a field is gone")
    client.config_set("maxmemory", "1gb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.config_set("appendonly", "no")
    findings = doctor(server.url, status=1)
    assert unwell(findings) == {
        "eviction": "problem", "durability": "problem", "replicas": "problem", "topic": "problem",
        "group": "problem",
    }  # fmt: skip
    assert "redis-check-aof" in findings["topic"]["advice"]
    assert "noeviction" in findings["eviction"]["advice"]


def test_who_has_just_the_rights_that_are_needed(server: Server, client: redis.Redis) -> None:
    """All is seen but the rights themselves; without one that is needed, it is named."""
    client.config_set("maxmemory", "1gb")
    info: Any = client.info("server")
    before = "valkey_version" not in info and info["redis_version"] < "7.2"
    rules = acl_rules("sl", before_7_2=before)
    client.execute_command("ACL", "SETUSER", "app", "on", ">secret", *rules)
    url = server.url.replace("redis://", "redis://app:secret@")
    assert unwell(doctor(url)) == {"rights": "warning"}
    doctor(url, "--strict", status=1)
    client.execute_command("ACL", "SETUSER", "app", "+acl|whoami", "+acl|dryrun", "-wait", "-zscore")
    findings = doctor(url, status=1)
    assert findings["rights"]["words"] == "missing: zscore"
    assert findings["rights"]["advice"].endswith("+zscore")


def test_it_writes_nothing(server: Server, client: redis.Redis) -> None:
    """What is half done is told and left as it is, and so is the list of groups; one bad entry hides no other."""
    with Admin(url=server.url) as admin, Producer(url=server.url) as producer:
        config = {"segment_bytes": 16_384, "retention_bytes": 16_384}
        admin.create_topics([NewTopic("orders", 1, config=config), NewTopic("well", 1)])
        with Consumer("orders", url=server.url, group_id="slow") as consumer:
            consumer.wait_for_assignment(timeout_ms=5000)
            consumer.commit({TopicPartition("orders", 0): 0})
        for _ in range(20):
            producer.send_and_wait("orders", bytes(4000))
    entry = {"id": "0" * 32, "partitions": 2}
    client.hset("sl:topics", "begun", json.dumps(entry | {"state": "creating"}))
    client.hset("sl:topics", "ending", json.dumps(entry | {"state": "deleting"}))
    client.zadd("sl:groups", {"ended": 1})
    before = changes(client)
    out, _ = Cli(server.url, "sl").run("doctor")
    assert changes(client) == before
    lines = [line.split(maxsplit=2)[1:] for line in out.splitlines() if line.startswith(("warning", "problem"))]
    told = [words for subject, words in lines if subject in {"topic", "group"}]
    assert told[:2] == [
        "begun: creating, and not finished; nobody can use it", "ending: deleting, and not finished; nobody can use it",
    ]  # fmt: skip
    assert any("slow: " in words and "went before they were read" in words for words in told)
    client.hset("sl:topics", "odd", "{")
    findings = json.loads(Cli(server.url, "sl").run("doctor", "--json", status=1)[0])
    assert [f["words"] for f in findings if f["verdict"] == "problem" and f["subject"] == "topic"] == [
        "odd: UnsupportedVersionError"
    ]
    assert {"subject": "topics", "verdict": "ok", "words": "2 can be read", "advice": ""} in findings


def changes(client: redis.Redis) -> int:
    """How many writes the server has counted: no snapshot is ever taken here."""
    info: Any = client.info("persistence")
    return int(info["rdb_changes_since_last_save"])


@pytest.mark.parametrize("right", ["ping", "script|load", "hgetall", "zrange"])
def test_who_can_do_little_is_told_why(server: Server, client: redis.Redis, right: str) -> None:
    """Even where nothing of the library works without that right: it is named, and the rest is looked at."""
    rules = [rule for rule in acl_rules("sl", before_7_2=True) if rule != f"+{right}"]
    client.execute_command("ACL", "SETUSER", "app", "on", ">secret", *rules, "+acl|whoami", "+acl|dryrun")
    findings = doctor(server.url.replace("redis://", "redis://app:secret@"), status=1)
    assert findings["rights"]["words"] == f"missing: {right}"
    assert findings["eviction"]["verdict"] == "ok"


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits another process")
@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_a_disk_that_is_full(kind: str, tmp_path: Path) -> None:
    """While the append-only file cannot be written nothing is given, whatever the settings; afterwards it is again."""
    command = [servers.binary(kind), "--port", "0", "--unixsocket", str(tmp_path / "s"), "--dir", str(tmp_path)]
    command += ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
    url = f"unix://{tmp_path / 's'}"
    with (
        subprocess.Popen(command, stdout=subprocess.DEVNULL, restore_signals=False) as process,  # SIGXFSZ stays ignored
        redis.Redis.from_url(url) as client,
    ):
        try:
            sync_wait_until(lambda: servers.answers(client), "the server answers")
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
            sync_wait_until(lambda: refused(client), "writes are refused")
            finding = doctor(url, status=1)["durability"]
            assert finding["words"].startswith("memory: ")
            assert "disk" in finding["advice"]
            wanted = Producer(url=url, min_durability="snapshot")
            with pytest.raises(InsufficientDurabilityError, match="file failed"), wanted:
                raise AssertionError("it connected")
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            sync_wait_until(lambda: not refused(client), "writes are taken")
            with Producer(url=url, min_durability="second") as producer:
                assert producer.send_and_wait("t", b"a").offset == 0
        finally:
            process.kill()


def test_a_server_that_cannot_take_a_snapshot(tmp_path: Path) -> None:
    """With its append-only file in best order it refuses every write: that is a problem, with what to do."""
    (tmp_path / "dump.rdb" / "in the way").mkdir(parents=True)
    with Server(binary=servers.binary("redis"), data_dir=tmp_path) as server:
        with redis.Redis.from_url(server.url) as client:
            client.config_set("save", "3600 1")
            client.bgsave()
            sync_wait_until(
                lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "the snapshot failed"
            )
            with pytest.raises(redis.ResponseError, match="MISCONF"):
                client.set("a", b"b")
        finding = doctor(server.url, status=1)["durability"]
        assert finding["words"].startswith("second: ")
        assert "all writes are refused" in finding["words"]
        assert "stop-writes-on-bgsave-error" in finding["advice"]


def refused(client: redis.Redis) -> bool:
    """Whether a write meets MISCONF."""
    try:
        client.set("ballast", bytes(100))
    except redis.ResponseError as error:
        return "AOF" in str(error)
    return False


def test_a_server_that_is_too_old() -> None:
    """That is a finding; the others are there as well."""
    with OldServer("redis_version:6.2.0\r\nmaxmemory_policy:allkeys-lru\r\nmaxmemory:1\r\n") as old:
        findings = doctor(old.url, status=1)
    assert findings["server"]["verdict"] == "problem"
    assert "7.0" in findings["server"]["advice"]
    assert findings["eviction"]["verdict"] == "problem"


def test_a_server_that_a_script_keeps_busy(server: Server, client: redis.Redis) -> None:
    """Status 2, with the server's own word, and no traceback."""
    client.config_set("busy-reply-threshold", 50)
    with redis.Redis.from_url(server.url) as other, ThreadPoolExecutor() as threads:
        looping = threads.submit(lambda: other.eval("while true do end", 0))
        sync_wait_until(lambda: busy(client), "the script runs")
        out, err = Cli(server.url, "sl").run("doctor", status=2)
        client.script_kill()
        assert isinstance(looping.exception(timeout=10), redis.ResponseError)
    assert out == ""
    assert "BUSY" in err


def busy(client: redis.Redis) -> bool:
    """Whether the server refuses to answer."""
    try:
        return not client.ping()
    except redis.ResponseError as error:
        return "BUSY" in str(error)


def test_nobody_there() -> None:
    """Status 2, in one line."""
    out, err = Cli("redis://127.0.0.1:1/0", "sl").run("doctor", status=2)
    assert out == ""
    assert err.startswith("error: no connection to the server")
    assert len(err.splitlines()) == 1
