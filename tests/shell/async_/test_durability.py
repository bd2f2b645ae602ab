"""What a server gives, read from real ones; and a producer that takes no less than it was told to."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from streamlayer.aio import Admin, Producer
from streamlayer.embedded import Server
from streamlayer.errors import ConfigurationError, InsufficientDurabilityError
from tests.shell.async_.reading import stored_values
from tests.shell.conftest import Pair
from tests.waiting import aio_wait_until


@pytest.mark.parametrize(
    ("settings", "level"),
    [
        ({"appendfsync": "always"}, "disk"),
        ({"appendfsync": "everysec"}, "second"),
        ({"appendfsync": "no"}, "os_cache"),
        ({"appendonly": "no", "save": "3600 1"}, "snapshot"),
        ({"appendonly": "no", "save": ""}, "memory"),
    ],
)
async def test_what_the_settings_give(
    own_server: Server, own_client: redis.Redis, settings: dict[str, str], level: str
) -> None:
    """Each setting, as the server tells it."""
    for name, value in settings.items():
        own_client.config_set(name, value)
    async with Admin(url=own_server.url) as admin:
        found = await admin.durability()
    assert (found.level, found.replicas) == (level, 0)
    assert bool(found.reasons) == (level != "disk")


async def test_a_file_that_is_still_being_made_counts_for_nothing(own_server: Server, own_client: redis.Redis) -> None:
    """After `CONFIG SET appendonly yes` the whole is written once: a crash before that takes what came since."""
    own_client.mset({f"key{number}": "value" for number in range(500)})
    own_client.config_set("appendonly", "no")
    own_client.config_set("rdb-key-save-delay", 20_000)  # µs for each key: ten seconds
    own_client.config_set("appendonly", "yes")
    own_client.config_set("appendfsync", "always")
    own_client.set("since", "1")
    async with Admin(url=own_server.url) as admin:
        assert (await admin.durability()).level == "memory"
    with pytest.raises(InsufficientDurabilityError, match=r"still being made.*wait until"):
        async with Producer(url=own_server.url, min_durability="os_cache"):
            raise AssertionError("it connected")
    own_server.kill()
    own_server.start()
    assert own_client.get("since") is None
    own_client.config_set("appendonly", "no")
    own_client.config_set("appendonly", "yes")

    async def counts() -> bool:
        async with Admin(url=own_server.url) as admin:
            return (await admin.durability()).level == "second"

    await aio_wait_until(counts, "the file is made")


async def test_replicas_are_counted(pair: Pair) -> None:
    """One hears each write; then none."""
    async with Admin(url=pair.url) as admin:
        assert (await admin.durability()).replicas == 1
        pair.part()
        assert (await admin.durability()).replicas == 0


async def test_a_producer_takes_no_less(own_server: Server, own_client: redis.Redis) -> None:
    """Refused at connect, with the command that mends it; after that command all goes on."""
    own_client.config_set("appendfsync", "everysec")
    with pytest.raises(InsufficientDurabilityError, match="appendfsync always"):
        async with Producer(url=own_server.url, min_durability="disk"):
            raise AssertionError("it connected")
    own_client.config_set("appendfsync", "always")
    async with Producer(url=own_server.url, min_durability="disk") as producer:
        assert (await producer.send_and_wait("t", b"a")).offset == 0


async def test_a_server_that_comes_back_with_less(own_server: Server, own_client: redis.Redis) -> None:
    """The next connection looks again: what is sent then fails with the reason, and is not written; mended, it goes."""
    own_client.config_set("appendfsync", "always")
    async with Producer(url=own_server.url, min_durability="disk") as producer:
        await producer.send_and_wait("t", b"a")
        own_server.kill()
        own_server.start()  # `everysec` is what it is configured with
        with pytest.raises(InsufficientDurabilityError):
            await producer.send_and_wait("t", b"b")
        own_client.config_set("appendfsync", "always")
        await producer.send_and_wait("t", b"c")
    assert sorted(await stored_values({"url": own_server.url}, "t")) == [b"a", b"c"]


async def test_what_may_not_be_read_counts_as_not_given(own_server: Server, own_client: redis.Redis) -> None:
    """Without the right to CONFIG GET a producer that wants a disk is refused, though there is one."""
    own_client.config_set("appendfsync", "always")
    own_client.execute_command("ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-config")
    url = own_server.url.replace("unix://", "unix://app:secret@")
    async with Admin(url=url) as admin:
        found = await admin.durability()
    assert found.level == "os_cache"
    with pytest.raises(InsufficientDurabilityError, match="config"):
        async with Producer(url=url, min_durability="disk"):
            raise AssertionError("it connected")


async def test_fakeredis_keeps_nothing(aio_args: dict[str, Any]) -> None:
    """Whatever the server, an answer comes; and a level that does not exist is refused."""
    async with Admin(**aio_args) as admin:
        assert (await admin.durability()).level in {"memory", "second"}
    with pytest.raises(ConfigurationError, match="min_durability"):
        Producer(min_durability="forever", **aio_args)  # type: ignore[arg-type]
