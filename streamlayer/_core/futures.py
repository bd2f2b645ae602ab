"""What a decided batch says of one of its records. Both colours' ``RecordFuture`` ask here."""

from __future__ import annotations

import logging

from streamlayer._core.accumulator import Batch
from streamlayer._types import AppendedRange, RecordMetadata
from streamlayer.errors import StreamlayerError

Slice = tuple[Batch, int, int]
"""Records of one call in one batch: the batch, the first one's index, how many."""

logger = logging.getLogger("streamlayer")


def error_of_record(batch: Batch, index: int) -> StreamlayerError | None:
    """Why a record is not, or may not be, in the log; ``None`` if it is."""
    error = batch.error or (batch.refused or {}).get(index)
    if error is not None:
        batch.told.add(error)
    return error


def metadata_of(batch: Batch, index: int) -> RecordMetadata:
    """Where a record is.

    :raises StreamlayerError: it is not, or may not be, in the log.
    """
    error = error_of_record(batch, index)
    if error is not None:
        raise error
    if batch.ranks is not None:
        index = batch.ranks[index]
    partition = batch.partition
    offset = batch.base_offset + index if batch.base_offset >= 0 else -1
    return RecordMetadata(partition.topic.name, partition.number, offset, batch.timestamps[index])


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


def ranges_of(slices: list[Slice]) -> list[AppendedRange]:
    """Where the records of a ``send_many`` are, runs that follow each other joined.

    :raises StreamlayerError: the first of what failed, with a note that counts the others.
    """
    errors: list[StreamlayerError] = []
    ranges: dict[int, list[AppendedRange]] = {}
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
