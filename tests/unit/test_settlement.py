"""What each answer means for its batch, one story each; and then all of them together, against a server in 40 lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlayer._core.batch import Batch
from streamlayer._core.calls import Appended, Trimmed
from streamlayer._core.refusals import Refusal, error_from_reply
from streamlayer._core.replication import Unconfirmed
from streamlayer._core.settlement import Settlement, give_up_late, note_trims, reopen, settle
from streamlayer.errors import (
    InvalidTimestampError,
    MessageSizeTooLargeError,
    NotEnoughReplicasAfterAppendError,
    NotEnoughReplicasError,
    PartitionDamagedError,
    ProducerFencedError,
    RequestTimedOutError,
    ServerFullError,
    ServerUnavailableError,
    StreamlayerError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)
from tests.profiles import examples
from tests.unit.batches import NOW, STAMP, Buffer, Silence, appended, no

FULL = ServerFullError("full")
CUT = ServerUnavailableError("cut")
SILENCE = Silence(CUT)


def lacking(base: int) -> Unconfirmed:
    """A yes, and no replica has it."""
    return Unconfirmed(appended(base), NotEnoughReplicasAfterAppendError("0 of 1 replicas"), hopeless=False)


def run(buffer: Buffer, *outcomes: Any, now: int = NOW) -> tuple[list[Batch], Settlement]:
    """Drain a round and settle it with these outcomes."""
    batches = buffer.accumulator.drain(now)
    assert len(batches) == len(outcomes)
    result = settle(buffer.accumulator, batches, outcomes, now)
    for batch in result.done:
        batch.done.set()
    return batches, result


def ready(count: int) -> tuple[Buffer, list[Batch]]:
    """A producer that the server knows, with some batches to send; their sequence begins at 1."""
    buffer = Buffer()
    buffer.known()
    return buffer, [buffer.batch(b"a%d" % i, b"b%d" % i) for i in range(count)]


def numbers(buffer: Buffer) -> list[tuple[int, int]]:
    """Epoch and sequence under which the next round's batches go."""
    return [(batch.epoch, batch.sequence) for batch in buffer.accumulator.drain(NOW)]


def test_what_is_appended_is_done_in_order() -> None:
    """Offsets and times come from the answers; the open segment is remembered."""
    buffer, (one, two) = ready(2)
    _, result = run(buffer, appended(1, 0), appended(3, 7))
    assert result.done == [one, two]
    assert (one.base_offset, two.base_offset, two.append_time) == (1, 3, 99)
    assert buffer.partition.segment == 7
    assert (result.trouble, result.again, result.losses, result.gone) == (None, False, [], set())


def test_another_segment_is_where_it_goes_next() -> None:
    """SEGMENT costs a round and nothing else: the same numbers again."""
    buffer, _ = ready(2)
    _, result = run(buffer, no("SEGMENT", "3"), no("SEGMENT", "3"))
    assert result.again
    assert result.trouble is None
    assert buffer.partition.segment == 3
    assert numbers(buffer) == [(0, 1), (0, 3)]


def test_old_segments_are_dropped_before_it_goes_again() -> None:
    """TRIM costs a round and nothing else: the partition knows what to drop, and the numbers are the same again."""
    buffer, (one, two) = ready(2)
    _, result = run(buffer, no("TRIM", "3 7"), no("GAP", "1"))
    assert (result.again, result.trouble, result.losses) == (True, None, [])
    assert buffer.partition.trim == (3, 7)
    assert numbers(buffer) == [(0, 1), (0, 3)]
    assert not one.frozen
    assert not two.frozen


def test_a_full_server_is_asked_what_may_be_dropped() -> None:
    """The partition's next append brings a trim that names nothing; one that knows more is left as it is."""
    buffer, _ = ready(1)
    run(buffer, FULL)
    assert buffer.partition.trim == (0, -1)
    buffer.partition.trim = (4, 5)
    run(buffer, FULL)
    assert buffer.partition.trim == (4, 5)


@pytest.mark.parametrize(
    ("outcome", "left", "why"),
    [
        (Trimmed(10, 8, 12), (8, 12), None),
        (Trimmed(10, -1, -1), None, None),
        (no("NOSCRIPT"), None, "orders[0]: not trimmed: NOSCRIPT 0"),
        (CUT, None, "cut"),
        (SILENCE, None, "cut"),
    ],
)
def test_what_a_trim_leaves(outcome: Any, left: tuple[int, int] | None, why: str | None) -> None:
    """It says what is still to go; one that failed is forgotten, as the append asks again, and says why."""
    buffer = Buffer()
    buffer.partition.trim = (1, 7)
    failure = note_trims([buffer.partition], [outcome])
    assert buffer.partition.trim == left
    assert (failure and str(failure)) == why


