"""Strange inputs: bytes that were frames once, replies of any shape, values that no key should hold. All are counted.

``TRIED`` says how many of each kind a run has tried; `make fuzz` prints it, and a run that tried few proves little.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import strategies as st

TRIED: Counter[str] = Counter()

numbers = st.one_of(
    st.integers(-3, 20), st.sampled_from([-(2**63), 2**31, 2**32, 2**53, 2**53 + 1, 2**63 - 1, 2**64, 10**30])
)
texts = st.one_of(
    st.sampled_from(
        ["", "-", "nan", "inf", "-1", "0", "1e300", "1:2:3", "1::0", ",", ":::", "0x10", "\x00", "é", "1 2"]
    ),
    st.text(max_size=12),
    numbers.map(str),
)
scalars = st.one_of(
    st.none(),
    numbers,
    st.binary(max_size=30),
    texts.map(str.encode),
    st.floats(),
    st.booleans(),
    st.just(RuntimeError("x")),
)
replies: st.SearchStrategy[Any] = st.recursive(scalars, lambda inner: st.lists(inner, max_size=8), max_leaves=25)


@st.composite
def mutated(draw: st.DrawFn, given: bytes) -> bytes:
    """Bytes with a few changes: flipped, cut, put in, repeated, or a number among them replaced."""
    changed = bytearray(given)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(changed) - 1)))
        match draw(st.sampled_from(["flip", "cut", "insert", "repeat", "number"])):
            case "flip" if changed:
                changed[at] ^= draw(st.integers(1, 255))
            case "cut":
                del changed[at : at + draw(st.integers(1, 40))]
            case "insert":
                changed[at:at] = draw(st.binary(min_size=1, max_size=20))
            case "repeat":
                changed[at:at] = changed[at : at + 30]
            case _:
                changed[at : at + 4] = draw(st.integers(0, 2**32 - 1)).to_bytes(4, "big")
    return bytes(changed)
