"""What a child process and its supervisor say to each other: how the child is told to run, and how it is doing.

A report is a line of JSON and stands for itself: whoever has the last whole one knows everything.
"""

from __future__ import annotations

import msgspec

REPORT_MS = 50
"""How often a child looks whether there is news."""
HEARD_MS = 1000
"""At least so often it says how it is, news or not: a child that says nothing is stuck."""
OVERTIME_MS = 5000
"""How long a child may take to end after its grace time; then it ends by itself, or is killed."""

ON_ITS_WAY = frozenset({"starting", "new", "joining"})
"""States of who has not joined its groups yet."""


class Spec(msgspec.Struct, frozen=True):
    """What a child is told when it starts.

    :ivar target: ``module:app``.
    :ivar number: which of the workers it is, from 1.
    :ivar pipe: the descriptor of its end of the pipe.
    :ivar token: what the ids of its members begin with.
    :ivar grace_ms: how long what is in flight may take when it is to end.
    :ivar level: the least that it logs.
    """

    target: str
    number: int
    pipe: int
    token: str
    grace_ms: int
    level: str


class Report(msgspec.Struct, frozen=True):
    """How a child is doing.

    :ivar members: its memberships: group and member id.
    :ivar ok: whether it can do its work now.
    :ivar state: one word, as in ``Health``; ``starting`` before it has said anything.
    :ivar reason: the last trouble in words.
    :ivar joined: whether it has been a member of its groups, and well.
    """

    members: tuple[tuple[str, str], ...] = ()
    ok: bool = False
    state: str = "starting"
    reason: str = ""
    joined: bool = False


_ENCODE = msgspec.json.Encoder().encode
_REPORTS = msgspec.json.Decoder(Report)


def as_line(report: Report) -> bytes:
    """A report for the pipe."""
    return _ENCODE(report) + b"\n"


def newest(lines: bytes) -> tuple[Report | None, bytes]:
    """The last whole report among these bytes, if there is one; and what came behind it, the beginning of another."""
    whole, newline, rest = lines.rpartition(b"\n")
    if not newline:
        return None, rest
    return _REPORTS.decode(whole.rpartition(b"\n")[2]), rest
