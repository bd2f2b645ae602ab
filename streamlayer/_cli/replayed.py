"""What was replayed of a dead letter topic, as the group that remembers it says.

The rule: progress is kept as workers keep it. What was replayed above a letter that was left out stands in the commit's
metadata, and counts as long as the log still has the record that was replayed.
"""

from __future__ import annotations

from streamlayer import Admin, Consumer, ConsumerRecord, GroupIdNotFoundError, TopicPartition
from streamlayer._core.keys import REPLAY_GROUP
from streamlayer._core.progress import Progress, from_metadata


class Memory:
    """What was replayed of a topic, for who only looks. It is asked for the records of a partition in their order.

    :param admin: asks for the group's offsets.
    :param name: the topic.
    :param consumer: reads the records.
    """

    def __init__(self, admin: Admin, name: str, consumer: Consumer) -> None:
        try:
            stored = admin.list_group_offsets(REPLAY_GROUP, topics=[name])
        except GroupIdNotFoundError:
            stored = {}
        self._consumer = consumer
        self._progress = {tp: Progress(at.offset, from_metadata(at.metadata, at.offset)) for tp, at in stored.items()}

    def has(self, record: ConsumerRecord[bytes, bytes]) -> bool:
        """Whether it was replayed."""
        progress = self._progress.get(record.topic_partition)
        return progress is not None and met(progress, record, self._consumer)

    def start(self, tp: TopicPartition) -> int:
        """The first offset that may not have been."""
        progress = self._progress.get(tp)
        return 0 if progress is None else progress.next


def met(progress: Progress, record: ConsumerRecord[bytes, bytes], consumer: Consumer) -> bool:
    """Note that a record was read; whether it was replayed, and is the same as was."""
    offset = record.offset
    if offset < progress.next:
        return True
    done = progress.resuming(offset) and progress.trusts(offset, consumer.epochs_at(record.topic_partition, offset))
    progress.accept(offset)
    if done:
        progress.done(offset)
    return done
