"""The registry's entries: written, read, and not understood where a later release wrote them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlayer._core.entries import CREATING, DELETING, READY, TopicEntry, read_entry, topics_in
from streamlayer.errors import UnsupportedVersionError

entries = st.builds(
    TopicEntry,
    id=st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
    state=st.sampled_from([CREATING, READY, DELETING]),
    partitions=st.integers(1, 9999),
    generation=st.integers(1, 99),
    config=st.dictionaries(st.sampled_from(["retention_ms", "retention_bytes"]), st.integers(-1, 1 << 40)),
    config_version=st.integers(1, 99),
)


@given(entries)
def test_what_is_written_is_read(entry: TopicEntry) -> None:
    """All fields survive, and what was read is compared byte for byte with what is stored."""
    stored = entry.to_bytes()
    again = read_entry(stored, "orders")
    assert again.to_bytes() == stored
    assert (again.id, again.state, again.partitions, again.generation, again.config, again.config_version) == (
        entry.id,
        entry.state,
        entry.partitions,
        entry.generation,
        entry.config,
        entry.config_version,
    )


@given(entries, st.sampled_from([CREATING, READY, DELETING]))
def test_another_state_is_another_entry_of_the_same_topic(entry: TopicEntry, state: str) -> None:
    """A change is written anew; everything else stays."""
    changed = read_entry(entry.to_bytes(), "orders").with_state(state)
    assert json.loads(changed.to_bytes()) == json.loads(entry.to_bytes()) | {"state": state}


def test_an_entry_of_somebody_who_writes_otherwise_is_compared_as_it_stands() -> None:
    """Order and unknown fields of another release survive in the comparison: else its topics could never change."""
    stored = b'{"partitions": 4, "state":"ready","id":"x","later":1}'
    assert read_entry(stored, "orders").to_bytes() == stored


@pytest.mark.parametrize("stored", [b"", b"nonsense", b"[]", b'{"id":"x"}', b'{"id":7,"state":"ready","partitions":1}'])
def test_what_cannot_be_read_is_told_with_the_topic(stored: bytes) -> None:
    """The error names the topic; nothing is guessed."""
    with pytest.raises(UnsupportedVersionError, match="topic 'orders' cannot be read"):
        read_entry(stored, "orders")


def test_a_later_version_is_refused() -> None:
    """A release that knows more has to be asked."""
    stored = TopicEntry("x", READY, 1, v=2).to_bytes()
    with pytest.raises(UnsupportedVersionError, match=r"'orders' has version 2; this release knows 1. Upgrade"):
        read_entry(stored, "orders")


def test_the_version_counter_is_no_topic() -> None:
    """`:version` stands among the topics and is not one."""
    stored = TopicEntry("x", READY, 1).to_bytes()
    assert list(topics_in({":version": b"7", "orders": stored})) == ["orders"]


def test_settings_are_completed_by_the_defaults() -> None:
    """Only what differs is stored; reading gives all."""
    config = TopicEntry("x", READY, 1, config={"retention_ms": 5000}).topic_config()
    assert (config.retention_ms, config.partitioner) == (5000, "crc32")
