"""How a producer follows a topic whose partitions were added to: records that wait are placed anew by its new layout.

The rule that everything follows: a record is moved only while it is certainly not in the log and no copy of it can get
there any more. So a key is in one partition at any moment of the log, its records keep their order, none is lost and
none is there twice.

Words: a layout is a topic's *generation* and its count of partitions. A record is *placed by its key* (hash % count),
or *stays*: it has no key, or its sender chose the partition (``Batch.pinned``). A topic is *stale* from the first word
of another layout until its records are *regrouped*. A batch whose records were moved is their *origin*; the batches
that took them in are its *heirs*.

====================  ============================================================  ===================================
the topic is          until                                                         what is sent of it
====================  ============================================================  ===================================
current               ``GROWING``, ``STALE_GENERATION`` or ``WRONG_PARTITION``      everything
                      refuses a batch, or an answer has a higher generation
stale, undecided      no batch of it is frozen                                      only what is frozen, byte for byte
stale, decided        it was read again. Another layout: regrouped, and             nothing
                      current. The same: held. It could not be read: held, stale
held                  2, 4, … 64 ms are over: as before                             nothing
====================  ============================================================  ===================================

Each of the three words is a certain *no* (the script looked for an earlier copy first). It unfreezes all that waits for
that partition and raises its producer epoch: under the old epoch nothing can follow the refused batch, whose own copies
were placed by the old layout and will be refused for ever. A frozen batch behind one that is certainly not in the log
is as certainly not there: it is not asked for (the gap before it would look like loss), but unfrozen in the same way.

Regrouping seals what is open and takes every batch apart that holds a record placed by its key; the others stay whole,
with their bytes. Records keep the order they had in their old partition. Those of several old partitions that meet in
a new one are merged by the time they were given: a record's own time, as far as the times of its batch allow that.
New batches get the earliest deadline of what they hold, and numbers when they are sent.

====================================  =================================================================================
fault                                 what happens
====================================  =================================================================================
an answer lost during the growth      the batch is frozen, and decided before anything is moved
a copy arrives late                   placed by key under the old layout: refused for ever; else fenced, or behind a gap
the growth is half done, its          whoever reads the topic finishes it; where that cannot be done now, what was
admin gone                            refused is tried again, and the topic read again
a partition of a restored server      the same: it is refused until somebody has given the partition the layout again
has an older layout
the topic cannot be read              as a round in trouble: back-off, told, and again
it takes too long                     ``delivery_timeout_ms`` ends each batch: certainly not written, unless frozen
the topic is gone, or another one;    all of it fails, as it does when an append says so; the next `send` opens it anew
the server lost the growth
it grows again meanwhile              stale again: heirs are moved like any batch, and become origins
a moved batch fails                   its records' futures fail, not those of its origins' other records
====================================  =================================================================================

No clock, no lock, no socket: the caller passes ``now``, holds the lock, and reads the topic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import accumulate, islice, zip_longest
from typing import Final

from streamlayer._core.accumulator import Accumulator, PartitionQueue, TopicQueue
from streamlayer._core.batch import Batch, Moved
from streamlayer._core.codec import FAR_TIMESTAMP, header_size
from streamlayer._core.columns import longest
from streamlayer._core.refusals import error_of
from streamlayer._core.settlement import Settlement, give_up_late, lose_topic
from streamlayer.errors import StreamlayerError, UnknownTopicIdError, UnknownTopicOrPartitionError

FIRST_HOLD_MS: Final = 2
MOST_DOUBLINGS: Final = 5
FORGIVEN_MS: Final = 5000
"""After this long without looking for a layout, a topic is held but shortly again."""


def follow(
    accumulator: Accumulator,
    topic: TopicQueue,
    found: TopicQueue | StreamlayerError | None,
    now: int,
    wall: int,
) -> Settlement:
    """Decide about a stale topic that was read again.

    :param found: the topic as it is now, with nothing in it; ``None`` if there is none; or why it could not be read.
    :param wall: what the clock says by which records got their times (ms since the epoch), at ``now``.
    :returns: what is done or in trouble by this. The topic is current, held, or gone.
    """
    result = Settlement()
    if topic.undecided:
        return result  # what is frozen goes first
    if found is None:
        lose_topic(accumulator, topic, error_of("UNKNOWN_TOPIC", "", topic.name), result)
    elif isinstance(found, UnknownTopicOrPartitionError):
        lose_topic(accumulator, topic, found, result)
    elif isinstance(found, StreamlayerError):
        _hold(topic, now)
        if found.retriable:
            result.trouble = found
            result.done = give_up_late(accumulator, found, now)
        else:
            result.done = [batch for queue in topic.partitions for batch in accumulator.fail_all(queue, found)]
    elif found.topic_id != topic.topic_id:
        lose_topic(accumulator, topic, error_of("TOPIC_REPLACED", "", topic.name), result)
    elif found.generation < topic.generation or found.count < topic.count:
        msg = f"{topic.name}: the server lost the topic's newest partitions; this was not written. Send it again"
        lose_topic(accumulator, topic, UnknownTopicIdError(msg), result)
    elif found.layout == topic.layout:
        result.done = give_up_late(accumulator, None, now)
        _hold(topic, now)
        topic.stale = False  # what was refused goes again: the server may not have had this layout everywhere
    else:
        regroup(accumulator, topic, found, now, wall)
    return result


def _hold(topic: TopicQueue, now: int) -> None:
    """Let a topic rest, at first for a moment, then longer."""
    if now - topic.held_until > FORGIVEN_MS:
        topic.asked = 0
    topic.held_until = now + (FIRST_HOLD_MS << min(topic.asked, MOST_DOUBLINGS))
    topic.asked += 1


def regroup(accumulator: Accumulator, topic: TopicQueue, layout: TopicQueue, now: int, wall: int) -> None:
    """Place all that waits for a topic by another layout. No batch of it is frozen.

    :param layout: the topic as it is now, with nothing in it.
    """
    topic.room = layout.room
    for partition in topic.partitions:
        accumulator.seal(partition.open)
    queues = _emptied(topic, layout)
    fillings = [_Filling(queue) for queue in queues]
    moves: dict[Batch, Moved] = {}
    waiting = _Waiting(topic, len(queues), now, wall)
    for at in waiting.in_send_order():
        batch, index, filling = waiting.batches[at], waiting.indices[at], fillings[waiting.homes[at]]
        if index is None:
            filling.keep(batch)
            continue
        if batch not in moves:
            moves[batch] = Moved({}, [], [])
        heir, place = filling.take(batch, index, waiting.hashes[at], waiting.sizes[at])
        _, batches, places = moves[batch]
        batches.append(heir)
        places.append(place)
    for moved in moves.values():
        moved.heirs.update(dict.fromkeys(moved.batches))
    for filling in fillings:
        filling.close()
    # All is made: from here on it is only put in place. A fork sees the topic before it or after it.
    heirs = dict.fromkeys(heir for moved in moves.values() for heir in moved.heirs)
    accumulator.bytes += sum(heir.size for heir in heirs) - sum(batch.size for batch in moves)
    for queue in queues:
        for batch in queue.sealed:
            batch.partition = queue
    for batch, moved in moves.items():
        batch.moved = moved
        for heir in moved.heirs:
            heir.origins.append(batch)
    topic.adopt(queues, layout.generation)
    for batch in moves:
        batch.finish()


def _emptied(topic: TopicQueue, layout: TopicQueue) -> list[PartitionQueue]:
    """The partitions of the new layout with nothing in them; those that were there go on in their sequence."""
    queues = [PartitionQueue(topic, partition.number, partition.keys) for partition in layout.partitions]
    for queue, known in zip(queues, topic.partitions, strict=False):
        queue.sequence, queue.epoch, queue.last_append = known.sequence, known.epoch, known.last_append
        queue.segment, queue.trim = known.segment, known.trim
        queue.needs, queue.acknowledged = known.needs, known.acknowledged
    return queues


class _Filling:
    """A partition of the new layout, and the batch that is filled for it."""

    def __init__(self, queue: PartitionQueue) -> None:
        self._queue = queue
        self._batch: Batch | None = None

    def take(self, origin: Batch, index: int, key_hash: int | None, size: int) -> tuple[Batch, int]:
        """Copy a record; return where it is now.

        :param key_hash: its hash, if its key placed it.
        """
        batch = self._batch
        if batch is None or batch.room < size:
            self.close()
            batch = self._batch = Batch(self._queue, self._queue.topic.room, self._queue.topic.new_done())
            batch.created, batch.deadline = origin.created, origin.deadline
        elif origin.deadline < batch.deadline:
            batch.created, batch.deadline = origin.created, origin.deadline
        batch.room -= size
        place = batch.copy(origin, index)
        if key_hash is not None:
            batch.key_hash = key_hash
        elif origin.keys[index] is not None:
            batch.pin(place, place + 1)
        return batch, place

    def keep(self, batch: Batch) -> None:
        """Let a batch be what it is, behind what was taken before."""
        self.close()
        batch.key_hash = None  # of a record that was refused meanwhile, if of any
        self._queue.sealed.append(batch)

    def close(self) -> None:
        """Seal what was taken."""
        if self._batch is not None:
            self._batch.size -= self._batch.room
            self._queue.sealed.append(self._batch)
            self._batch = None


class _Waiting:
    """All that waits for a topic, by column: a tuple a record doubles the time, which goes into garbage collection.

    :ivar batches: where each record is.
    :ivar indices: its index there; ``None`` for a whole batch, none of which was placed by its key.
    :ivar homes: the partition it belongs to by the new layout.
    :ivar hashes: its hash, if its key placed it.
    :ivar sizes: an upper bound of the bytes it takes, in whatever batch.
    """

    def __init__(self, topic: TopicQueue, count: int, now: int, wall: int) -> None:
        self.batches: list[Batch] = []
        self.indices: list[int | None] = []
        self.homes: list[int] = []
        self.hashes: list[int | None] = []
        self.sizes: list[int] = []
        self._times: list[int] = []
        for partition in topic.partitions:
            last = 0
            sealed = list(partition.sealed)
            for batch, following in zip_longest(sealed, sealed[1:]):
                hashes = _hashes(batch, topic.hash)
                given = [batch.created]
                if hashes is None:
                    self._add(batch, [None], [partition.number], [None], [0])
                else:
                    homes = [partition.number if key_hash is None else key_hash % count for key_hash in hashes]
                    self._add(batch, range(len(hashes)), homes, hashes, _sizes(batch))
                    until = now if following is None else following.created
                    given = [min(max(time - wall + now, batch.created), until) for time in batch.timestamps]
                self._times += islice(accumulate(given, max, initial=last), 1, None)
                last = self._times[-1]

    def _add(
        self,
        batch: Batch,
        indices: Iterable[int | None],
        homes: list[int],
        hashes: Iterable[int | None],
        sizes: list[int],
    ) -> None:
        self.batches += [batch] * len(homes)
        self.indices += indices
        self.homes += homes
        self.hashes += hashes
        self.sizes += sizes

    def in_send_order(self) -> list[int]:
        """Places in the columns, each partition's in its order, those of several by the time they were given.

        That is the records' own time, as far as it lies between the beginnings of their batch and of the next one.
        """
        return sorted(range(len(self._times)), key=self._times.__getitem__)


def _hashes(batch: Batch, hash_of: Callable[[bytes], int]) -> list[int | None] | None:
    """For each record its hash, if its key placed it; ``None`` if that is so for none."""
    pinned = batch.pinned or ()
    hashes = [None if key is None or i in pinned else hash_of(key) for i, key in enumerate(batch.keys)]
    return None if hashes.count(None) == len(hashes) else hashes


def _sizes(batch: Batch) -> list[int]:
    """An upper bound of the bytes that each record takes in whatever batch."""
    overhead = longest(batch.keys, batch.values).overhead + FAR_TIMESTAMP
    sizes = [
        len(key or b"") + len(value or b"") + overhead for key, value in zip(batch.keys, batch.values, strict=True)
    ]
    for index, headers in enumerate(batch.headers or ()):
        sizes[index] += header_size(headers) if headers else 0
    return sizes
