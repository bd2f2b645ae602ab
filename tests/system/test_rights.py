"""A user who may do what the README says, and nothing else: all works; and each of these rights is needed."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from streamlayer import Admin, Consumer, NewTopic, Producer, StreamlayerError, TopicPartition, aio
from streamlayer._core.rights import COMMANDS, OPTIONAL, acl_rules
from streamlayer.embedded import Server
from streamlayer.errors import AuthenticationFailedError, AuthorizationError
from tests import servers
from tests.system.test_cli import Cli

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

TP = TopicPartition("t", 0)
BIG = bytes(5000)
WAKING = ("publish", "subscribe", "unsubscribe", "ping")
"""Without these nobody is woken: new records are looked for once a second."""
ELSEWHERE = ("select",)
"""Used with another database than 0."""


@pytest.fixture(scope="module", params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server with a port."""
    with Server(binary=servers.binary(request.param), port=0) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[redis.Redis]:
    """Who may do everything; the server is empty."""
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        yield client


def rules(client: redis.Redis) -> list[str]:
    """All that the README names, as far as this server knows it."""
    info: Any = client.info("server")
    return acl_rules("sl", before_7_2="valkey_version" not in info and info["redis_version"] < "7.2")


def user(server: Server, client: redis.Redis, *given: str) -> str:
    """A user with just these rights; the url to be that user."""
    client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">secret", *given)
    return server.url.replace("redis://", "redis://app:secret@")


def everything(url: str) -> None:
    """Topics made, filled, altered, grown, trimmed; read with and without a group; looked after; deleted."""
    config: dict[str, Any] = {"segment_bytes": 16_384, "retention_bytes": 32_768}
    with Admin(url=url) as admin:
        admin.create_topics([NewTopic("t", 1, config=config)])
        with Producer(url=url, batch_size=6000, linger_ms=0) as producer:
            for number in range(12):
                producer.send_and_wait("t", b"%d" % number, b"key")
                producer.send_and_wait("t", BIG, b"key")
            with Consumer("t", url=url, group_id="g", auto_offset_reset="earliest") as member:
                member.wait_for_assignment(timeout_ms=5000)
                assert member.poll(2000)
                assert member.poll(10) is not None
                for number in range(3):
                    producer.send_and_wait("t", b"%d" % number)
                    assert member.poll(3000)
                member.seek_to_time(int(time.time() * 1000) - 60_000)
                member.seek(TP, 20)
                assert member.poll(2000)
                member.commit()
                assert member.committed(TP)
                assert member.lag()
        admin.create_partitions({"t": 2})
        admin.alter_configs({"t": {"retention_ms": 3_600_000}})
        admin.alter_configs({"t": {"retention_ms": -1}})
        assert not any(admin.check_topics(["t"]).values())
        admin.delete_records({TP: -1})
        assert admin.describe_topics(["t"])
        assert admin.list_groups() == ["g"]
        assert admin.describe_groups(["g"])
        admin.reset_group_offsets("g", "earliest")
        admin.delete_groups(["g"])
        admin.delete_topics(["t"])


async def everything_aio(url: str) -> None:
    """The same in short."""
    async with aio.Admin(url=url) as admin:
        await admin.create_topics([NewTopic("t", 1)])
        async with (
            aio.Producer(url=url) as producer,
            aio.Consumer("t", url=url, group_id="g") as member,
        ):
            await producer.send_and_wait("t", b"a")
            await member.wait_for_assignment(timeout_ms=5000)
            assert await member.poll(2000)
            await member.commit()
        await admin.delete_groups(["g"])
        await admin.delete_topics(["t"])


