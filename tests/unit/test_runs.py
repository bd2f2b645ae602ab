"""Sets of partitions as text and back. That ``lib/runs.lua`` does the same is held in ``tests/lua/test_runs.py``."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlayer._core.runs import format_runs, parse_runs
from streamlayer._types import TopicPartition

TOPICS = st.from_regex(re.compile(r"[a-zA-Z0-9._-]{1,6}", re.ASCII), fullmatch=True)
PARTITIONS = st.sets(st.builds(TopicPartition, TOPICS, st.integers(0, 12) | st.integers(0, 99_999)), max_size=40)


@given(PARTITIONS)
def test_what_is_written_is_read(partitions: set[TopicPartition]) -> None:
    """Any set comes back."""
    assert parse_runs(format_runs(partitions)) == partitions


@given(PARTITIONS, PARTITIONS)
def test_equal_texts_are_equal_sets(one: set[TopicPartition], other: set[TopicPartition]) -> None:
    """And different ones different: nobody need read them to compare."""
    assert (format_runs(one) == format_runs(other)) == (one == other)


@pytest.mark.parametrize(
    ("partitions", "text"),
    [
        ([], ""),
        ([("orders", 0)], "orders:0"),
        ([("orders", 3), ("orders", 0), ("orders", 1), ("orders", 2), ("orders", 5)], "orders:0-3,5"),
        ([("users", 1), ("orders", 9), ("orders", 10)], "orders:9-10;users:1"),
        ([("a-1.b_c", 0), ("a", 0)], "a:0;a-1.b_c:0"),
    ],
)
def test_how_it_looks(partitions: list[tuple[str, int]], text: str) -> None:
    """Topics sorted, runs as long as they can be, numbers by value."""
    assert format_runs(TopicPartition(*tp) for tp in partitions) == text


def test_a_run_costs_no_more_than_its_ends() -> None:
    """10,000 partitions are a few bytes."""
    assert format_runs(TopicPartition("orders", n) for n in range(10_000)) == "orders:0-9999"
