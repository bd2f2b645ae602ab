"""``streamlayer doctor`` against real servers: well, ill in several ways, forbidden to look, and not there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from streamlayer import Admin, Consumer, NewTopic, Producer
from streamlayer._core.rights import acl_rules
from streamlayer.embedded import Server
from tests import servers
from tests.system.test_cli import Cli

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


def test_nobody_there() -> None:
    """Status 2, in one line."""
    out, err = Cli("redis://127.0.0.1:1/0", "sl").run("doctor", status=2)
    assert out == ""
    assert err.startswith("error: no connection to the server")
    assert len(err.splitlines()) == 1
