"""Answers of any shape to every call: a result of the right kind or a documented error, never a surprise."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlayer import StreamlayerError, TopicPartition
from streamlayer._config import TopicConfig
from streamlayer._core import calls, group_calls, registry_calls, server_calls
from streamlayer._core.calls import Call
from streamlayer._core.durability import durability_of
from streamlayer._core.entries import read_entry, topics_in
from streamlayer._core.keys import group_keys, partition_keys
from streamlayer._core.refusals import Refusal, error_from_reply
from streamlayer._sync.link import Link, Settings, Unanswered
from streamlayer.errors import BY_WORD, WORDS_FOR_THE_CLIENT
from tests.fuzz.inputs import TRIED, mutated, numbers, replies, scalars, texts
from tests.profiles import examples
from tests.unit.test_keys import every_call, every_group_call

KEYS, GROUP = partition_keys("sl", "orders", 0), group_keys("sl", "billing")
PLAIN = [
    registry_calls.read_topic("sl", "orders"),
    registry_calls.read_registry("sl"),
    server_calls.wait_replicas(1, 1),
    server_calls.wait_disks(1, 1, 1),
    group_calls.read_offsets(GROUP, [TopicPartition("orders", 0)]),
]
CALLS: list[Call[Any]] = [*every_call(KEYS), *every_group_call(GROUP), *PLAIN]
TAG = b"1"
WORDS = {*BY_WORD, *WORDS_FOR_THE_CLIENT, "OOM", "NOSCRIPT", "READONLY"}


def name_of(call: Call[Any]) -> str:
    """The script, or the command."""
    return call.script.name if call.script is not None else str(call.args[0])


def outcome(call: Call[Any], reply: Any) -> Any:
    """What the shell makes of it."""
    TRIED["replies"] += 1
    return Link(Settings(object, {"socket_timeout": 5}, allow_eviction=False))._outcome(call, TAG, reply)  # type: ignore[arg-type]


@pytest.mark.parametrize("call", CALLS, ids=name_of)
@settings(max_examples=examples(100))
@given(st.one_of(replies, st.lists(scalars, max_size=12)))
def test_any_reply(call: Call[Any], reply: Any) -> None:
    """A value, or an error as a value; nothing is raised."""
    tagged = [TAG, *reply] if isinstance(reply, list) and call.script is not None else reply
    if call.script is not None and not isinstance(tagged, (list, Exception)):
        tagged = [TAG, tagged]
    found = outcome(call, tagged)
    if isinstance(found, Exception):
        assert isinstance(found, (StreamlayerError, Refusal, Unanswered)), found


FETCHED = [b"10", 0, 0, b"1", b"1:abc:0", 5]


@settings(max_examples=examples(300))
@given(st.integers(0, 5), scalars, st.lists(scalars, max_size=6))
def test_a_fetch_that_is_nearly_right(place: int, value: Any, fields: list[Any]) -> None:
    """One part of it is something else: a position takes it in, or an error says that it makes no sense."""
    from streamlayer._core.positions import PartitionPosition

    reply = [TAG, *FETCHED, *fields]
    reply[1 + place] = value
    found = outcome(every_call(KEYS)[1], reply)
    if isinstance(found, calls.Fetched):
        position = PartitionPosition(TopicPartition("orders", 0), KEYS, "i", 1, 0)
        position.fetched(found)
        try:
            position.take(10, None, None, None)
        except StreamlayerError:
            return


ENTRY = {"id": "0" * 32, "state": "ready", "partitions": 3, "config": {"retention_ms": 5}, "v": 1}


@settings(max_examples=examples(1000))
@given(st.data())
def test_entries_of_the_registry(data: st.DataObject) -> None:
    """JSON that was an entry once, or never: it is read whole, or refused with a documented error."""
    TRIED["replies"] += 1
    if data.draw(st.booleans()):
        stored = data.draw(mutated(json.dumps(ENTRY).encode()))
    else:
        values = st.one_of(texts, numbers, st.none(), st.booleans(), st.dictionaries(texts, texts, max_size=2))
        stored = json.dumps(
            ENTRY | {data.draw(st.sampled_from([*ENTRY, "target", "generation"])): data.draw(values)}
        ).encode()
    try:
        entry = read_entry(stored, "orders")
        assert 0 < entry.partitions <= 10_000
        assert isinstance(entry.topic_config(), TopicConfig)
        topics_in({"orders": stored, ":version": b"x"})
    except StreamlayerError:
        return


@settings(max_examples=examples(500))
@given(
    st.lists(
        st.one_of(st.binary(max_size=60), st.lists(st.binary(max_size=20), max_size=6), st.none()),
        min_size=3,
        max_size=3,
    )
)
def test_what_a_server_says_of_itself(answers: list[Any]) -> None:
    """However strange, it becomes a level."""
    TRIED["replies"] += 1
    try:
        durability_of(answers)
    except StreamlayerError:
        return


@settings(max_examples=examples(500))
@given(st.text(max_size=80), st.sampled_from(["", *(f"{word} " for word in sorted(WORDS))]))
def test_error_lines(text: str, word: str) -> None:
    """Every line that begins with ``-`` is classified."""
    TRIED["replies"] += 1
    found = outcome(every_call(KEYS)[1], RuntimeError(word + text))
    assert isinstance(found, (StreamlayerError, Refusal)), found
    assert isinstance(error_from_reply(word + text, "orders", 0, "k"), (StreamlayerError, Refusal))
