"""What a decided batch says of one of its records. Both colours' ``RecordFuture`` ask here.

A batch whose records were moved into others (``Batch.moved``) is decided when all of those are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from streamlayer._core.batch import Batch
from streamlayer._types import AppendedRange, RecordMetadata
from streamlayer.errors import StreamlayerError

Slice = tuple[Batch, int, int]
"""Records of one call in one batch: the batch, the first one's index, how many."""

logger = logging.getLogger("streamlayer")


def place_of(batch: Batch, index: int) -> tuple[Batch, int]:
    """The batch and the index that say what became of a record: those it was moved to last."""
    while (moved := batch.moved) is not None and batch.error is None and index not in (batch.refused or ()):
        place = index if batch.ranks is None else batch.ranks[index]
        batch, index = moved.batches[place], moved.places[place]
    return batch, index


def on_its_way(batch: Batch) -> bool:
    """Whether records of a batch are still to be sent, wherever they are now; with ``acks=0`` after it is decided."""
    return bool(batch.values) or (batch.moved is not None and any(on_its_way(heir) for heir in batch.moved.heirs))


def origins_of(batch: Batch) -> Iterator[Batch]:
    """The batches that records were moved here from, and theirs."""
    for origin in batch.origins:
        yield origin
        yield from origins_of(origin)


def tell(batch: Batch) -> None:
    """Let those go on who wait for a batch, and for those it came from that are decided by this."""
    batch.done.set()
    if batch.callbacks:
        run_callbacks(batch)
    for origin in batch.origins:
        moved = origin.moved
        if moved is not None and not origin.done.is_set() and all(heir.done.is_set() for heir in moved.heirs):
            tell(origin)


def error_of_record(batch: Batch, index: int) -> StreamlayerError | None:
    """Why a record is not, or may not be, in the log; ``None`` if it is."""
    if batch.moved is not None:
        batch, index = place_of(batch, index)
    error = (batch.refused or {}).get(index) or batch.error
    if error is not None:
        batch.told.add(error)
    return error


def metadata_of(batch: Batch, index: int) -> RecordMetadata:
    """Where a record is.

    :raises StreamlayerError: it is not, or may not be, in the log.
    """
    if batch.moved is not None:
        batch, index = place_of(batch, index)
    error = error_of_record(batch, index)
    if error is not None:
        raise error
    if batch.ranks is not None:
        index = batch.ranks[index]
    partition = batch.partition
    offset = batch.base_offset + index if batch.base_offset >= 0 else -1
    if not partition.topic.append_time:
        timestamp = batch.timestamps[index]
    else:
        timestamp = batch.append_time if offset >= 0 else -1
    return RecordMetadata(partition.topic.name, partition.number, offset, timestamp)


def run_callbacks(batch: Batch) -> None:
    """Call what was asked to be called when a batch is decided."""
    while True:
        try:
            callback = (batch.callbacks or []).pop(0)
        except IndexError:
            return  # none left, or another thread took the last
        try:
            callback()
        except (Exception, SystemExit):
            logger.exception("a done callback of %s raised", batch.partition.topic.name)


def _moved_to(slices: list[Slice]) -> Iterator[Slice]:
    """Slices by the batches that their records are in now."""
    for batch, index, count in slices:
        if batch.moved is None:
            yield batch, index, count
            continue
        start = end = place_of(batch, index)
        for i in range(index + 1, index + count):
            here = place_of(batch, i)
            if here != (end[0], end[1] + 1):
                yield *start, end[1] + 1 - start[1]
                start = here
            end = here
        yield *start, end[1] + 1 - start[1]


def ranges_of(slices: list[Slice]) -> list[AppendedRange]:
    """Where the records of a ``send_many`` are, runs that follow each other joined.

    :raises StreamlayerError: the first of what failed, with a note that counts the others.
    """
    errors: list[StreamlayerError] = []
    ranges: dict[int, list[AppendedRange]] = {}
    if any(batch.moved is not None for batch, _, _ in slices):
        slices = sorted(_moved_to(slices), key=lambda part: (part[0].base_offset, part[1]))
    for batch, index, count in slices:
        if batch.error is not None:
            refused = [batch.error]
        else:
            refused = [error for i, error in (batch.refused or {}).items() if index <= i < index + count]
        batch.told.update(refused)
        errors += refused
        if not refused:
            first = index if batch.ranks is None else batch.ranks[index]
            _join(ranges.setdefault(batch.partition.number, []), batch, first, count)
    if errors:
        if len(errors) > 1:
            errors[0].add_note(f"{len(errors) - 1} more batches or records of this call failed")
        raise errors[0]
    return [joined for partition in sorted(ranges) for joined in ranges[partition]]


def _join(ranges: list[AppendedRange], batch: Batch, index: int, count: int) -> None:
    topic, partition = batch.partition.topic.name, batch.partition.number
    if batch.base_offset < 0:
        ranges.append(AppendedRange(topic, partition, -1, count))
        return
    base = batch.base_offset + index
    if ranges and ranges[-1].base_offset + ranges[-1].count == base:
        base, count = ranges[-1].base_offset, ranges[-1].count + count
        ranges.pop()
    ranges.append(AppendedRange(topic, partition, base, count))
