"""How much one run measures: enough for a figure to trust, or just enough to see that it works."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """Counts of records, chosen so that ours and its baseline run for about as long.

    :ivar batched: for ours, written or read in batches.
    :ivar hashed: keys that are hashed.
    :ivar streamed: for ``XADD`` and ``XREAD``, by 500.
    :ivar single: written one at a time and waited for.
    :ivar stored: written one at a time to see what they take in memory.
    :ivar paced: sent at 1,000 a second to see how long they take.
    :ivar grown: in one partition: few, many, and as many as there may be.
    :ivar segment_bytes: of these; ``None`` for the default.
    :ivar visits: how often each of them is appended to, fetched from and sought in, each time it comes round.
    :ivar window_ms: how long records are dropped, and how long not, in turn.
    :ivar expiry_ms: after what time they expire where they do.
    :ivar rebalances: how often a member joins a group, and leaves it.
    :ivar members: of a large group.
    :ivar idle_ms: how long they have nothing to do.
    :ivar takeovers: how often a member is killed.
    """

    batched: int
    hashed: int
    streamed: int
    single: int
    stored: int
    paced: int
    grown: tuple[int, int, int]
    segment_bytes: int | None
    visits: int
    window_ms: int
    expiry_ms: int
    rebalances: int
    members: int
    idle_ms: int
    takeovers: int


FULL = Scale(
    batched=200_000,
    hashed=1_000_000,
    streamed=40_000,
    single=4_000,
    stored=10_000,
    paced=1_000,
    grown=(10_000, 1_000_000, 10_000_000),
    segment_bytes=None,
    visits=100,
    window_ms=250,
    expiry_ms=10_000,
    rebalances=30,
    members=100,
    idle_ms=10_000,
    takeovers=5,
)
QUICK = Scale(
    batched=20_000,
    hashed=20_000,
    streamed=5_000,
    single=200,
    stored=1_000,
    paced=200,
    grown=(10_000, 20_000, 100_000),
    segment_bytes=256 * 1024,
    visits=10,
    window_ms=20,
    expiry_ms=600,
    rebalances=3,
    members=10,
    idle_ms=300,
    takeovers=1,
)
