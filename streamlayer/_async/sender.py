"""The sender: beside its producer, it drains batches, sends them in rounds, and settles what became of them.

One round is in flight at a time, on a connection of the sender's own. A caller that waits for its record may drive a
round itself when none is under way: that saves the hop to the sender and back.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from threading import Lock
from time import time
from typing import Any

from streamlayer._async.client import Client
from streamlayer._async.registry import open_topic
from streamlayer._core import calls
from streamlayer._core.accumulator import Accumulator, PartitionQueue, TopicQueue
from streamlayer._core.batch import Batch
from streamlayer._core.calls import Acks
from streamlayer._core.entries import TopicEntry
from streamlayer._core.futures import on_its_way, origins_of, tell
from streamlayer._core.refusals import Refusal
from streamlayer._core.regrouping import follow
from streamlayer._core.replication import confirmed, waits
from streamlayer._core.retry import backoff_ms
from streamlayer._core.settlement import Settlement, give_up_late, note_trims, settle
from streamlayer._types import Health
from streamlayer._waiting import aio as waiting
from streamlayer.errors import IllegalStateError, RequestTimedOutError, StreamlayerError

logger = logging.getLogger("streamlayer")

LOOK_AGAIN_MS = 50
SHORTEST_WAIT_MS = 50
"""An answer is waited for this long at least, however near ``delivery_timeout_ms`` is."""
LONGEST_CONFIRMATION_MS = 1000
"""How long replicas and disks are waited for in one go; a silent one is asked for again in the next."""
HAND_OVER_MS = 20
"""How long a caller waits at most for the sender to take its batches."""
READ_TOPIC_MS = 1000
"""How long a topic whose layout has changed is tried to be read before what else waits gets its turn."""


class Sender:
    """Sends one producer's batches.

    :ivar fatal: why nothing can be sent any more: somebody else uses this producer's id.
    :param lock: held whenever the accumulator is touched, never while waiting.
    :param producer_id: empty for no idempotence.
    :param acks: 0: a batch is done when it is about to be sent; 1: when the server has executed it; ``"all"``: when
        as many replicas and disks have it as the topic wants.
    :param layout_of: what the registry says of a topic, as an empty queue.
    :param forget_topic: told when a topic is gone.
    """

    def __init__(
        self,
        client: Client,
        accumulator: Accumulator,
        lock: Lock,
        producer_id: str,
        *,
        acks: Acks,
        compression: int,
        layout_of: Callable[[str, TopicEntry], TopicQueue],
        forget_topic: Callable[[str], None],
    ) -> None:
        self._client = client
        self._accumulator = accumulator
        self._lock = lock
        self._producer_id = producer_id
        self._acks: Acks = acks
        self._compression = compression
        self._layout_of = layout_of
        self._forget_topic = forget_topic
        self._link = client.new_link()
        self._signal = waiting.Signal()
        self._room: waiting.Latch | None = None
        self._taken: waiting.Latch | None = None
        self._read: waiting.Latch | None = None
        self._task: waiting.Task | None = None
        self._busy = False
        self._closing = False
        self._attempt = 0
        self._trouble: StreamlayerError | None = None
        self.fatal: StreamlayerError | None = None
        self.records_sent = self.batches_sent = self.batches_resent = self.truncations = self.records_lost = 0

    # --- what its producer asks --------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """``new``, ``ok`` or ``retrying``."""
        if self._task is None:
            return "new"
        return "retrying" if self._trouble is not None else "ok"

    @property
    def reason(self) -> str:
        """The trouble it is in, in words; empty if it is in none."""
        return str(self._trouble) if self._trouble is not None else ""

    def health(self) -> Health:
        """How it is doing."""
        alive = self._task is None or self._task.is_alive()
        state = self.state if alive and self.fatal is None else "failed"
        return Health(state in {"new", "ok"}, state, str(self.fatal or self.reason))

    def start(self) -> None:
        """Begin to run beside the producer."""
        if self._task is None:
            self._task = waiting.spawn(self._run, "streamlayer-sender")

    def wake(self) -> None:
        """There may be something to send, or another time to wait until."""
        self._signal.set()

    def hurry(self, batch: Batch) -> None:
        """Somebody waits for a batch: it lingers no longer."""
        with self._lock:
            self._accumulator.seal(batch)
        self._signal.set()

    def note(self, settled: Settlement) -> None:
        """Something was settled without a round."""
        self._count(settled)
        self._tell(settled.done)

    async def deliver(self, batch: Batch, timeout_ms: float | None) -> None:
        """Send a batch now, in the caller's own turn if no round is under way; the sender goes on with what is left.

        :param timeout_ms: how long the caller waits; if that is less than a silent server may take, the sender sends.
        """
        patient = timeout_ms is None or timeout_ms >= waiting.REPLY_TIMEOUT_MS
        mine = False
        batches: list[Batch] = []
        try:
            with self._lock:
                self._accumulator.seal(batch)
                if patient and not self._busy and self._trouble is None and self._link.connected:
                    mine = True  # before what it stands for: an interrupt in between must not leave the sender busy
                    self._busy = True
                    batches = self._accumulator.drain(waiting.monotonic_ms())
            if batches:
                await self._round(batches)
        finally:
            if mine:
                self._busy = False
            if not mine or self.reason or self._closing or not self._accumulator.empty or self._accumulator.stale:
                self._signal.set()

    async def deliver_all(self, *, timeout_ms: int | None) -> None:
        """Send all that was given, and wait for it.

        :raises RequestTimedOutError: not all was decided in time.
        """
        deadline = None if timeout_ms is None else waiting.monotonic_ms() + timeout_ms
        with self._lock:
            pending = self._accumulator.seal_all()
        if pending:
            self._signal.set()
        for batch in pending:
            left = None if deadline is None else deadline - waiting.monotonic_ms()
            decided = await batch.done.wait(left)
            while decided and on_its_way(batch) and (left is None or left > 0):  # acks=0: told before it is sent
                await self.wait_for_room(LOOK_AGAIN_MS)
                left = None if deadline is None else deadline - waiting.monotonic_ms()
            if not decided or on_its_way(batch):
                msg = f"not all records were delivered within timeout_ms={timeout_ms}; the producer goes on trying"
                raise RequestTimedOutError(msg)

    async def hand_over(self) -> None:
        """Let the sender take what is sealed before the caller goes on computing; then both work at once."""
        with self._lock:
            if self._busy:
                return
            taken = self._taken = self._taken or waiting.Latch()
        self._signal.set()
        await taken.wait(HAND_OVER_MS)

    async def wait_for_room(self, timeout_ms: float) -> bool:
        """Wait until a batch is done; tell whether one was."""
        with self._lock:
            if self._room is None:
                self._room = waiting.Latch()
            room = self._room
        self._signal.set()
        return await room.wait(timeout_ms)

    async def reread(self, topic: TopicQueue, timeout_ms: float) -> None:
        """Have a topic read again whose layout the caller knows to have changed, and wait for that."""
        with self._lock:
            topic.stale = True
            read = self._read = self._read or waiting.Latch()
        self._signal.set()
        await read.wait(timeout_ms)

    def let_go(self) -> None:
        """Nobody holds the producer any more: send what was given, then end."""
        self._closing = True
        self._signal.set()

    async def close(self) -> None:
        """Stop. What is not delivered by now is given up."""
        self._closing = True
        self._give_up(RequestTimedOutError("the producer was closed before the record was delivered"))
        self._signal.set()
        if self._task is not None:
            await self._task.join(waiting.REPLY_TIMEOUT_MS + 1000)
        await self._link.close()

    def orphan(self) -> None:
        """In a fork's child: nobody here will ever decide what was in the parent's buffer; say so to who would wait."""
        self._link.abandon()
        error = IllegalStateError("the record was sent before a fork, by the parent: its future is the parent's")
        for topic in self._accumulator.topics.values():
            for partition in topic.partitions:
                for batch in (*partition.sealed, partition.open):
                    batch.error = error
                    for decided in (batch, *origins_of(batch)):
                        decided.done.set()

    def _give_up(self, error: StreamlayerError) -> None:
        with self._lock:
            done = [
                batch
                for topic in self._accumulator.topics.values()
                for partition in topic.partitions
                for batch in self._accumulator.fail_all(partition, error)
            ]
        self._tell(done)

    # --- the rounds --------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while await self._next_round():
                pass
        except Exception as error:
            self._give_up(StreamlayerError(f"the producer's sender died: {error!r}"))
            raise

    async def _next_round(self) -> bool:
        """Wait until something is to be sent, and send it; tell whether to go on."""
        with self._lock:
            if self._closing and not self._busy and self._accumulator.empty:
                return False
            wait_ms = None if self._busy else self._accumulator.next_ready(waiting.monotonic_ms())
        if wait_ms != 0:
            await self._signal.wait(wait_ms)
        with self._lock:
            if self._busy:
                return True
            batches = self._accumulator.drain(waiting.monotonic_ms())
            stale = self._accumulator.stale_topics(waiting.monotonic_ms())
            self._busy = bool(batches)
        if batches:
            try:
                await self._round(batches)
            finally:
                self._busy = False
        for topic in stale:
            await self._reread(topic)
        if not batches and not stale:
            return True
        if self._trouble is not None and not self._closing:
            with self._lock:
                if self._accumulator.empty and not stale:
                    return True  # all was given up, and the next record's time may be shorter than a wait
                left = self._accumulator.first_deadline() - waiting.monotonic_ms()
            await waiting.sleep_ms(max(1, min(left, backoff_ms(self._attempt, random.random()))))
        return True

    async def _round(self, batches: list[Batch]) -> None:
        """Send batches and settle them. Old segments that must go first are dropped in the same go."""
        trims: dict[PartitionQueue, Batch] = {}
        for batch in batches:
            if batch.partition.trim is not None:
                trims.setdefault(batch.partition, batch)
        taken, self._taken = self._taken, None
        if taken is not None:
            taken.set()
        resent = sum(batch.frozen for batch in batches)
        if self._acks == 0:
            self._release(batches)
        try:
            trimmed, appended = await self._execute(list(trims.values()), batches)
            now = waiting.monotonic_ms()
            with self._lock:
                failure = note_trims(trims, trimmed)
                settled = settle(self._accumulator, batches, appended, now)
                if settled.again and settled.trouble is None:
                    settled.trouble = failure
                if self._acks == 0:
                    for batch in settled.done:
                        batch.base_offset = -1
                if settled.trouble or settled.again:
                    settled.done += give_up_late(self._accumulator, settled.trouble, now)
        except StreamlayerError as error:
            self._not_sent(batches, error)
            return
        except BaseException:
            # Cancelled, or worse, in the middle of it: they may have been executed. What was numbered anew is fenced.
            with self._lock:
                for batch in batches:
                    batch.frozen = batch.frozen or batch.epoch == batch.partition.epoch
            raise
        self.batches_resent += resent
        self._count(settled)
        self._report(settled.trouble)
        self._forget(settled)
        self._tell(settled.done)
        if settled.fatal is not None:
            self.fatal = settled.fatal
            self._give_up(settled.fatal)

    def _forget(self, settled: Settlement) -> None:
        for topic in settled.gone:
            self._forget_topic(topic)

    async def _reread(self, topic: TopicQueue) -> None:
        """Read a topic whose layout has changed, and have what waits for it placed anew. See ``regrouping``."""
        found: TopicQueue | StreamlayerError | None
        try:
            entry = await open_topic(self._client, topic.name, READ_TOPIC_MS)
            found = None if entry is None else self._layout_of(topic.name, entry)
        except StreamlayerError as error:
            found = error
        except Refusal:
            found = topic  # somebody else is at it: as if it had been read too early
        with self._lock:
            settled = follow(self._accumulator, topic, found, waiting.monotonic_ms(), int(time() * 1000))
            read, self._read = self._read, None
            idle = self._accumulator.empty
        if settled.trouble is not None or idle:  # else a round will tell
            self._report(settled.trouble)
        self._forget(settled)
        self._tell(settled.done)
        if read is not None:
            read.set()

    async def _execute(self, trimmed: list[Batch], batches: list[Batch]) -> tuple[list[Any], list[Any]]:
        """Send a round's calls in one go; what came of the trims, and of the appends."""
        left = min(batch.deadline for batch in batches) - waiting.monotonic_ms()
        limit = max(SHORTEST_WAIT_MS, min(left, waiting.REPLY_TIMEOUT_MS))
        requests: list[calls.Call[Any]] = [self._trim(batch) for batch in trimmed]
        requests += [self._call(batch) for batch in batches]
        waited: list[calls.Call[Any]] = []
        if self._acks == "all":
            # Two may have to be answered within the time for which the server may be silent.
            most = min(LONGEST_CONFIRMATION_MS, limit / 3, self._link.settings.silence_ms / 3)
            waited = waits((batch.partition.needs for batch in batches), max(1, int(most)))
        outcomes = await self._link.execute(requests + waited, limit)
        appended = outcomes[len(trimmed) : len(requests)]
        if self._acks == "all":
            places = [(batch.partition.topic.name, batch.partition.number) for batch in batches]
            appended = confirmed(places, appended, outcomes[len(requests) :])
        return outcomes[: len(trimmed)], appended

    def _count(self, settled: Settlement) -> None:
        for batch in settled.done:
            if batch.error is None:
                self._attempt = 0
                self.batches_sent += 1
                self.records_sent += len(batch.timestamps)
        for loss in settled.losses:
            logger.warning("%s", loss)
            self.truncations += 1
            self.records_lost += loss.lost or 0

    def _trim(self, first: Batch) -> calls.Call[calls.Trimmed]:
        """Room for the first batch of a partition only: those behind it may yet be refused."""
        partition = first.partition
        return calls.trim(
            partition.keys,
            topic_id=partition.topic.topic_id,
            segments=partition.trim or (0, -1),
            coming=len(first.frame(self._compression)[0]),
        )

    def _call(self, batch: Batch) -> calls.Call[calls.Appended]:
        partition = batch.partition
        topic = partition.topic
        frame, crc = batch.frame(self._compression)
        oldest = newest = batch.timestamps[0]
        if batch.timestamps.count(oldest) != len(batch.timestamps):
            oldest, newest = min(batch.timestamps), max(batch.timestamps)
        return calls.append(
            partition.keys,
            partition.segment,
            topic_id=topic.topic_id,
            partition=partition.number,
            generation=topic.generation,
            key_hash=batch.key_hash,
            producer=self._producer_id,
            epoch=batch.epoch,
            sequence=batch.sequence,
            crc=crc,
            count=len(batch.values),
            min_timestamp=oldest,
            max_timestamp=newest,
            acks=self._acks,
            frame=frame,
            partitions=topic.count,
        )

    def _release(self, batches: list[Batch]) -> None:
        """acks=0: whatever the server says, nobody waits for it. What it certainly refused goes again all the same."""
        for batch in batches:
            tell(batch)

    def _not_sent(self, batches: list[Batch], error: StreamlayerError) -> None:
        """There is no connection: nothing happened to them."""
        with self._lock:
            if error.retriable:
                done = give_up_late(self._accumulator, error, waiting.monotonic_ms())
            else:
                partitions = dict.fromkeys(batch.partition for batch in batches)
                done = [batch for partition in partitions for batch in self._accumulator.fail_all(partition, error)]
        self._report(error)
        self._tell(done)

    def _report(self, trouble: Any) -> None:
        if trouble is not None:
            if self._trouble is None:
                logger.warning("sending is in trouble and goes on trying: %s", trouble)
            self._attempt += 1
        elif self._trouble is not None:
            logger.info("sending goes on")
            self._attempt = 0
        self._trouble = trouble

    def _tell(self, done: list[Batch]) -> None:
        """Let those go on who wait for batches, or for room."""
        if not done:
            return
        if self._acks == 0:
            with self._lock:
                lost = self._accumulator.take_failures()
            if lost:
                logger.warning("acks=0: %d batches or records were lost, the first because: %s", len(lost), lost[0])
        with self._lock:
            room, self._room = self._room, None
        for batch in done:
            tell(batch)
        if room is not None:
            room.set()
