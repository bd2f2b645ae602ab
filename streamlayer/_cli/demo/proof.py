"""Whether what came back is what was sent: every line of every file once, in order, byte for byte.

The judge is the disk: a file's lines as they lie there against the values that were read, in the order in which they
were read. No server, no clock. A proof of nothing is no proof: what never came at all is a fault too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from streamlayer._cli.demo.corpus import SourceFile


@dataclass(frozen=True)
class Fault:
    """What is wrong with one file.

    :ivar key: the file.
    :ivar missing: lines of it that did not come.
    :ivar extra: lines that came once too often, or were never in it.
    :ivar first: the first line that differs, counted from 1.
    """

    key: bytes
    missing: int
    extra: int
    first: int

    def __str__(self) -> str:
        if self.missing or self.extra:
            what = f"{self.missing:,} {'line' if self.missing == 1 else 'lines'} missing, {self.extra:,} too many"
        else:
            what = "the lines are out of order"
        return f"{self.key.decode(errors='backslashreplace')}: {what}; it begins at line {self.first:,}"


def compare(key: bytes, expected: Sequence[bytes], came: Sequence[bytes]) -> Fault | None:
    """``None`` if the lines came complete, in order and once; else what is wrong with them."""
    if list(expected) == list(came):
        return None
    same = (index for index, (a, b) in enumerate(zip(expected, came, strict=False)) if a != b)
    first = next(same, min(len(expected), len(came)))
    wanted, got = Counter(expected), Counter(came)
    return Fault(key, (wanted - got).total(), (got - wanted).total(), first + 1)


@dataclass(frozen=True)
class Reading:
    """What one consumer makes of what it read.

    :ivar lines: how many lines came, by file.
    :ivar faults: the files that are not as on the disk.
    :ivar jumps: records whose offset was not the one after the record before it.
    """

    lines: Mapping[bytes, int]
    faults: Sequence[Fault]
    jumps: int


@dataclass(frozen=True)
class Verdict:
    """What all consumers together read.

    :ivar faults: what is wrong, in words; nothing if the proof holds.
    :ivar files: files that came back as they are on the disk.
    :ivar lines: lines that were read.
    :ivar extra: lines that are in the log once too often.
    """

    faults: tuple[str, ...]
    files: int
    lines: int
    extra: int


def judge(files: Iterable[SourceFile], readings: Sequence[Reading], log_length: int) -> Verdict:
    """Hold the readings against the list of what was sent, and against the length of the log."""
    faults = [str(fault) for reading in readings for fault in reading.faults]
    broken = {fault.key for reading in readings for fault in reading.faults}
    expected = {file.key: file.lines for file in files}
    whole = 0
    for key in expected:
        readers = sum(key in reading.lines for reading in readings)
        if readers == 1:
            whole += key not in broken
        else:
            how = "did not come at all" if readers == 0 else "came from two partitions"
            faults.append(f"{key.decode(errors='backslashreplace')}: {how}")
    strangers = {key for reading in readings for key in reading.lines} - expected.keys()
    faults += [f"{key.decode(errors='backslashreplace')}: was never sent" for key in sorted(strangers)]
    jumps = sum(reading.jumps for reading in readings)
    if jumps:
        faults.append(f"{jumps:,} offsets do not follow the one before")
    read, sent = sum(sum(reading.lines.values()) for reading in readings), sum(expected.values())
    if log_length != sent:
        faults.append(f"{sent:,} lines were sent, but the log has {log_length:,} records")
    if not sent:
        faults.append("nothing was sent: that proves nothing")
    extra = sum(fault.extra for reading in readings for fault in reading.faults)
    return Verdict(tuple(faults), whole, read, max(extra, log_length - sent))
