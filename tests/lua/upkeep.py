"""What an administrator and the clients' upkeep do to a partition, for the machine that makes histories.

Calls are kept, and come again at any later time: a proxy or a paused client may send them late.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from streamlayer._core import calls, scripts
from streamlayer._core.calls import Call
from tests.lua.machine import RETENTION_BYTES, SEGMENT_BYTES, Machine
from tests.lua.model import Altering
from tests.lua.run import word_of

LATE_WORDS = {"OK", "TOPIC_REPLACED", "UNKNOWN_TOPIC"}
SENT_KEPT = 30
COMING = st.sampled_from([0, 0, 50, 4000, 30_000])


class UpkeepMachine(Machine):
    """Adds to the rules what changes a partition beside its producers."""

    def begin(self, settings: dict[str, int]) -> None:
        """As above; nothing was sent before that could come late."""
        super().begin(settings)
        if not hasattr(self, "sent"):
            self.sent: list[Call[Any]] = []

    def run(self, call: Call[Any]) -> Any:
        """Execute a call; unless it was refused, it may come again late."""
        answer = self.log.run(call)
        if word_of(answer) == "OK":
            self.sent = [*self.sent[-SENT_KEPT:], call]
        return answer

    @rule(which=st.integers(0, SENT_KEPT))
    def come_late(self, which: int) -> None:
        """Any earlier call, also one for the topic that was here before, does no harm."""
        if self.sent:
            call = self.sent[which % len(self.sent)]
            answer = self.log.run(call)
            assert word_of(answer) in LATE_WORDS, answer
            if call.script is scripts.TRIM:
                self.model.may_go(self.clock.now(), int(call.args[-1]))

    def connections_end(self) -> None:
        """What is on its way to one server does not come to another, or to the same in another life."""
        self.sent = []

    # --- dropping ----------------------------------------------------------------------------------------------------

    @rule(coming=COMING)
    def trim(self, coming: int) -> None:
        """What may go is freed, whatever it is; then nothing may go, but for what time does meanwhile."""
        answer = self._trim((0, -1), coming)
        for _ in range(200):
            if answer.first < 0:
                return
            segments = answer.first, answer.last
            answer = self._trim(segments, coming)
            assert answer.first < 0 or answer.first > segments[0], "nothing was freed"
        raise AssertionError("trimming never ends")

    @rule(behind=st.integers(-2, 2), count=st.integers(0, 12), coming=COMING)
    def trim_some(self, behind: int, count: int, coming: int) -> None:
        """Whatever a caller names round the oldest segment, only what may go is freed."""
        members = self.log.members()
        first = max(0, behind + (members[0][0] if members else 0))
        self._trim((first, first + count - 1), coming)

    def _trim(self, segments: tuple[int, int], coming: int) -> Any:
        """One call; the batch that room is made for may never come."""
        answer = self.run(calls.trim(self.log.keys, topic_id=self.log.topic_id, segments=segments, coming=coming))
        assert word_of(answer) == "OK", answer
        self.model.may_go(self.clock.now(), coming)
        return answer

    @rule(before=st.integers(0, 400))
    def delete_records(self, before: int) -> None:
        """The log begins there, unless it began later, or ends earlier."""
        end = len(self.model.records)
        before %= end + 2
        low, high, answer = self.start_between(lambda: self._delete_records(before))
        if before > end:
            assert word_of(answer) == "OUT_OF_RANGE"
        else:
            assert max(before, low) <= answer <= max(before, high)
            self.model.delete(before)

    @rule(really=st.integers(0, 3))
    def delete_all_records(self, really: int) -> None:
        """-1: nothing is left, and offsets go on."""
        if not really:
            end = len(self.model.records)
            assert self.log.delete_records(-1) == end
            self.model.delete(end)

    def _delete_records(self, before: int) -> Any:
        answer: Any = None
        for _ in range(3):
            segment = self.log.segment
            answer = self.run(
                calls.delete_records(self.log.keys, topic_id=self.log.topic_id, before=before, segment=segment)
            )
            if word_of(answer) != "SEGMENT":
                break
            self.log.segment = int(answer[1])
        return answer

    @rule(really=st.integers(0, 5), calls_before=st.integers(0, 3))
    def delete_partition(self, really: int, calls_before: int) -> None:
        """After some calls nothing answers any more; after all nothing is left, and a new log begins at 0."""
        if really:
            return
        segments: tuple[int, int] | None = (0, 0)
        count = 0
        while segments is not None:
            call = calls.delete_partition(self.log.keys, topic_id=self.log.topic_id, segments=segments)
            segments = self.run(call)
            count += 1
            assert count < 200
            if count == calls_before and segments is not None:
                assert word_of(self.log.append(b"x")) == "UNKNOWN_TOPIC"
        assert self.log.dump() == {}
        self.begin(self.model.settings)

    # --- settings ----------------------------------------------------------------------------------------------------

    @rule(
        retention=st.integers(0, 2),
        retention_bytes=RETENTION_BYTES,
        segment_bytes=SEGMENT_BYTES,
        calls_made=st.integers(1, 3),
    )
    def alter(self, retention: int, retention_bytes: int, segment_bytes: int, calls_made: int) -> None:
        """Other settings begin to hold; whoever was at it before is finished first."""
        while self.model.altering is not None:
            self._go_on_altering()
        settings = self.model.settings | {
            "retention_ms": self.retentions[retention],
            "retention_bytes": retention_bytes,
            "segment_bytes": segment_bytes,
        }
        self.model.altering = Altering(next(self.versions), settings)
        for _ in range(calls_made):
            self._go_on_altering()

    @rule()
    def go_on_altering(self) -> None:
        """One more call; others came in between."""
        self._go_on_altering()

    def _go_on_altering(self) -> None:
        """A longer retention holds from the last call on, everything else from the first."""
        altering, model = self.model.altering, self.model
        if altering is None:
            return
        old, new = model.settings["retention_ms"], altering.settings["retention_ms"]
        longer = old >= 0 and (new < 0 or new > old)
        call = calls.alter_partition(
            self.log.keys,
            topic_id=self.log.topic_id,
            config_version=altering.version,
            segments=altering.segments,
            **altering.settings,
        )
        answer = self.run(call)
        assert answer is None or isinstance(answer[0], int), answer
        model.may_go(self.clock.now())
        if answer is None or not longer:
            model.apply(altering.settings)
        model.altering = None if answer is None else replace(altering, segments=answer)

    # --- layouts -----------------------------------------------------------------------------------------------------

    @rule()
    def freeze_partition(self) -> None:
        """The first step of growing: no keyed batch is taken."""
        assert self._layout(calls.freeze_partition) == self.model.generation
        self.model.growing = True

    @rule()
    def grow_partition(self) -> None:
        """The second: the new layout holds."""
        self.freeze_partition()
        assert self._layout(calls.grow_partition) == self.model.generation + 1
        self.model.generation, self.model.partitions = self.model.generation + 1, self.model.partitions + 1
        self.model.growing = False

    def _layout(self, make: Any) -> Any:
        generation, partitions = self.model.generation + 1, self.model.partitions + 1
        return self.run(make(self.log.keys, topic_id=self.log.topic_id, generation=generation, partitions=partitions))
