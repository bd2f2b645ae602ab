"""What the members of the demo's group have done, in a file of each: it outlives who is killed.

A member writes a page for what a poll gave it, and one for what was committed; no server, no process. `put_together`
makes of all diaries what was done, partition by partition, and says what should not have been.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from streamlayer import ConsumerRecord

TOPIC = "stdlib"
GROUP = "demo"
DIARIES = "STREAMLAYER_DEMO_DIARIES"
"""The variable that says in which folder diaries are kept."""


def diary_of(pid: int) -> str:
    """The name of a process's diary."""
    return f"process {pid}"


class Page(msgspec.Struct, array_like=True):
    """Records of one partition that were processed together; or, without records, a commit that was acknowledged.

    :ivar at: when, by the monotonic clock, which all processes share.
    :ivar partition: the partition.
    :ivar base: the first record's offset; of a commit, the offset committed.
    """

    at: float
    partition: int
    base: int
    keys: list[bytes] = []
    values: list[bytes] = []
    timestamps: list[int] = []


_PAGES = msgspec.msgpack.Decoder(Page)
_ENCODE = msgspec.msgpack.Encoder().encode


class Diary:
    """One member's."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def processed(self, at: float, partition: int, records: Sequence[ConsumerRecord[bytes, bytes]]) -> None:
        """These were, one after the other."""
        keys, values = [record.key or b"" for record in records], [record.value for record in records]
        self._write(Page(at, partition, records[0].offset, keys, values, [record.timestamp for record in records]))

    def committed(self, at: float, offsets: Mapping[int, int]) -> None:
        """The server has acknowledged these offsets, by partition."""
        for partition, offset in offsets.items():
            self._write(Page(at, partition, offset))

    def _write(self, page: Page) -> None:
        data = _ENCODE(page)
        self._file.write(len(data).to_bytes(4) + data)

    def flush(self) -> None:
        """From here on it does not matter what becomes of this process."""
        self._file.flush()

    def close(self) -> None:
        """Nothing more."""
        self._file.close()


def read_diary(path: Path) -> list[Page]:
    """All whole pages."""
    pages: list[Page] = []
    data, at = path.read_bytes(), 0
    while at + 4 <= len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4])
        if end > len(data):
            break  # its writer was killed here
        pages.append(_PAGES.decode(memoryview(data)[at + 4 : end]))
        at = end
    return pages


@dataclass
class Done:
    """What all members have done.

    :ivar lines: the values by key, in the order of their partition.
    :ivar times: the timestamps in the same order.
    :ivar places: the partition of each key.
    :ivar repeated: records that were processed a second time.
    :ivar jumps: records whose offset was not the one after the record before it.
    :ivar faults: what should not have been, in words.
    """

    lines: defaultdict[bytes, list[bytes]] = field(default_factory=lambda: defaultdict[bytes, list[bytes]](list))
    times: defaultdict[bytes, list[int]] = field(default_factory=lambda: defaultdict[bytes, list[int]](list))
    places: defaultdict[bytes, set[int]] = field(default_factory=lambda: defaultdict[bytes, set[int]](set))
    repeated: int = 0
    jumps: int = 0
    faults: list[str] = field(default_factory=list[str])


def put_together(diaries: Iterable[Sequence[Page]]) -> Done:
    """Follow each partition through all diaries: nothing left out, and again only what was not committed."""
    done = Done()
    by_partition: defaultdict[int, list[Page]] = defaultdict(list)
    for pages in diaries:
        for page in pages:
            by_partition[page.partition].append(page)
    for partition, pages in sorted(by_partition.items()):
        after = committed = 0
        for page in sorted(pages, key=lambda page: page.at):
            if not page.values:
                committed = max(committed, page.base)
                continue
            again = min(after - page.base, len(page.values))
            if again < 0:
                done.jumps += 1
                again = 0
            if page.base < committed:
                done.faults.append(
                    f"partition {partition}: {committed - page.base:,} lines came again after their commit"
                )
            done.repeated += again
            after = max(after, page.base + len(page.values))
            _add(done, partition, page, again)
    return done


def _add(done: Done, partition: int, page: Page, first: int) -> None:
    for key, value, time in zip(page.keys[first:], page.values[first:], page.timestamps[first:], strict=True):
        done.lines[key].append(value)
        done.times[key].append(time)
        done.places[key].add(partition)


def stood_still(diaries: Mapping[str, Sequence[Page]], victim: str, killed_at: float) -> float:
    """For how long nobody processed the partitions that a killed member had: the longest of them, in seconds."""
    last: dict[int, float] = {page.partition: page.at for page in diaries.get(victim, ()) if page.values}
    waits: dict[int, float] = {}
    for name, pages in diaries.items():
        for page in pages:
            if name != victim and page.values and page.partition in last and page.at >= killed_at:
                waits[page.partition] = min(waits.get(page.partition, page.at - killed_at), page.at - killed_at)
    return max(waits.values(), default=0.0)
