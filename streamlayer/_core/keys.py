"""The names of everything in Redis. The braces put one partition's keys, and no other's, in one cluster slot."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from streamlayer.errors import InvalidTopicError

DEFAULT_NAMESPACE = "sl"
REPLAY_GROUP = "dlq-replay"
"""The group that remembers which dead letters were replayed. Between two replays nobody is in it."""
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")


def check_name(name: object, what: str = "topic") -> str:
    """Return ``name`` if it can be a topic's (group's, namespace's) name, by Kafka's rule.

    :raises InvalidTopicError: it cannot; the message says why.
    """
    if isinstance(name, str) and _NAME.fullmatch(name) and name not in {".", ".."}:
        return name
    if not isinstance(name, str):
        why = f"a {what} name is a str, not {type(name).__name__}"
    elif "://" in name:
        why = f"this is a URL, not a {what} name: pass it as url="  # it may have a password in it
    elif not name:
        why = f"a {what} name cannot be empty"
    elif name in {".", ".."}:
        why = f"a {what} cannot be named {name!r}"
    elif len(name) > 249:
        why = f"a {what} name has at most 249 characters, this one has {len(name)}"
    else:
        wrong = "".join(sorted(set(re.sub(r"[a-zA-Z0-9._-]", "", name))))
        why = f"{what} name {name!r} has characters that are not allowed: {wrong!r}. Allowed: a-z A-Z 0-9 . _ -"
    raise InvalidTopicError(why)


class PartitionKeys(NamedTuple):
    """One partition's keys, those of its segments apart.

    :ivar prefix: what all of them begin with.
    :ivar channel: the channel on which an append wakes who waits for this partition.
    """

    prefix: str
    meta: str
    tail: str
    segs: str
    producers: str
    channel: str

    def segment(self, number: int) -> tuple[str, str, str]:
        """The segment's ``log``, ``index`` and ``times``."""
        return f"{self.prefix}:log:{number}", f"{self.prefix}:index:{number}", f"{self.prefix}:times:{number}"


@lru_cache(maxsize=65536)
def partition_keys(namespace: str, topic: str, partition: int) -> PartitionKeys:
    """Name one partition's keys."""
    prefix = f"{namespace}:t:{{{topic}:{partition}}}"
    return PartitionKeys(
        prefix, f"{prefix}:meta", f"{prefix}:tail", f"{prefix}:segs", f"{prefix}:producers", f"{prefix}:wake"
    )


def registry_key(namespace: str) -> str:
    """The hash of all topics."""
    return f"{namespace}:topics"


def registry_channel(namespace: str) -> str:
    """The channel on which every change of the registry is told."""
    return f"{namespace}:topics:wake"


class GroupKeys(NamedTuple):
    """One consumer group's keys, in the order in which its scripts take them; and its channel.

    :ivar channel: the channel on which members are told that something changed.
    """

    meta: str
    members: str
    deadlines: str
    gone: str
    owners: str
    offsets: str
    channel: str


def group_keys(namespace: str, group_id: str) -> GroupKeys:
    """Name one group's keys."""
    prefix = f"{namespace}:g:{{{group_id}}}"
    names = ("meta", "members", "deadlines", "gone", "owners", "offsets", "wake")
    return GroupKeys(*(f"{prefix}:{name}" for name in names))


def groups_key(namespace: str) -> str:
    """The sorted set of all groups' ids, by when somebody joined them last (server's ms)."""
    return f"{namespace}:groups"
