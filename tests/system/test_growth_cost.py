"""A long log costs no more than a short one, and dropping all of it holds the server for some ms at most.

`make bench ARGS="--only growth"` asks the same of ten million records. Here the log is short, and what counts is how
long the server ran for a call (Linux knows), not how long it took: a test machine is busy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from benchmarks import dropping, growth
from benchmarks.bulk import BATCH, LARGE_BATCH, fill
from benchmarks.held import LIMIT_MS, costing
from benchmarks.place import Place, make_place
from benchmarks.scale import QUICK
from streamlayer import Admin
from tests import servers

pytestmark = [pytest.mark.system, pytest.mark.alone, pytest.mark.timeout(60)]

TOPIC = "grown"
MIB = 1 << 20


@pytest.fixture(scope="module", params=["valkey", "redis"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """An empty server of each kind.

    The Valkey of the wheel has glibc's allocator, which at times returns all that was freed before in one go, as much
    as it is. Here it is told not to: what is asked is what our calls free.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MALLOC_TRIM_THRESHOLD_", str(1 << 40))
        with make_place(QUICK, binary=servers.binary(request.param)) as found:
            yield found


@pytest.mark.parametrize(
    ("way", "records", "batch", "segment_bytes"),
    [
        *((way, 200_000, BATCH, 256 * 1024) for way in dropping.WAYS),
        ("retention_bytes", 2_000_000, LARGE_BATCH, 16 * MIB),
        ("delete_topics", 2_000_000, LARGE_BATCH, 16 * MIB),
    ],
)
def test_no_call_holds_the_server_while_all_is_dropped(
    place: Place, way: str, records: int, batch: int, segment_bytes: int
) -> None:
    """No call takes over 5 ms in any way of dropping all records, be they in 80 segments or in 200 batches of 1 MiB.

    The second is where the server frees within the call and not beside it: a hash of up to 64 fields. Of three times
    the shortest counts: what a call costs, it costs each time.
    """
    sized = Place(place.url, replace(QUICK, segment_bytes=segment_bytes))
    longest: list[float] = []
    for _ in range(3):
        filled = fill(sized, TOPIC, records, batch=batch)
        with Admin(url=place.url) as admin:
            with costing(place, admin) as costs:
                dropping.WAYS[way](admin, filled)
            longest.append(max(costs))
            left = admin.describe_topics().get(TOPIC)
            assert left is None or (left.partitions[0].segments <= 2 and place.plain.dbsize() <= 11)
            admin.delete_topics([TOPIC], missing_ok=True)
        assert place.plain.dbsize() == 1, "the registry is what stays"
        place.freed()
    sized.plain.close()
    assert min(longest) <= LIMIT_MS, longest


def test_a_call_costs_the_same_however_long_the_log_is(place: Place) -> None:
    """Append, fetch and look-up by time at 100,000 records in 40 segments, against 10,000 in 4 of them.

    Loosely: `make bench` has the figures. Each field or record looked at would be far more.
    """
    found = growth.lengths(place)
    for name in ("append", "fetch", "seek"):
        assert found[f"{name} long"] < 4 * found[f"{name} short"], found