def test_no_answer_freezes() -> None:
    """The first was appended, the others nobody knows of: they go again as they were."""
    buffer, (_, two, three) = ready(3)
    _, result = run(buffer, appended(1), SILENCE, SILENCE)
    assert result.trouble is CUT
    assert two.frozen
    assert three.frozen
    assert numbers(buffer) == [(0, 3), (0, 5)]


def test_without_idempotence_no_answer_is_the_end() -> None:
    """It may be in the log, so it is not sent again, and the error says so."""
    buffer = Buffer(idempotent=False)
    buffer.known()
    buffer.batch(b"a")
    (batch,), result = run(buffer, SILENCE)
    assert result.done == [batch]
    assert isinstance(batch.error, RequestTimedOutError)
    assert "may be in the log" in str(batch.error)
    assert buffer.accumulator.empty


def test_without_idempotence_a_refusal_says_nothing_of_the_next() -> None:
    """Nobody checks a sequence there: the one behind a refused batch may be in the log, and is not sent again."""
    buffer = Buffer(idempotent=False)
    buffer.known()
    one, two = buffer.batch(b"a"), buffer.batch(b"b")
    run(buffer, FULL, SILENCE)
    assert one.error is None
    assert isinstance(two.error, RequestTimedOutError)


def test_behind_a_refused_batch_nothing_was_appended() -> None:
    """A first batch that found no room: those behind it had a gap before them, whatever they were told."""
    buffer, batches = ready(3)
    _, result = run(buffer, FULL, no("GAP", "1"), no("GAP", "1"))
    assert result.trouble is FULL
    assert result.losses == []
    assert not any(batch.frozen for batch in batches)
    assert numbers(buffer) == [(0, 1), (0, 3), (0, 5)]


def test_silence_behind_a_refused_batch_freezes_too() -> None:
    """It was not appended, but its request may still arrive, after the refused one was sent again."""
    buffer, (_, two) = ready(2)
    run(buffer, FULL, SILENCE)
    assert two.frozen
    assert numbers(buffer) == [(0, 1), (0, 3)]


def test_silence_behind_a_batch_that_was_changed_is_fenced() -> None:
    """The first lost a record, so all numbers behind it move: copies under the old ones must never be taken."""
    buffer, _ = ready(2)
    one = buffer.partition.sealed[0]
    one.timestamps[0] = 5
    _, result = run(buffer, no("BAD_TIMESTAMP", f"100 {STAMP}"), SILENCE)
    assert result.trouble is CUT
    assert not any(batch.frozen for batch in buffer.partition.sealed)
    assert numbers(buffer) == [(1, 0)]


def test_silence_behind_a_batch_too_old_to_be_found_is_unknown() -> None:
    """The place before it is filled, so a copy of it may be taken before the new epoch fences it: not sent again."""
    buffer, (one, two) = ready(2)
    run(buffer, SILENCE, SILENCE)
    two.frozen = False
    _, result = run(buffer, no("STALE", "3"), SILENCE)
    assert result.done == [one, two]
    assert result.trouble is CUT
    assert isinstance(two.error, RequestTimedOutError)
    assert "may be in the log" in str(two.error)
    assert buffer.accumulator.empty


def test_a_gap_begins_a_new_epoch() -> None:
    """The server lost what it had acknowledged: a new epoch from 0, all numbered anew; told with the next yes."""
    buffer, _ = ready(4)
    run(buffer, appended(1), SILENCE, SILENCE, SILENCE)
    _, result = run(buffer, no("GAP", "0"), no("GAP", "0"), no("GAP", "0"))
    assert result.losses == []
    assert numbers(buffer) == [(1, 0)]
    assert not any(batch.frozen for batch in buffer.partition.sealed)
    _, result = run(buffer, appended(1))
    (loss,) = result.losses
    assert (loss.diverged_at, loss.lost) == (None, None)
    assert buffer.accumulator.take_failures() == [loss]
    assert buffer.accumulator.take_failures() == []


def test_a_shorter_log_is_told_with_numbers() -> None:
    """Acknowledged up to 5, and the log went on from 2 in another life of the server: three are gone."""
    buffer, _ = ready(2)
    run(buffer, appended(1)._replace(epochs="1:a:0"), appended(3)._replace(epochs="1:a:0"))
    buffer.batch(b"x")
    _, result = run(buffer, appended(2)._replace(epochs="1:a:0,2:b:2"))
    (loss,) = result.losses
    assert (loss.diverged_at, loss.lost) == (2, 3)
    buffer.batch(b"y")
    _, result = run(buffer, appended(3)._replace(epochs="1:a:0,2:b:2"))
    assert result.losses == []


