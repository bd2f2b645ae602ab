"""What each answer to a round of appends means for its batch: done, again, or given up.

The rule that everything else follows: a refusal is a certain *no*, for the batch and for all behind it in its partition
(there was a gap before their sequence numbers); no answer is *unknown*, and that batch is frozen. A refusal that the
script did not get far enough to give (memory full, loading) says nothing about a copy that was sent before.

No clock, no lock, no socket: outcomes in, decisions out.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

from streamlayer._core.accumulator import Accumulator, PartitionQueue, TopicQueue
from streamlayer._core.batch import Batch
from streamlayer._core.calls import Appended, Trimmed
from streamlayer._core.refusals import Refusal, error_of, where
from streamlayer._core.replication import Unconfirmed, needs
from streamlayer.errors import (
    DuplicateSequenceNumberError,
    InvalidTimestampError,
    LogTruncationError,
    MessageSizeTooLargeError,
    NotEnoughReplicasAfterAppendError,
    NotEnoughReplicasError,
    ProducerFencedError,
    RequestTimedOutError,
    ServerFullError,
    StreamlayerError,
    UnknownTopicOrPartitionError,
)

_LAYOUT_CHANGED = frozenset({"GROWING", "STALE_GENERATION", "WRONG_PARTITION"})
"""Words for a batch whose records were placed by a layout that the partition no longer has."""
_NOT_IN_THE_LOG = _LAYOUT_CHANGED | {"SEGMENT", "TRIM", "GAP", "BAD_TIMESTAMP", "TOO_LARGE"}
"""Words that append.lua says after it looked for an earlier copy of the batch, and found none."""


class Settlement:
    """What came of one round.

    :ivar done: batches that are appended or given up, in order: their waiters go on.
    :ivar trouble: the last error after which something is tried again; ``None`` if all went well.
    :ivar again: whether something was refused and can go again at once.
    :ivar losses: acknowledged records that the server no longer has.
    :ivar gone: topics that are no longer there.
    :ivar fatal: the producer's id is somebody else's too: nothing of it may be sent any more.
    """

    def __init__(self) -> None:
        self.done: list[Batch] = []
        self.trouble: StreamlayerError | None = None
        self.again = False
        self.losses: list[LogTruncationError] = []
        self.gone: set[str] = set()
        self.fatal: StreamlayerError | None = None


def settle(accumulator: Accumulator, batches: Iterable[Batch], outcomes: Iterable[Any], now: int) -> Settlement:
    """Decide about each batch of a round.

    :param outcomes: for each batch an ``Appended``, an ``Unconfirmed``, a ``Refusal``, a ``StreamlayerError``, or an
        exception with an ``error``, which stands for no answer.
    """
    result = Settlement()
    refused: set[int] = set()
    unsure: set[int] = set()  # partitions with a frozen batch that this round did not decide
    for batch, outcome in zip(batches, outcomes, strict=True):
        if not batch.values:
            continue  # given up together with one before it
        partition = batch.partition
        if isinstance(outcome, Appended):
            _learn(partition, outcome)
            _note(accumulator, batch, outcome, result)
            accumulator.succeed(batch, outcome.base_offset, outcome.append_time, now)
            result.done.append(batch)
            continue
        if isinstance(outcome, Unconfirmed):
            unsure.add(id(partition))
            _learn(partition, outcome.appended)
            partition.last_append = now
            _unconfirmed(accumulator, batch, outcome, result)
            continue
        if isinstance(outcome, Refusal) and outcome.word in _LAYOUT_CHANGED:
            partition.topic.stale = True
        if not isinstance(outcome, (Refusal, StreamlayerError)):
            if accumulator.idempotent and batch.epoch != partition.epoch:
                result.trouble = outcome.error
                if id(partition) in unsure:  # behind one whose place may be filled: a copy may be taken any moment
                    result.done += accumulator.fail(batch, _unknown(batch, outcome.error))
                # Else there is a gap before it: a copy on its way is refused, and fenced by what it is numbered now.
            else:
                unsure.add(id(partition))
                _unanswered(accumulator, batch, outcome.error, result)
        elif accumulator.idempotent and id(partition) in refused:
            result.again = True  # a certain no: something before it was refused
        elif isinstance(outcome, Refusal) and outcome.word in _NOT_IN_THE_LOG and id(partition) in unsure:
            result.again = True  # a no for this one; the frozen one before it may be in the log, and stays as it is
        elif isinstance(outcome, Refusal) and outcome.word in _NOT_IN_THE_LOG:
            refused.add(id(partition))
            _refused(accumulator, batch, outcome, result)
        else:
            # Said before the script looked for an earlier copy: a frozen batch may be in the log all the same. And
            # STALE is said where it was too late to find one.
            stale = isinstance(outcome, Refusal) and outcome.word == "STALE"
            (unsure if batch.frozen or stale else refused).add(id(partition))
            if isinstance(outcome, Refusal):
                _refused(accumulator, batch, outcome, result)
            else:
                _error(accumulator, batch, outcome, result)
    return result


def _learn(partition: PartitionQueue, appended: Appended) -> None:
    """What an answer says of the partition beside the batch."""
    partition.segment = appended.segment
    partition.needs = needs(appended.min_insync_replicas, appended.flush)
    if appended.generation > partition.topic.generation:
        partition.topic.stale = True


def _note(accumulator: Accumulator, batch: Batch, appended: Appended, result: Settlement) -> None:
    """A batch is acknowledged; find out whether what was acknowledged before is still there."""
    partition = batch.partition
    loss = partition.acknowledged.note(
        where(partition.topic.name, partition.number),
        appended.base_offset,
        len(batch.values),
        appended.epochs,
        fresh=not batch.frozen,
    )
    if loss is not None:
        result.losses.append(loss)
        accumulator.losses.append(loss)


def _unconfirmed(accumulator: Accumulator, batch: Batch, outcome: Unconfirmed, result: Settlement) -> None:
    """In the log, and not safe yet: it goes again, to be found there. Without idempotence it would be there twice."""
    result.trouble = batch.unconfirmed = outcome.error
    batch.frozen = accumulator.idempotent
    if outcome.hopeless or not accumulator.idempotent:
        result.done += accumulator.fail(batch, outcome.error)


def _refused(accumulator: Accumulator, batch: Batch, refusal: Refusal, result: Settlement) -> None:
    partition = batch.partition
    place = where(partition.topic.name, partition.number)
    result.again = True
    match refusal.word:
        case "SEGMENT":
            partition.segment = int(refusal.detail)
        case "TRIM" if partition.hindrance is not None:
            result.done += accumulator.fail_all(partition, partition.hindrance)
        case "TRIM":
            first, last = refusal.detail.split()
            partition.trim = int(first), int(last)
        case "GAP":
            partition.start_over()
            partition.acknowledged.gap = True
        case "BAD_TIMESTAMP":
            partition.start_over()
            oldest, newest = (int(part) for part in refusal.detail.split())
            result.done += _bad_timestamps(accumulator, batch, oldest, newest)
        case "TOO_LARGE":
            partition.start_over()
            msg = f"{place}: a batch is larger than the topic's max_message_bytes={refusal.detail}"
            result.done += accumulator.fail(batch, MessageSizeTooLargeError(msg))
        case "STALE":
            batch.frozen = True
            result.done += accumulator.fail(batch, error_of("STALE", refusal.detail, place))
        case "NOSCRIPT":
            result.trouble = StreamlayerError(f"{place}: the server forgets scripts as fast as they are loaded")
        case _:
            # Its layout was changed. None of what waits here was placed by the new one, and no copy will ever be taken.
            partition.start_over()


def _bad_timestamps(accumulator: Accumulator, batch: Batch, oldest: int, newest: int) -> list[Batch]:
    place = where(batch.partition.topic.name, batch.partition.number)
    errors: dict[int, StreamlayerError] = {}
    for i, timestamp in enumerate(batch.timestamps):
        if not oldest <= timestamp <= newest:
            msg = (
                f"{place}: timestamp_ms={timestamp} is not within what the server takes now, {oldest} to {newest} "
                "(the topic's retention to an hour ahead). A timestamp is in milliseconds since the epoch"
            )
            errors[i] = InvalidTimestampError(msg)
    if len(errors) == len(batch.timestamps):
        return accumulator.fail(batch, errors[0])
    for error in errors.values():
        accumulator.note_failure(batch, error)
    batch.refuse(errors)
    return []


def _error(accumulator: Accumulator, batch: Batch, error: StreamlayerError, result: Settlement) -> None:
    if error.retriable:
        result.trouble = error
        if isinstance(error, ServerFullError) and batch.partition.trim is None:
            batch.partition.trim = (0, -1)  # old records may make room
        return
    if isinstance(error, (ProducerFencedError, DuplicateSequenceNumberError)):
        result.fatal = error
    if isinstance(error, UnknownTopicOrPartitionError):
        lose_topic(accumulator, batch.partition.topic, error, result)
    else:
        result.done += accumulator.fail_all(batch.partition, error)


def lose_topic(accumulator: Accumulator, topic: TopicQueue, error: StreamlayerError, result: Settlement) -> None:
    """The topic is gone: nothing of it may stay behind in a queue that nobody drains any more."""
    result.gone.add(topic.name)
    topic.stale = False
    for partition in topic.partitions:
        result.done += accumulator.fail_all(partition, error)


def reopen(accumulator: Accumulator, topic: TopicQueue) -> Settlement:
    """Take a topic in; where it was lost before, begin behind what was sent then.

    The log may be the same: a server that lost a growth, or was away while another answered, or a backup. It knows this
    producer, and what comes must not be taken for what was sent before. And what was acknowledged may be gone.
    """
    result = Settlement()
    older = accumulator.topics.get(topic.name)
    if older is not None:
        same = topic.topic_id == older.topic_id
        error = error_of("UNKNOWN_TOPIC" if same else "TOPIC_REPLACED", "", topic.name)
        for partition in older.partitions:
            result.done += accumulator.fail_all(partition, error)  # what came too late to be given up with the rest
        topic.first_epoch = max([older.first_epoch, *(partition.epoch for partition in older.partitions)])
        for partition in topic.partitions:
            partition.epoch = topic.first_epoch
        for known, partition in zip_longest(older.partitions, topic.partitions) if same else ():
            if partition is None and known.acknowledged.end:
                result.losses.append(known.acknowledged.all_lost(where(topic.name, known.number)))
            elif partition is not None and known is not None:
                partition.acknowledged, partition.segment = known.acknowledged, known.segment
    accumulator.losses += result.losses
    accumulator.add_topic(topic)
    return result


def note_trims(partitions: Iterable[PartitionQueue], outcomes: Iterable[Any]) -> StreamlayerError | None:
    """Remember what is still to be dropped. A trim that failed is forgotten: the next append asks for it again.

    :param partitions: those that something was dropped from, with what came of each.
    :returns: why one failed. Appends that were refused for it are in trouble then: sent at once, they would be again.
    """
    failure: StreamlayerError | None = None
    for partition, outcome in zip(partitions, outcomes, strict=True):
        partition.trim = partition.hindrance = None
        if isinstance(outcome, Trimmed):
            partition.trim = (outcome.first, outcome.last) if outcome.first >= 0 else None
        elif isinstance(outcome, StreamlayerError):
            failure = outcome
            partition.hindrance = None if outcome.retriable else outcome
        elif isinstance(outcome, Refusal):
            failure = StreamlayerError(f"{where(partition.topic.name, partition.number)}: not trimmed: {outcome}")
        else:
            failure = outcome.error
    return failure


def _unanswered(accumulator: Accumulator, batch: Batch, error: StreamlayerError, result: Settlement) -> None:
    result.trouble = error
    batch.frozen = True
    if not accumulator.idempotent:
        result.done += accumulator.fail(batch, _unknown(batch, error))


def _unknown(batch: Batch, error: StreamlayerError) -> StreamlayerError:
    place = where(batch.partition.topic.name, batch.partition.number)
    unknown = RequestTimedOutError(f"{place}: a batch was sent and not answered: it may be in the log ({error})")
    unknown.__cause__ = error
    return unknown


def _not_safe(missing: StreamlayerError, took: str) -> StreamlayerError:
    error = type(missing)(f"{took}; it was written. The last trouble: {missing}")
    error.__cause__ = missing.__cause__
    return error


def give_up_late(accumulator: Accumulator, trouble: StreamlayerError | None, now: int) -> list[Batch]:
    """Give up the batches whose ``delivery_timeout_ms`` is over.

    :param trouble: why they were not delivered.
    :returns: all that are done by this.
    """
    done: list[Batch] = []
    while late := accumulator.expired(now):
        for batch in late:
            if not batch.values:
                continue  # given up together with one before it
            place = where(batch.partition.topic.name, batch.partition.number)
            took = f"{place}: not delivered within delivery_timeout_ms={accumulator.delivery_timeout_ms}"
            if batch.unconfirmed is not None and all(
                other.unconfirmed for other in batch.partition.sealed if other.frozen
            ):
                error: StreamlayerError = _not_safe(batch.unconfirmed, took)
            elif batch.frozen:
                error = _unknown(batch, trouble or RequestTimedOutError(took))
            elif trouble is not None:
                # What is missing for others, which were written, is what this one waited behind.
                behind = isinstance(trouble, NotEnoughReplicasAfterAppendError)
                kind = NotEnoughReplicasError if behind else type(trouble)
                error = kind(f"{took}; it was not written. The last trouble: {trouble}")
            else:
                why = ": partitions are being added to its topic" if batch.partition.topic.stale else ""
                error = RequestTimedOutError(f"{took}; it was not written{why}")
            done += accumulator.fail(batch, error)
    return done
