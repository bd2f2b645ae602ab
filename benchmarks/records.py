"""The records every measurement writes: 100-byte values, short keys, more keys than a batch holds of one."""

from __future__ import annotations

import random
from typing import NamedTuple

VALUE_BYTES = 100
KEYS = 5_000


class Records(NamedTuple):
    """Two columns of one length.

    :ivar keys: ``customer-0004711``, 16 bytes.
    :ivar values: random bytes, each its own object.
    """

    keys: list[bytes]
    values: list[bytes]

    @property
    def bytes(self) -> int:
        """Of keys and values together."""
        return sum(map(len, self.keys)) + sum(map(len, self.values))

    def first(self, count: int) -> Records:
        """The first ``count`` of them."""
        return Records(self.keys[:count], self.values[:count])


def make(count: int) -> Records:
    """The same records in each run."""
    dice = random.Random(1)
    names = [b"customer-%07d" % number for number in range(KEYS)]
    return Records(dice.choices(names, k=count), [dice.randbytes(VALUE_BYTES) for _ in range(count)])