def test_what_too_few_replicas_have_goes_again_as_it_is() -> None:
    """It is frozen and found again; once replicas have it, it is done, at the offset that it always had."""
    buffer, (one, two) = ready(2)
    sent = [(one.sequence, one.epoch), (two.sequence, two.epoch)]
    _, result = run(buffer, lacking(1), lacking(3))
    assert result.done == []
    assert isinstance(result.trouble, NotEnoughReplicasAfterAppendError)
    assert (one.frozen, two.frozen) == (True, True)
    sent = [(one.sequence, one.epoch), (two.sequence, two.epoch)]
    batches, result = run(buffer, appended(1), appended(3))
    assert batches == [one, two]
    assert [(batch.sequence, batch.epoch) for batch in batches] == sent
    assert (one.base_offset, two.base_offset, one.error, two.error) == (1, 3, None, None)


def test_what_is_never_confirmed_is_told_to_be_written_and_not_safe() -> None:
    """When its time is over: its own error, for it is in the log; what waited behind it is certainly not there."""
    buffer, (one,) = ready(1)
    run(buffer, lacking(1))
    waiting = buffer.batch(b"w")
    full = error_from_reply("NOT_ENOUGH_REPLICAS 0 1", "orders", 0)
    _, result = run(buffer, lacking(1), full)
    give_up_late(buffer.accumulator, result.trouble, NOW + 2000)
    assert isinstance(one.error, NotEnoughReplicasAfterAppendError)
    assert "it was written" in str(one.error)
    assert isinstance(waiting.error, NotEnoughReplicasError)
    assert "it was not written" in str(waiting.error)
    assert numbers(buffer) == []


@pytest.mark.parametrize(("idempotent", "hopeless"), [(False, False), (True, True)])
def test_what_cannot_be_asked_for_again_is_told_at_once(idempotent: bool, hopeless: bool) -> None:
    """Without idempotence it would be stored twice; where ``WAIT`` is forbidden, it would never be confirmed."""
    buffer = Buffer(idempotent=idempotent)
    buffer.known()
    one = buffer.batch(b"a")
    _, result = run(buffer, lacking(1)._replace(hopeless=hopeless))
    assert result.done == [one]
    assert isinstance(one.error, NotEnoughReplicasAfterAppendError)
    buffer.batch(b"b")
    assert numbers(buffer)[0] == ((1, 0) if idempotent else (0, 1))


def test_a_gap_behind_an_undecided_batch_decides_nothing() -> None:
    """The first may be in the log already and was not looked up: numbering it anew would store it twice."""
    buffer, (one, two) = ready(2)
    run(buffer, SILENCE, SILENCE)
    sent = one.sequence, one.epoch
    _, result = run(buffer, FULL, no("GAP", "1"))
    assert result.losses == []
    assert one.frozen
    assert two.frozen
    assert numbers(buffer)[0] == (sent[1], sent[0])


def test_what_the_server_said_before_looking_leaves_a_frozen_batch_frozen() -> None:
    """Memory full says nothing about a copy that was sent before."""
    buffer, (one,) = ready(1)
    run(buffer, SILENCE)
    run(buffer, FULL)
    assert one.frozen


def test_bad_timestamps_are_taken_out_and_the_rest_goes_on() -> None:
    """Only the records out of the server's limits fail; the others go again, smaller, in a new epoch."""
    buffer = Buffer()
    buffer.known()
    for timestamp in (STAMP, 5, STAMP + 9):
        batch, _ = buffer.add(b"v%d" % timestamp, timestamp=timestamp)
    buffer.accumulator.seal(batch)
    _, result = run(buffer, no("BAD_TIMESTAMP", f"{STAMP} {STAMP + 10}"))
    assert result.done == []
    assert result.again
    assert batch.values == [b"v%d" % STAMP, b"v%d" % (STAMP + 9)]
    assert batch.refused is not None
    assert isinstance(batch.refused[1], InvalidTimestampError)
    assert [type(error) for error in buffer.accumulator.take_failures()] == [InvalidTimestampError]
    run(buffer, appended(1))
    assert buffer.accumulator.bytes == 0


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (no("BAD_TIMESTAMP", f"{STAMP + 1} {STAMP + 2}"), InvalidTimestampError),
        (no("TOO_LARGE", "10"), MessageSizeTooLargeError),
        (no("STALE", "9"), RequestTimedOutError),
    ],
)
def test_a_batch_that_cannot_be_taken_fails_and_the_next_goes_on(outcome: Refusal, kind: type[Exception]) -> None:
    """Its error says why; what is behind it begins a new epoch, so that no copy of anything old gets in."""
    buffer, (one, two) = ready(2)
    _, result = run(buffer, outcome, no("GAP", "1"))
    assert result.done == [one]
    assert isinstance(one.error, kind)
    assert two.error is None
    assert numbers(buffer) == [(1, 0)]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("FENCED_PRODUCER 2", ProducerFencedError),
        ("TOPIC_REPLACED x", UnknownTopicIdError),
        ("DAMAGED tail", PartitionDamagedError),
    ],
)
def test_fatal_answers_end_all_that_waits_for_the_partition(text: str, kind: type[StreamlayerError]) -> None:
    """The batch, those behind it, sealed and open: one error for all, and the topic is told to be gone if it is."""
    buffer, batches = ready(2)
    opened, _ = buffer.add(b"open", now=NOW + 1)
    outcome = error_from_reply(text, "orders", 0)
    batches_sent, result = run(buffer, outcome, outcome)
    assert batches_sent == batches
    assert result.done == [*batches, opened]
    assert {type(batch.error) for batch in result.done} == {kind}
    assert result.gone == ({"orders"} if kind is UnknownTopicIdError else set())
    assert buffer.accumulator.empty


