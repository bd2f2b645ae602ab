"""What children of a worker say, in lines that may come in parts and many at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamlayer._worker.reports import Report, as_line, newest

NAMES = st.text(st.characters(codec="utf-8"), max_size=20)
REPORTS = st.builds(
    Report, st.lists(st.tuples(NAMES, NAMES), max_size=3).map(tuple), st.booleans(), NAMES, NAMES, st.booleans()
)


@given(st.lists(REPORTS, min_size=1, max_size=5), st.integers(1, 40))
def test_the_last_whole_one_counts(said: list[Report], step: int) -> None:
    """However the pipe cuts the lines, what is known last is what was said last."""
    data, rest, known = b"".join(map(as_line, said)), b"", None
    for at in range(0, len(data), step):
        report, rest = newest(rest + data[at : at + step])
        known = report or known
    assert (known, rest) == (said[-1], b"")
