"""The judge finds what it is there to find: a good history passes, and each way of spoiling it is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.system.judge import Event, History, Value, judge
from tests.system.judge import lost as lost_records

FLOORS = {"acked": 6, "read": 8, "dropped": 2}
FIRED = {"dropped": 2}


def good() -> History:
    """Two writers, two partitions, one reader; one send whose outcome is unknown, and one that failed."""
    history = History()
    log: dict[int, list[Value]] = {0: [], 1: []}
    for index in range(4):
        for partition, writer in enumerate("ab"):
            value = Value(writer, f"key-{partition}", index)
            history.sending(value)
            log[partition].append(value)
            if (writer, index) == ("a", 2):
                history.unknown(value)
            elif (writer, index) == ("b", 3):
                history.failed(value)
                log[partition].pop()
            else:
                history.acked(value, partition, index)
            history.read("reader", partition, list(enumerate(log[partition]))[index:])
    for partition, values in log.items():
        history.drained(partition, enumerate(values))
    history.counts["read"] += 1  # the failed one
    return history


def change(history: History, what: str, place: int, edit: Callable[[Event], Event | None]) -> None:
    """Put another event, or none, in the place of one of this kind."""
    at = [i for i, event in enumerate(history.events) if event.what == what][place]
    edited = edit(history.events[at])
    history.events[at : at + 1] = [] if edited is None else [edited]


def with_records(*records: tuple[int, Value]) -> Callable[[Event], Event]:
    """An edit: other records."""
    return lambda event: event._replace(records=records)


A = [Value("a", "key-0", index) for index in range(4)]
B = [Value("b", "key-1", index) for index in range(4)]


def gap(history: History) -> None:
    """An offset is left out."""
    change(history, "drained", 0, with_records((0, A[0]), (1, A[1]), (2, A[2]), (4, A[3])))


def two_values_at_one_offset(history: History) -> None:
    """A poll saw another value there."""
    change(history, "read", 0, with_records((0, A[1])))


def acked_elsewhere(history: History) -> None:
    """The answer named another offset."""
    change(history, "acked", 0, with_records((1, A[0])))


def stored_twice(history: History) -> None:
    """A retry wrote a second copy."""
    change(history, "drained", 0, with_records(*enumerate([*A, A[3]])))


def never_sent(history: History) -> None:
    """A record that nobody sent."""
    change(history, "drained", 0, with_records(*enumerate([*A, Value("c", "key-0", 0)])))


def in_two_partitions(history: History) -> None:
    """One key, two partitions."""
    change(history, "drained", 1, with_records(*enumerate([*B[:3], Value("a", "key-0", 9)])))


def lost(history: History) -> None:
    """An acknowledged record is gone from the end."""
    change(history, "drained", 0, with_records(*enumerate(A[:3])))


def read_then_gone(history: History) -> None:
    """One that was read is gone, and the rest moved up."""
    change(history, "drained", 0, with_records(*enumerate([A[0], A[1], A[3]])))


def failed_but_there(history: History) -> None:
    """A send that failed for certain wrote its record."""
    change(history, "drained", 1, with_records(*enumerate(B)))


def out_of_order(history: History) -> None:
    """Two records of a key changed places."""
    change(history, "drained", 0, with_records(*enumerate([A[1], A[0], *A[2:]])))


def poll_skips(history: History) -> None:
    """A reader was not given a record."""
    change(history, "read", 2, lambda _: None)


def poll_repeats(history: History) -> None:
    """A reader was given a record again."""
    change(history, "read", 2, with_records((0, A[0]), (1, A[1])))


def poll_goes_back_within(history: History) -> None:
    """One poll handed records out in the wrong order."""
    change(history, "read", 2, with_records((1, A[1]), (0, A[0])))


def no_answer(history: History) -> None:
    """A send that never ended."""
    change(history, "acked", 1, lambda _: None)


def known_before(history: History) -> None:
    """A record got an offset that others had seen before it was sent."""
    history.events.append(history.events.pop(0)._replace(at=history.events[-1].at))
    change(history, "acked", 0, lambda event: event._replace(at=event.at + 1000))


def too_little(history: History) -> None:
    """Less was acknowledged than the test is worth."""
    history.counts["acked"] = 5


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (gap, "log-gap"),
        (two_values_at_one_offset, "inconsistent-offsets"),
        (acked_elsewhere, "inconsistent-offsets"),
        (stored_twice, "duplicate"),
        (never_sent, "phantom"),
        (in_two_partitions, "key-split"),
        (lost, "lost-write"),
        (read_then_gone, "vanished"),
        (failed_but_there, "aborted-read"),
        (out_of_order, "nonmonotonic-send"),
        (poll_skips, "poll-skip"),
        (poll_repeats, "nonmonotonic-poll"),
        (poll_goes_back_within, "nonmonotonic-poll"),
        (no_answer, "no-outcome"),
        (known_before, "realtime-order"),
        (too_little, "vacuous"),
    ],
)
def test_judge_names_what_was_spoiled(spoil: Callable[[History], None], name: str) -> None:
    """Each tampered history is refused, for the reason for which it was tampered with."""
    history = good()
    spoil(history)
    assert name in {anomaly.name for anomaly in judge(history, floors=FLOORS, fired=FIRED)}


def test_judge_passes_a_good_history() -> None:
    """Unknown and failed sends, other writers and several partitions are no anomalies."""
    assert judge(good(), floors=FLOORS, fired=FIRED) == []


def test_judge_refuses_a_run_whose_faults_did_not_fire() -> None:
    """A run without its faults, and an empty one, prove nothing: vacuous."""
    (anomaly,) = judge(replace(good()), floors=FLOORS)
    assert anomaly.name == "vacuous"
    assert {anomaly.name for anomaly in judge(History(), floors=FLOORS, fired=FIRED)} == {"vacuous"}


def test_value_survives_being_stored() -> None:
    """What is written into a record is what the judge reads out of it."""
    assert Value.parse(bytes(A[3])) == A[3]


# --- a log that lost its end -----------------------------------------------------------------------------------------


def cut_back() -> History:
    """Four records, of which two are lost; the writer and the reader are told, and go on with a fifth."""
    history = History()
    values = [Value("a", "key-0", index) for index in range(5)]
    for offset, value in [*enumerate(values[:4]), (2, values[4])]:
        history.sending(value)
        history.acked(value, 0, offset)
    history.read("reader", 0, enumerate(values[:4]))
    history.told("reader", 0, 2)
    history.read("reader", 0, [(2, values[4])])
    history.drained(0, enumerate([values[0], values[1], values[4]]))
    history.losses["a"], history.counted["a"] = 1, 2
    return history


def nobody_told_the_reader(history: History) -> None:
    """It went on where it was, under an offset that was used again."""
    change(history, "told", 0, lambda _: None)
    change(history, "read", 1, lambda _: None)


def told_of_too_little(history: History) -> None:
    """It believes to have read a record that is not there."""
    change(history, "told", 0, lambda event: event._replace(records=((3, event.records[0][1]),)))


def went_on_too_far(history: History) -> None:
    """It was told, and left out a record."""
    change(history, "told", 0, lambda event: event._replace(records=((1, event.records[0][1]),)))


def nobody_told_the_writer(history: History) -> None:
    """It goes on as if all were there."""
    history.losses.clear()


def told_of_one_record(history: History) -> None:
    """It lost two."""
    history.counted["a"] = 1


def test_judge_passes_a_loss_that_everybody_was_told_of() -> None:
    """Where the server may lose its end; where it may not, it is a lost write."""
    assert judge(cut_back(), floors={}, lossy=True) == []
    assert "lost-write" in {anomaly.name for anomaly in judge(cut_back(), floors={})}
    assert lost_records(cut_back()) == 2


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (nobody_told_the_reader, "untold-loss"),
        (told_of_too_little, "poll-skip"),
        (went_on_too_far, "poll-skip"),
        (nobody_told_the_writer, "untold-loss"),
        (told_of_one_record, "untold-loss"),
    ],
)
def test_judge_names_who_was_left_in_the_dark(spoil: Callable[[History], None], name: str) -> None:
    """A loss that somebody was not told of, or not of all of it."""
    history = cut_back()
    spoil(history)
    assert name in {anomaly.name for anomaly in judge(history, floors={}, lossy=True)}
