"""What held the server: the longest call by ``SLOWLOG``, the longest event by ``LATENCY``, while a block runs.

Both count by the clock on the wall, so a server that had to wait for a CPU looks busy: how long it waited is told too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measurement import Figures
from benchmarks.place import Place
from streamlayer import Admin
from streamlayer._core import scripts
from streamlayer._core.calls import Call

LIMIT_MS = 5
"""How long one call may hold the server."""
LOGGED_US = 200
"""Calls under this are not logged; if none is longer, this is the figure."""
_LOGGED_CALLS = 50_000
_NAMES = {sha: script.name for script in scripts.ALL for sha in (script.sha, script.flagged_sha)}
_COMMANDS = ("command", "fast-command")
_NOT_RETENTION = ("aof-", "rdb-", "fork")
"""Events of the disk: they come with any write, and are told but not judged."""


class Held:
    """What a watch saw; valid after its block.

    :ivar calls: the longest call of each script of ours, µs; only those over 200 µs.
    :ivar events: the longest of each event but commands, which are in ``calls``; ms, rounded down by the server.
    :ivar ran_ms: how long the server's main thread ran, in all; 0 where nobody says so (only Linux does).
    :ivar waited_ms: how long it could have run and had no CPU.
    """

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}
        self.events: dict[str, int] = {}
        self.ran_ms: float = 0
        self.waited_ms: float = 0

    @property
    def longest_us(self) -> int:
        """What held the server longest."""
        events = [1000 * ms for name, ms in self.events.items() if not name.startswith(_NOT_RETENTION)]
        return max(LOGGED_US, *self.calls.values(), *events, 0)

    def figures(self, name: str) -> Figures:
        """For a row whose baseline is the limit."""
        return {f"{name} held": self.longest_us, f"{name} limit": 1000 * LIMIT_MS}

    @property
    def longest(self) -> str:
        """The same with its name."""
        found = {**{name: us / 1000 for name, us in self.calls.items()}, **self.events}
        name = max(found, key=lambda name: found[name], default="")
        return f"{name} {found[name]:.1f} ms" if name else "none"

    def __str__(self) -> str:
        """For a note under the table."""
        calls = [f"{name} {us / 1000:.1f} ms" for name, us in sorted(self.calls.items(), key=lambda item: -item[1])]
        events = [f"{name} {ms} ms" for name, ms in sorted(self.events.items(), key=lambda item: -item[1])]
        waited = f"; the server ran {self.ran_ms:.0f} ms, waited {self.waited_ms:.0f} for a CPU" if self.ran_ms else ""
        return f"calls: {', '.join(calls[:3]) or 'none'}; events: {', '.join(events) or 'none'}{waited}"


@contextmanager
def watching(place: Place) -> Iterator[Held]:
    """Watch while a block runs, and until what it deleted is freed."""
    plain: Any = place.plain  # redis-py leaves much of it untyped
    plain.config_set("slowlog-max-len", _LOGGED_CALLS)
    plain.config_set("slowlog-log-slower-than", LOGGED_US)
    plain.config_set("latency-monitor-threshold", 1)
    held = Held()
    pid = process_id(place)
    ran, waited = scheduled(pid)
    plain.execute_command("LATENCY", "RESET")
    plain.slowlog_reset()
    try:
        yield held
        place.freed()
    finally:
        plain.config_set("slowlog-log-slower-than", -1)
        plain.config_set("latency-monitor-threshold", 0)
    now_ran, now_waited = scheduled(pid)
    held.ran_ms, held.waited_ms = (now_ran - ran) / 1e6, (now_waited - waited) / 1e6
    for entry in plain.slowlog_get(_LOGGED_CALLS):
        words = bytes(entry["command"]).split(b" ", 2)
        name = _NAMES.get(words[1].decode(errors="replace"), "") if len(words) > 1 else ""
        if name:  # what we ask the server about itself is nobody's call
            held.calls[name] = max(held.calls.get(name, 0), int(entry["duration"]))
    for event, _, _, longest, *_ in plain.execute_command("LATENCY", "LATEST"):
        name = event.decode() if isinstance(event, bytes) else str(event)
        if name not in _COMMANDS:
            held.events[name] = int(longest)


@contextmanager
def costing(place: Place, admin: Admin) -> Iterator[list[float]]:
    """How long the server's main thread ran for each exchange with an admin, ms: what others do to it hardly counts."""
    pid, client = process_id(place), admin._client  # noqa: SLF001 - where all of its calls pass
    costs: list[float] = []
    execute = client.execute

    def measured(batch: Sequence[Call[Any]], *limit: float) -> list[Any]:
        before, _ = scheduled(pid)
        outcomes = execute(batch, *limit)
        place.plain.ping()  # it has slept since: only then all that it did is counted
        costs.append((scheduled(pid)[0] - before) / 1e6)
        return outcomes

    vars(client)["execute"] = measured
    try:
        yield costs
    finally:
        del vars(client)["execute"]


def process_id(place: Place) -> int:
    """The server's."""
    return int(place.plain.info("server")["process_id"])


def scheduled(pid: int) -> tuple[int, int]:
    """How long a process's main thread has run, and how long it was ready and did not, ns; Linux counts it, else 0."""
    try:
        ran, waited, _ = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()
    except OSError:
        return 0, 0
    return int(ran), int(waited)
