"""registry.lua: an entry is changed only by who has seen it as it is, and each change is counted and told."""

from __future__ import annotations

import pytest
import redis

from streamlayer._core import registry_calls, scripts
from streamlayer._core.keys import registry_channel, registry_key
from streamlayer._core.registry_calls import RegistryChange
from tests.lua.run import Runner, dump
from tests.waiting import sync_wait_until


@pytest.fixture
def run(redis_client: redis.Redis) -> Runner:
    """Calls on this server."""
    return Runner(redis_client)


def test_an_entry_comes_changes_and_goes(run: Runner, namespace: str) -> None:
    """Empty stands for no entry; each change raises the version by one."""
    change = registry_calls.registry
    assert run(change(namespace, "orders", b"", b"one")) == RegistryChange(True, b"one", 1)
    assert run(change(namespace, "orders", b"one", b"two")) == RegistryChange(True, b"two", 2)
    assert run(change(namespace, "orders", b"two", b"")) == RegistryChange(True, b"", 3)
    assert run.client.hgetall(registry_key(namespace)) == {b":version": b"3"}


@pytest.mark.parametrize(("expected", "entry"), [(b"", b"mine"), (b"old", b"mine"), (b"old", b"")])
def test_who_has_seen_something_else_changes_nothing(
    run: Runner, namespace: str, expected: bytes, entry: bytes
) -> None:
    """The answer tells what is there instead; no key is written, no version counted."""
    run(registry_calls.registry(namespace, "orders", b"", b"theirs"))
    before = dump(run.client, registry_key(namespace))
    assert run(registry_calls.registry(namespace, "orders", expected, entry)) == RegistryChange(False, b"theirs", 1)
    assert dump(run.client, registry_key(namespace)) == before


def test_a_change_sent_twice_is_made_once(run: Runner, namespace: str) -> None:
    """The second finds its own work: the entry is what was wanted, and the version has not moved."""
    call = registry_calls.registry(namespace, "orders", b"", b"one")
    run(call)
    assert run(call) == RegistryChange(False, b"one", 1)


def test_taking_away_what_is_not_there_is_a_change_of_nothing(run: Runner, namespace: str) -> None:
    """Two who delete: the second finds nothing and is told so by an empty entry."""
    run(registry_calls.registry(namespace, "orders", b"", b"one"))
    run(registry_calls.registry(namespace, "orders", b"one", b""))
    assert run(registry_calls.registry(namespace, "orders", b"one", b"")).entry == b""


def test_topics_are_compared_one_by_one(run: Runner, namespace: str) -> None:
    """A change of one topic does not disturb who changes another; the version is common."""
    run(registry_calls.registry(namespace, "a", b"", b"1"))
    assert run(registry_calls.registry(namespace, "b", b"", b"2")) == RegistryChange(True, b"2", 2)
    assert run(registry_calls.registry(namespace, "a", b"1", b"3")).version == 3


def test_each_change_is_told_and_nothing_else(run: Runner, namespace: str) -> None:
    """Who listens hears the topic's name; a change that was not made is not told."""
    heard: list[bytes] = []
    with run.client.pubsub() as pubsub:
        pubsub.subscribe(registry_channel(namespace))
        sync_wait_until(lambda: pubsub.get_message(timeout=1), "the subscription is confirmed")
        run(registry_calls.registry(namespace, "orders", b"", b"one"))
        run(registry_calls.registry(namespace, "orders", b"", b"two"))
        run.client.publish(registry_channel(namespace), "end")
        while heard[-1:] != [b"end"]:
            heard.append(sync_wait_until(lambda: pubsub.get_message(timeout=1), "a message comes")["data"])
    assert heard == [b"orders", b"end"]


def test_a_foreign_type_is_named(run: Runner, namespace: str) -> None:
    """Somebody's data under the registry's name is neither read nor changed."""
    assert scripts.REGISTRY.errors == {"FOREIGN"}
    key = registry_key(namespace)
    run.client.rpush(key, "mine")
    assert run(registry_calls.registry(namespace, "orders", b"", b"one")) == ("FOREIGN", key)
    assert run.client.lrange(key, 0, -1) == [b"mine"]
