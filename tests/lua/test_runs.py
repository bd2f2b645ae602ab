"""lib/runs.lua: the same texts as the core's, and what is in one set and not in another."""

from __future__ import annotations

import redis
from hypothesis import given

from streamlayer._core import scripts
from streamlayer._core.runs import format_runs
from streamlayer._types import TopicPartition
from tests.unit.test_runs import PARTITIONS

LIBRARIES = "\n".join(scripts._read(f"lib/{name}") for name in ("reply", "runs"))
ROUND_TRIP = f"""{LIBRARIES}
local one, other = parse_runs(ARGV[1]), parse_runs(ARGV[2])
local names = {{}}
in_chunks(one, function(part) for _, name in ipairs(part) do names[#names + 1] = name end end)
return {{ format_runs(one), format_runs(subtract(one, other) or {{}}), names }}"""
JOIN = f"""{LIBRARIES}
local runs = {{}}
for i = 1, #ARGV, 2 do runs[#runs + 1] = {{ tonumber(ARGV[i]), tonumber(ARGV[i + 1]) }} end
return format_runs({{ 'orders', orders = join(runs) }})"""


def test_both_write_and_read_the_same(redis_client: redis.Redis) -> None:
    """Round trip, difference, and names one by one in order, of any two sets."""

    @given(PARTITIONS, PARTITIONS)
    def check(one: set[TopicPartition], other: set[TopicPartition]) -> None:
        again, rest, names = redis_client.eval(ROUND_TRIP, 0, format_runs(one), format_runs(other))
        assert again.decode() == format_runs(one)
        assert rest.decode() == format_runs(one - other)
        assert [name.decode() for name in names] == [f"{topic}:{number}" for topic, number in sorted(one)]

    check()


def test_runs_that_touch_or_overlap_become_one(redis_client: redis.Redis) -> None:
    """In whatever order they come."""
    pairs = [5, 6, 0, 1, 2, 2, 9, 12, 10, 10, 7, 7]
    assert redis_client.eval(JOIN, 0, *pairs) == b"orders:0-2,5-7,9-12"
