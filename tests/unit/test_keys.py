"""Names: what can be one, what each key is called, and that a script's keys never part."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from streamlayer import TopicPartition
from streamlayer._core import calls, group_calls, registry_calls, scripts, server_calls
from streamlayer._core.calls import Call
from streamlayer._core.group_calls import Commit
from streamlayer._core.keys import (
    GroupKeys,
    PartitionKeys,
    check_name,
    group_keys,
    partition_keys,
    registry_channel,
    registry_key,
)
from streamlayer.errors import InvalidTopicError

NAME = st.from_regex(r"[a-zA-Z0-9._-]{1,249}", fullmatch=True).filter(lambda name: name not in {".", ".."})


def every_call(keys: PartitionKeys) -> list[Call[Any]]:
    """One call of each script about a partition."""
    return [
        calls.append(
            keys,
            7,
            topic_id="i",
            partition=0,
            generation=1,
            key_hash=None,
            producer="p",
            epoch=0,
            sequence=0,
            crc=1,
            count=1,
            min_timestamp=0,
            max_timestamp=0,
            frame=b"",
        ),
        calls.fetch(keys, topic_id="i", position=0, max_bytes=1, segment=7),
        calls.fetch(keys, topic_id="i", position=0, max_bytes=1, segment=7, peek=True),
        calls.list_offsets(keys, topic_id="i", timestamp=5, segment=7),
        calls.create_partition(
            keys,
            topic_id="i",
            partitions=1,
            generation=1,
            retention_ms=1,
            retention_bytes=1,
            segment_bytes=1,
            max_message_bytes=1,
            config_version=1,
        ),
        calls.delete_partition(keys, topic_id="i", segments=(3, 9)),
        calls.describe_partition(keys, topic_id="i"),
        calls.trim(keys, topic_id="i", segments=(3, 9)),
        calls.alter_partition(
            keys,
            topic_id="i",
            config_version=2,
            segments=(3, 9),
            retention_ms=1,
            retention_bytes=1,
            segment_bytes=1,
            max_message_bytes=1,
        ),
        calls.delete_records(keys, topic_id="i", before=5, segment=7),
        calls.repair_partition(keys, topic_id="i", damage="torn", end=5, segment=7),
        calls.freeze_partition(keys, topic_id="i", generation=2, partitions=3),
        calls.grow_partition(keys, topic_id="i", generation=2, partitions=3),
        calls.check(keys, topic_id="i", segment=7),
        calls.list_segments(keys, topic_id="i"),
    ]


def every_group_call(keys: GroupKeys) -> list[Call[Any]]:
    """One call of each operation on a group."""
    return [
        group_calls.heartbeat(keys, member="m", call=1, applied=0, session_ms=1, interval_ms=1, retention_ms=1),
        group_calls.leave(keys, ["m", "n"], call=2),
        group_calls.commit(keys, {TopicPartition("t", 0): Commit(5)}, retention_ms=1),
        group_calls.describe_group(keys),
        group_calls.delete_group(keys, created="1"),
    ]


@pytest.mark.parametrize("name", ["a", "orders", "A-1_b.c", "...", "x" * 249])
def test_kafkas_names_are_taken(name: str) -> None:
    """What Kafka calls a legal name is one here."""
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "cannot be empty"),
        (".", "cannot be named"),
        ("..", "cannot be named"),
        ("x" * 250, "at most 249 characters, this one has 250"),
        ("a b", "not allowed: ' '"),
        ("täg:{", "not allowed: ':{ä'"),
        ("line\n", r"not allowed: '\\n'"),
        ("redis://localhost:6379", "pass it as url="),
        (7, "not int"),
        (b"orders", "not bytes"),
        (None, "not NoneType"),
    ],
)
def test_any_other_name_is_refused_with_the_reason(name: object, words: str) -> None:
    """The error says what is wrong with the name."""
    with pytest.raises(InvalidTopicError, match=words):
        check_name(name)


def test_keys_are_called_as_designed() -> None:
    """The layout's names: they cannot be changed once somebody's data is there."""
    keys = partition_keys("sl", "orders", 3)
    assert keys.meta == "sl:t:{orders:3}:meta"
    assert keys.tail == "sl:t:{orders:3}:tail"
    assert keys.segs == "sl:t:{orders:3}:segs"
    assert keys.producers == "sl:t:{orders:3}:producers"
    assert keys.segment(12) == (
        "sl:t:{orders:3}:log:12",
        "sl:t:{orders:3}:index:12",
        "sl:t:{orders:3}:times:12",
    )
    assert (registry_key("sl"), registry_channel("sl")) == ("sl:topics", "sl:topics:wake")


@given(NAME, NAME, st.integers(0, 9999))
def test_all_keys_of_a_script_lie_in_one_slot(namespace: str, topic: str, partition: int) -> None:
    """A cluster would refuse a script whose keys hash to two slots: whatever the names are, they do not."""
    keys = partition_keys(namespace, topic, partition)
    for call in every_call(keys):
        slots = {key_slot(key.encode()) for key in call.keys}
        assert slots == {key_slot(f"{topic}:{partition}".encode())}, call.script
    groups = group_keys(namespace, topic)
    for call in every_group_call(groups):
        assert {key_slot(key.encode()) for key in call.keys} == {key_slot(topic.encode())}, call.script
    change = registry_calls.registry(namespace, topic, b"", b"")
    assert len({key_slot(key.encode()) for key in change.keys}) == 1


@given(st.lists(st.tuples(NAME, NAME, st.integers(0, 99)), min_size=2, max_size=2, unique=True))
def test_two_partitions_share_no_key(pair: list[tuple[str, str, int]]) -> None:
    """Whatever the names are, two partitions never meet in one key or channel."""
    one, other = ({*partition_keys(*names), *partition_keys(*names).segment(1)} for names in pair)
    assert not one & other


def test_calls_name_as_many_keys_and_arguments_as_the_headers() -> None:
    """A call gives its script exactly what the script's header asks for."""
    called = [
        *every_call(partition_keys("sl", "orders", 0)),
        *every_group_call(group_keys("sl", "billing")),
        registry_calls.registry("sl", "orders", b"", b""),
        server_calls.check_rights("sl"),
    ]
    assert {call.script for call in called} == set(scripts.ALL)
    for call in called:
        assert call.script is not None
        if call.script.args and call.script.args[-1].endswith("*"):
            assert len(call.args) >= len(call.script.args), call.script.name
        else:
            assert len(call.args) == len(call.script.args), call.script.name
        if call.script.keys[-1].endswith("*"):
            assert len(call.keys) >= len(call.script.keys) - 1
        else:
            assert len(call.keys) == len(call.script.keys), call.script.name
