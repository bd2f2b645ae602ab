"""The registry's entries: written, read, and not understood where a later release wrote them."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlayer._config import TopicConfig
from streamlayer._core.entries import (
    ALTERING,
    CREATING,
    DELETING,
    GROWING,
    READY,
    USABLE,
    TopicEntry,
    read_entry,
    topics_in,
)
from streamlayer.errors import UnsupportedVersionError

STATES = [CREATING, READY, GROWING, ALTERING, DELETING]

entries = st.builds(
    TopicEntry,
    id=st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
    state=st.sampled_from(STATES),
    partitions=st.integers(1, 9999),
    generation=st.integers(1, 99),
    config=st.dictionaries(st.sampled_from(["retention_ms", "retention_bytes"]), st.integers(-1, 1 << 40)),
    config_version=st.integers(1, 99),
    target=st.integers(0, 9999),
)


@given(entries)
def test_what_is_written_is_read(entry: TopicEntry) -> None:
    """All fields survive, and what was read is compared byte for byte with what is stored."""
    stored = entry.to_bytes()
    again = read_entry(stored, "orders")
    assert again.to_bytes() == stored
    assert msgspec.structs.replace(again, stored=b"") == entry


@given(entries, st.sampled_from(STATES))
def test_another_state_is_another_entry_of_the_same_topic(entry: TopicEntry, state: str) -> None:
    """A change is written anew; everything else stays."""
    changed = read_entry(entry.to_bytes(), "orders").with_state(state)
    assert json.loads(changed.to_bytes()) == json.loads(entry.to_bytes()) | {"state": state}


@given(entries, st.integers(1, 9999))
def test_growth_is_an_intent_that_is_carried_out(entry: TopicEntry, total: int) -> None:
    """The intent has the old layout and the target; then the layout rises by a generation."""
    ready = read_entry(entry.to_bytes(), "orders").with_state(READY)
    growing = ready.growing_to(total)
    assert (growing.state, growing.partitions, growing.generation) == (GROWING, entry.partitions, entry.generation)
    grown = growing.grown()
    assert (grown.state, grown.partitions, grown.generation) == (READY, total, entry.generation + 1)
    assert (grown.target, grown.id, grown.config) == (0, entry.id, entry.config)


@given(entries)
def test_an_alteration_is_a_new_version_of_the_settings(entry: TopicEntry) -> None:
    """Only what is set is stored; a target stays, so that a growth that waits is not forgotten."""
    altered = read_entry(entry.to_bytes(), "orders").altered_to(TopicConfig(retention_ms=5))
    assert altered.config == {"retention_ms": 5}
    assert (altered.state, altered.config_version) == (ALTERING, entry.config_version + 1)
    assert (altered.target, altered.partitions, altered.id) == (entry.target, entry.partitions, entry.id)


def test_a_topic_is_used_while_it_grows_and_is_altered() -> None:
    """Not while it is made or deleted."""
    assert set(STATES) - USABLE == {CREATING, DELETING}


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
