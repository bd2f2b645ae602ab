"""What is asked of a server itself, as values like those of ``calls``: rights, memory, and who has what was written."""

from __future__ import annotations

from typing import NamedTuple

from streamlayer._core import scripts
from streamlayer._core.calls import Call
from streamlayer._core.rights import RUN_BY_SCRIPTS
from streamlayer._core.server import parse_info


class Holders(NamedTuple):
    """Who has what was written, beside the primary's memory; or who must have it.

    :ivar replicas: how many replicas.
    :ivar disk: 1: the primary's disk.
    :ivar replica_disks: how many replicas' disks.
    """

    replicas: int = 0
    disk: int = 0
    replica_disks: int = 0


def check_rights(namespace: str) -> Call[list[str]]:
    """Ask which of the commands that scripts run this user may not."""
    sample = f"{namespace}:t:{{rights:0}}:meta"
    return Call(scripts.CHECK_RIGHTS, (sample,), RUN_BY_SCRIPTS, lambda reply: [name.decode() for name in reply])


def wait_replicas(replicas: int, timeout_ms: int) -> Call[Holders]:
    """Wait until replicas have what was written on this connection; how many have.

    See https://redis.io/docs/latest/commands/wait/.

    :param timeout_ms: how long at most; 1 at least, for 0 would be for ever.
    """
    return Call(None, ("",), ("WAIT", replicas, timeout_ms), lambda reply: Holders(int(reply)))


def wait_disks(primary: int, replicas: int, timeout_ms: int) -> Call[Holders]:
    """Wait until disks have what was written on this connection: the primary's (0 or 1), and how many replicas'.

    See https://redis.io/docs/latest/commands/waitaof/ (Redis 7.2).

    :param primary: 1: wait for the primary's disk too.
    :param timeout_ms: as above.
    """
    return Call(None, ("",), ("WAITAOF", primary, replicas, timeout_ms), lambda reply: Holders(0, *map(int, reply)))


def read_memory() -> Call[dict[str, str]]:
    """What the server says of its memory, its limit and its eviction policy among that."""
    return Call(None, ("",), ("INFO", "memory"), lambda reply: parse_info(reply.decode(errors="replace")))
