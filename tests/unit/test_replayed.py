"""What `streamlayer dlq replay` remembers of a partition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamlayer._cli.replayed import Replayed


@given(st.integers(0, 40), st.lists(st.integers(0, 60)), st.integers(0, 60))
def test_it_is_a_set_of_offsets(begin: int, added: list[int], gone: int) -> None:
    """It holds what was put in, in any order, also after it was stored and read; the offset says what it can."""
    done, model = Replayed(begin), set(range(begin))
    for offset in added:
        done.add(offset)
        model.add(offset)
        done = Replayed(done.offset, done.metadata)
        assert {offset for offset in range(70) if offset in done} == model
        assert done.offset == min(set(range(70)) - model)
    done.forget_before(gone)
    assert {offset for offset in range(70) if offset in done} == model | set(range(gone))
    assert done.offset == min(set(range(70)) - model - set(range(gone)))


def test_runs_are_as_long_as_they_can_be() -> None:
    """A thousand neighbours take no more room than one; what closes up to the offset takes none."""
    done = Replayed(0)
    for offset in (*range(5, 1005), 2000):
        done.add(offset)
    assert done.metadata == "replayed 5-1004,2000-2000"
    for offset in range(5):
        done.add(offset)
    assert (done.offset, done.metadata) == (1005, "replayed 2000-2000")


def test_a_text_of_somebody_else_counts_as_nothing() -> None:
    """The offset of a group counts, whatever lies beside it."""
    for text in ("", "by hand", "replayed ", "replayed 7", "replayed 1-2,", "replayed 1-2;3-4"):
        done = Replayed(3, text)
        assert (done.offset, done.metadata) == (3, "")
