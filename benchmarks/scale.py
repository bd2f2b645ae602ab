"""How much one run measures: enough for a figure to trust, or just enough to see that it works."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """Counts of records, chosen so that ours and its baseline run for about as long.

    :ivar batched: for ours, written or read in batches.
    :ivar streamed: for ``XADD`` and ``XREAD``, by 500.
    :ivar single: written one at a time and waited for.
    :ivar stored: written one at a time to see what they take in memory.
    :ivar paced: sent at 1,000 a second to see how long they take.
    """

    batched: int
    streamed: int
    single: int
    stored: int
    paced: int


FULL = Scale(batched=200_000, streamed=40_000, single=4_000, stored=10_000, paced=1_000)
QUICK = Scale(batched=20_000, streamed=5_000, single=200, stored=1_000, paced=200)