@pytest.mark.parametrize(("topic_id", "kind"), [("id", UnknownTopicOrPartitionError), ("new", UnknownTopicIdError)])
def test_a_topic_opened_anew_leaves_nothing_behind(topic_id: str, kind: type[StreamlayerError]) -> None:
    """What another thread put into the lost one fails; producer epochs go on; so does what is known of the same log."""
    buffer = Buffer()
    buffer.batch(b"a")
    run(buffer, appended(0))
    gone = buffer.batch(b"b")
    run(buffer, error_from_reply("UNKNOWN_TOPIC x", "orders", 0))
    late, _ = buffer.add(b"late")
    old, again = buffer.topic, Buffer().topic
    again.topic_id = topic_id
    result = reopen(buffer.accumulator, again)
    assert result.done == [late]
    assert (type(gone.error), type(late.error)) == (UnknownTopicOrPartitionError, kind)
    assert buffer.accumulator.topics == {"orders": again}
    assert again.partitions[0].epoch > gone.epoch
    assert (again.partitions[0].acknowledged is old.partitions[0].acknowledged) == (topic_id == "id")
    assert buffer.accumulator.bytes == 0


def test_partitions_do_not_decide_for_each_other() -> None:
    """A refusal in one partition says nothing about the next one's batches."""
    buffer = Buffer(2)
    one, other = buffer.batch(b"a", partition=0), buffer.batch(b"b", partition=1)
    _, result = run(buffer, FULL, appended(0))
    assert result.done == [other]
    assert one.error is None


def test_late_batches_are_given_up_with_the_reason() -> None:
    """Refused: certainly not written, and the last trouble's class. Frozen: unknown, and the frozen ones with it."""
    buffer, (one, two, three) = ready(3)
    run(buffer, FULL, no("GAP"), no("GAP"))
    assert give_up_late(buffer.accumulator, FULL, NOW + 999) == []
    late = give_up_late(buffer.accumulator, FULL, NOW + 1000)
    assert late == [one, two, three]
    assert isinstance(one.error, ServerFullError)
    assert "was not written" in str(one.error)

    buffer, (one, two, three) = ready(3)
    run(buffer, SILENCE, SILENCE, SILENCE)
    buffer.batch(b"later", now=NOW + 500)
    late = give_up_late(buffer.accumulator, CUT, NOW + 1000)
    assert late == [one, two, three]
    assert {type(batch.error) for batch in late} == {RequestTimedOutError}
    assert "may be in the log" in str(three.error)
    assert numbers(buffer) == [(1, 0)]


def test_an_answer_for_a_batch_that_was_given_up_changes_nothing() -> None:
    """Closing, or the deadline, may be quicker than the answer."""
    buffer, (one,) = ready(1)
    buffer.accumulator.drain(NOW)
    buffer.accumulator.fail(one, RequestTimedOutError("closed"))
    result = settle(buffer.accumulator, [one], [appended(5)], NOW)
    assert result.done == []
    assert one.base_offset == -1
    assert buffer.accumulator.bytes == 0


# --- all of it together ----------------------------------------------------------------------------------------------


