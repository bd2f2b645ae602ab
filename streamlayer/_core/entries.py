"""The registry's entries: one topic each, as JSON; states and the changes between them.

States: ``creating`` → ``ready`` → ``deleting`` → no entry; from ``ready`` to ``growing`` or ``altering`` and back.
Whoever meets a topic half done finishes it: the entry says what was meant (an intent), and each step may be done twice.
"""

from __future__ import annotations

from typing import Any

import msgspec

from streamlayer._config import TopicConfig, topic_config
from streamlayer.errors import ForeignDataError, UnsupportedVersionError

CREATING = "creating"
READY = "ready"
GROWING = "growing"
ALTERING = "altering"
DELETING = "deleting"
USABLE = frozenset({READY, GROWING, ALTERING})
"""States in which records can be appended and read: a growing topic has its old layout until it is ready."""
ENTRY_VERSION = 1
MOST_PARTITIONS = 10_000


class TopicEntry(msgspec.Struct, frozen=True):
    """A topic as the registry knows it.

    :ivar id: 32 hex digits, random at creation.
    :ivar state: ``creating``, ``ready``, ``growing``, ``altering`` or ``deleting``.
    :ivar partitions: how many.
    :ivar generation: of the layout; it rises when partitions are added.
    :ivar config: the settings by name; what is missing has its default.
    :ivar config_version: rises with each change of the settings.
    :ivar target: how many partitions a growing topic will have; 0 otherwise.
    :ivar v: the entry's own version.
    :ivar stored: the bytes it was read from, which the next change is compared with; empty for a new one.
    """

    id: str
    state: str
    partitions: int
    generation: int = 1
    config: dict[str, Any] = {}
    config_version: int = 1
    target: int = 0
    v: int = ENTRY_VERSION
    stored: bytes = b""

    def with_state(self, state: str) -> TopicEntry:
        """The same topic in another state."""
        return msgspec.structs.replace(self, state=state, stored=b"")

    def growing_to(self, partitions: int) -> TopicEntry:
        """The intent to have more partitions."""
        return msgspec.structs.replace(self, state=GROWING, target=partitions, stored=b"")

    def grown(self) -> TopicEntry:
        """The intent carried out."""
        return msgspec.structs.replace(
            self, state=READY, partitions=self.target, generation=self.generation + 1, target=0, stored=b""
        )

    def altered_to(self, config: TopicConfig) -> TopicEntry:
        """The intent to have other settings."""
        return msgspec.structs.replace(
            self,
            state=ALTERING,
            config=config.model_dump(exclude_unset=True),
            config_version=self.config_version + 1,
            stored=b"",
        )

    def topic_config(self) -> TopicConfig:
        """The settings, checked and completed by the defaults."""
        return topic_config(self.config)

    def to_bytes(self) -> bytes:
        """As it stands in the registry."""
        if self.stored:
            return self.stored
        fields = msgspec.structs.asdict(self)
        del fields["stored"]
        return msgspec.json.encode(fields)


def read_entry(stored: bytes, topic: str) -> TopicEntry:
    """Read an entry.

    :raises UnsupportedVersionError: a later release wrote it.
    """
    try:
        entry = msgspec.json.decode(stored, type=TopicEntry)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        msg = f"the registry's entry of topic {topic!r} cannot be read: {error}"
        raise UnsupportedVersionError(msg) from error
    if entry.v > ENTRY_VERSION:
        msg = (
            f"the registry's entry of topic {topic!r} has version {entry.v}; this release knows 1. Upgrade streamlayer"
        )
        raise UnsupportedVersionError(msg)
    if not (0 < entry.partitions <= MOST_PARTITIONS and 0 <= entry.target <= MOST_PARTITIONS):
        msg = f"the registry's entry of topic {topic!r} says {entry.partitions} partitions, and {entry.target} to come"
        raise ForeignDataError(msg)
    return msgspec.structs.replace(entry, stored=stored)


def topics_in(entries: dict[str, bytes]) -> dict[str, TopicEntry]:
    """All topics of a registry, by name."""
    return {name: read_entry(stored, name) for name, stored in entries.items() if not name.startswith(":")}
