"""A batch: records of one partition that are appended together, and what became of them.

A future is a batch and an index. So a batch stays when all else is freed, and says where its records went when a
changed layout moved them into others (``regrouping``).

No clock, no lock, no socket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from streamlayer._core.codec import Headers, encode_frame
from streamlayer.errors import StreamlayerError

if TYPE_CHECKING:
    from streamlayer._core.accumulator import PartitionQueue


class Done(Protocol):
    """What a batch's waiters wait on."""

    def set(self) -> None:
        """Let them go on."""

    def is_set(self) -> bool:
        """Whether they may."""
        ...


class Moved(NamedTuple):
    """Where a batch's records are now, by their place in it when they were moved.

    :ivar heirs: the batches that took them in, each once.
    :ivar batches: for each record the batch that took it in.
    :ivar places: for each record its index there.
    """

    heirs: dict[Batch, None]
    batches: list[Batch]
    places: list[int]


class Batch:
    """Records of one partition that are appended together.

    :ivar room: bytes left before it is sealed.
    :ivar key_hash: the hash of one record that its key placed here; ``None`` if there is none.
    :ivar pinned: by index, the records that have a key but were placed by their sender; ``None`` if there are none.
    :ivar unconfirmed: it was written, and this is what is missing for it to be safe.
    :ivar base_offset: once done: the first record's offset; -1 if nobody knows.
    :ivar error: once done: why it is not in the log, or not known to be.
    :ivar refused: records that were taken out because the server refused them, by index.
    :ivar told: errors of this batch, or of records of it, that somebody was told of.
    :ivar moved: where its records are now, once a changed layout has moved them; this batch is then never sent.
    :ivar origins: the batches that its records were moved here from.
    """

    __slots__ = (
        "_frame",
        "append_time",
        "base_offset",
        "callbacks",
        "created",
        "deadline",
        "done",
        "epoch",
        "error",
        "frozen",
        "headers",
        "key_hash",
        "keys",
        "moved",
        "origins",
        "partition",
        "pinned",
        "ranks",
        "refused",
        "room",
        "sequence",
        "size",
        "timestamps",
        "told",
        "unconfirmed",
        "values",
    )

    def __init__(self, partition: PartitionQueue, room: int, done: Any) -> None:
        self.partition = partition
        self.room = room
        self.size = room
        self.done = done
        self.keys: list[bytes | None] = []
        self.values: list[bytes | None] = []
        self.timestamps: list[int] = []
        self.headers: list[Headers | None] | None = None
        self.key_hash: int | None = None
        self.pinned: set[int] | None = None
        self.created = 0
        self.deadline = 0
        self.sequence = -1
        self.epoch = 0
        self.frozen = False
        self.unconfirmed: StreamlayerError | None = None
        self.base_offset = -1
        self.append_time = -1
        self.error: StreamlayerError | None = None
        self.refused: dict[int, StreamlayerError] | None = None
        self.ranks: list[int] | None = None
        self.callbacks: list[Callable[[], object]] | None = None
        self.told: set[StreamlayerError] = set()
        self.moved: Moved | None = None
        self.origins: list[Batch] = []
        self._frame: tuple[bytes, int] | None = None

    def frame(self, compression: int) -> tuple[bytes, int]:
        """The encoded batch and its CRC-32; encoded once."""
        if self._frame is None:
            if self.headers is not None:
                self.headers += [None] * (len(self.values) - len(self.headers))
            self._frame = encode_frame(
                self.timestamps,
                self.keys,
                self.values,
                self.headers,
                compression=compression,
                append_time=self.partition.topic.append_time,
            )
        return self._frame

    def add(
        self, keys: list[bytes | None], values: list[bytes | None], timestamps: list[int], headers: Headers | None
    ) -> None:
        """Add records, all with the same headers; none of them if this is interrupted."""
        count = len(self.values)
        try:
            if headers is not None:
                self.headers = self.headers or []
                self.headers += [None] * (count - len(self.headers))
                self.headers += [headers] * len(values)
            self.keys += keys
            self.values += values
            self.timestamps += timestamps
        except BaseException:
            self.cut_back(count)
            raise

    def copy(self, origin: Batch, index: int) -> int:
        """Add a record of another batch; return its index here."""
        place = len(self.values)
        self.keys.append(origin.keys[index])
        self.values.append(origin.values[index])
        self.timestamps.append(origin.timestamps[index])
        if origin.headers is not None and index < len(origin.headers) and origin.headers[index] is not None:
            self.headers = self.headers or []
            self.headers += [None] * (place - len(self.headers))
            self.headers.append(origin.headers[index])
        return place

    def pin(self, start: int, end: int) -> None:
        """Note that these records were placed by their sender, though they have keys."""
        if self.pinned is None:
            self.pinned = set()
        self.pinned.update(range(start, end))

    def refuse(self, errors: dict[int, StreamlayerError]) -> None:
        """Take records out, by index, that the server will never accept; the others keep their futures."""
        kept = [i for i in range(len(self.values)) if i not in errors]
        count = len(self.values) if self.ranks is None else len(self.ranks)
        gone = self.refused or {}  # by index at first; `errors` counts only those that were left
        left = [i for i in range(count) if i not in gone]
        self.refused = gone | {left[i]: error for i, error in errors.items()}
        self.ranks = [0] * count
        for rank, i in enumerate(kept):
            self.ranks[left[i]] = rank
        self.keys = [self.keys[i] for i in kept]
        self.values = [self.values[i] for i in kept]
        self.headers = None if self.headers is None else [self.headers[i] for i in kept]
        if self.pinned is not None:
            self.pinned = {rank for rank, i in enumerate(kept) if i in self.pinned}
        self.timestamps = [self.timestamps[i] for i in kept]
        self._frame = None

    def cut_back(self, count: int) -> None:
        """Undo an addition that was interrupted: the first ``count`` records stay."""
        for column in (self.keys, self.values, self.timestamps):
            del column[count:]
        if self.headers is not None:
            del self.headers[count:]

    def finish(self) -> None:
        """Free what is no longer needed. The timestamps stay, for the futures."""
        self.keys, self.values, self.headers, self._frame = [], [], None, None