@dataclass
class Server:
    """append.lua's rules about sequences, and nothing else of it."""

    log: list[bytes | None] = field(default_factory=list)
    known: tuple[int, int] | None = None
    batches: list[tuple[int, int, int, int]] = field(default_factory=list)

    def execute(self, sent: tuple[int, int, int, list[bytes | None], bool]) -> Any:
        """Judge one batch."""
        epoch, sequence, crc, values, bad = sent
        held, following = self.known or (epoch, 0)
        if epoch < held:
            return error_from_reply(f"FENCED_PRODUCER {held}", "orders", 0)
        if epoch > held:
            following = 0
        if sequence > following:
            return Refusal("GAP", str(following))
        if sequence < following:
            for first, count, known_crc, base in self.batches[-5:]:
                if first == sequence and (count, known_crc) == (len(values), crc):
                    return appended(base)
                if first == sequence:
                    return error_from_reply(f"SEQUENCE_REUSED {sequence}", "orders", 0)
            return Refusal("STALE", str(following))
        if bad:
            return Refusal("BAD_TIMESTAMP", f"{STAMP} {STAMP}")
        if epoch > held or self.known is None:
            self.batches = []
        base = len(self.log)
        self.log += values
        self.batches.append((sequence, len(values), crc, base))
        self.known = (epoch, sequence + len(values))
        return appended(base)


round_of = st.tuples(
    st.integers(0, 3),  # batches sealed before it
    st.integers(0, 5),  # how many calls are executed
    st.integers(0, 5),  # how many of them are answered
    st.sets(st.integers(0, 4)),  # which are refused for want of memory
    st.booleans(),  # whether what was not executed arrives later
    st.integers(0, 400),  # ms until the next
    st.integers(0, 20),  # whether one of the records has a bad time
)


@given(st.lists(round_of, min_size=1, max_size=14))
@settings(max_examples=examples(300))
def test_exactly_once_and_in_order_whatever_is_answered(rounds: list[Any]) -> None:
    """Each record is in the log once, in order, where it was said to be; one that was said not to be there is not."""
    buffer, server = Buffer(), Server()
    sent: list[Batch] = []
    values: dict[Batch, list[bytes]] = {}
    late: list[Any] = []
    frozen: dict[Batch, Any] = {}
    now = NOW
    calm = [(0, 9, 9, set(), False, 1, 0)] * 40
    for new, executed, answered, refused, lingers, wait, bad in rounds + calm:
        for number in range(new):
            names = [b"%d.%d" % (len(sent), i) for i in range(1 + number)]
            batch = buffer.batch(*names, now=now)
            if bad == 0:
                batch.timestamps[0] = 5
            sent.append(batch)
            values[batch] = names
        batches = buffer.accumulator.drain(now)
        requests: list[Any] = []
        for batch in batches:
            request = (batch.epoch, batch.sequence, batch.frame(0)[1], list(batch.values), 5 in batch.timestamps)
            assert not batch.frozen or frozen[batch] == request, "a frozen batch was changed"
            frozen[batch] = request
            requests.append(request)
        outcomes: list[Any] = []
        for i, request in enumerate(requests):
            outcome: Any = SILENCE
            if i < executed:
                outcome = FULL if i in refused else server.execute(request)
            outcomes.append(outcome if i < answered else SILENCE)
        if lingers:
            late = requests[min(executed, answered) :]
        settled = settle(buffer.accumulator, batches, outcomes, now)
        done = settled.done
        now += wait
        if settled.trouble or settled.again:
            done += give_up_late(buffer.accumulator, settled.trouble, now)
        for batch in done:
            assert not batch.done.is_set(), "decided twice"
            batch.done.set()
        if not lingers:
            for request in late:
                server.execute(request)
            late = []
    assert buffer.accumulator.empty
    assert buffer.accumulator.bytes == 0
    order = {value: place for place, value in enumerate(value for batch in sent for value in values[batch])}
    places = [order[value] for value in server.log if value is not None]
    assert places == sorted(set(places)), f"not once each, in order: {server.log}"
    for batch in sent:
        if isinstance(batch.error, RequestTimedOutError) and "may be" in str(batch.error):
            continue
        kept = [name for i, name in enumerate(values[batch]) if i not in (batch.refused or {})]
        if batch.error is not None:
            assert not set(values[batch]) & set(server.log), "said not to be there, but is"
        else:
            assert server.log[batch.base_offset : batch.base_offset + len(kept)] == kept
            assert set(values[batch]) & set(server.log) == set(kept)


def test_the_model_knows_a_duplicate() -> None:
    """The server above is no better than its own test."""
    server = Server()
    request = (0, 0, 1, [b"a"], False)
    assert server.execute(request) == server.execute(request) == appended(0)
    assert isinstance(server.execute((0, 0, 2, [b"b"], False)), StreamlayerError)
    assert server.log == [b"a"]
    assert isinstance(appended(0), Appended)