def test_with_just_these_rights_all_works(server: Server, client: redis.Redis) -> None:
    """Both colours, everything; no key and no channel outside of the namespace is touched."""
    url = user(server, client, *rules(client))
    everything(url)
    asyncio.run(everything_aio(url))
    refused: Any = client.acl_log()
    assert {entry["object"] for entry in refused} <= {"client|setinfo"}  # Redis 7.0 does not know it


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {*WAKING, *ELSEWHERE}))
def test_each_right_is_needed(server: Server, client: redis.Redis, command: str) -> None:
    """Without it something fails, at once, with an error that names it."""
    url = user(server, client, *rules(client), f"-{command}")
    began = time.monotonic()
    with pytest.raises(StreamlayerError) as caught:
        everything(url)
    assert isinstance(caught.value, AuthorizationError), caught.value
    assert re.search(rf"give the user .*\+{re.escape(command)}\b", str(caught.value)), caught.value
    assert time.monotonic() - began < 8


def test_another_database_is_a_right_too(server: Server, client: redis.Redis) -> None:
    """Database 1 works with these rights; without `select` it is refused at once, by that name."""
    url = user(server, client, *rules(client)).removesuffix("/0") + "/1"
    with Producer(url=url) as producer:
        assert producer.send_and_wait("t", b"a").offset == 0
    client.execute_command("ACL", "SETUSER", "app", "-select")
    with pytest.raises(AuthorizationError, match=r"\+select "), Producer(url=url):
        raise AssertionError("it connected")


def test_the_command_line_needs_no_more(server: Server, client: redis.Redis) -> None:
    """A topic's life, typed: every command of it ends with status 0."""
    cli = Cli(user(server, client, *rules(client)), "sl")
    cli.run("topics", "create", "t", "--partitions", "2")
    cli.run("produce", "t", given=b"a\nb\n")
    out, _ = cli.run("consume", "t", "--group", "g", "--commit", "--max", "2")
    assert len(out.splitlines()) == 2
    cli.run("lag", "g")
    cli.run("groups", "describe", "g")
    cli.run("topics", "check", "t")
    cli.run("groups", "delete", "g", "--yes")
    cli.run("topics", "delete", "t", "--yes")


@pytest.mark.parametrize("command", OPTIONAL)
def test_others_are_only_missed_where_they_are_used(server: Server, client: redis.Redis, command: str) -> None:
    """Each of them may be refused: nothing of the story needs it."""
    allowed = rules(client)
    if f"+{command}" in allowed:
        everything(user(server, client, *allowed, f"-{command}"))


@pytest.mark.parametrize("command", WAKING)
def test_without_being_woken_records_are_read_all_the_same(
    server: Server, client: redis.Redis, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They are looked for once a second; a subscription that is refused is told once."""
    everything(user(server, client, *rules(client), f"-{command}"))
    told = [record.getMessage() for record in caplog.records if "no subscription" in record.getMessage()]
    assert len(told) <= 1
    assert bool(told) == (command == "subscribe")


def test_who_lacks_a_right_harms_nobody(server: Server, client: redis.Redis) -> None:
    """A script that stopped half way would leave a partition damaged for all: so nothing is run."""
    with Producer(url=server.url) as producer:
        producer.send_and_wait("t", b"acknowledged", partition=0)
        for command in ("hset", "hdel", "zrange", "pexpireat", "hscan"):
            with (
                pytest.raises(AuthorizationError, match=rf"\+{command}\b"),
                Producer(url=user(server, client, *rules(client), f"-{command}")) as other,
            ):
                other.send_and_wait("t", BIG, partition=0)
        assert producer.send_and_wait("t", b"more", partition=0).offset == 1


def test_keys_of_others(server: Server, client: redis.Redis) -> None:
    """A user of another namespace is refused at once, and nothing is written."""
    kept = [each for each in rules(client) if each[0] != "~"]
    with pytest.raises(AuthorizationError):
        everything(user(server, client, *kept, "~other:*"))
    assert client.keys("*") == []


def test_a_wrong_password_is_told_at_once(server: Server, client: redis.Redis) -> None:
    """It is not tried again for seconds, in either colour."""
    user(server, client, *rules(client))
    url = server.url.replace("redis://", "redis://app:wrong@")
    began = time.monotonic()
    with pytest.raises(AuthenticationFailedError), Producer(url=url) as producer:
        producer.send_and_wait("t", b"a")
    with pytest.raises(AuthenticationFailedError):
        asyncio.run(everything_aio(url))
    assert time.monotonic() - began < 8  # else it is tried for ten
