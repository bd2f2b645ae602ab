"""``ConsumerRebalanceListener``: what a consumer tells when partitions come and go. It runs inside ``poll``."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from streamlayer._types import TopicPartition


class ConsumerRebalanceListener:
    """Overwrite what is of interest. What a method raises comes out of ``poll``, iteration or ``close``.

    A method may commit and seek; it may not ``poll``. Partitions that stay are not mentioned and never pause.
    """

    async def on_partitions_assigned(self, assigned: AbstractSet[TopicPartition]) -> None:
        """These are the consumer's own now. Nothing of them was handed out yet: ``seek`` works."""

    async def on_partitions_revoked(self, revoked: AbstractSet[TopicPartition]) -> None:
        """These are to go to another member, or the consumer closes. They are still its own: ``commit`` works."""

    async def on_partitions_lost(self, lost: AbstractSet[TopicPartition]) -> None:
        """These are no longer its own, and may be another's already: what was not committed will be read again."""
