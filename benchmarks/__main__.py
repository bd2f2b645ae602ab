"""``python -m benchmarks``: run, print the table. ``python -m benchmarks profile send``: see where the time goes."""

from __future__ import annotations

import argparse
import sys
import time

from benchmarks import (
    groups,
    growth,
    handling,
    hashing,
    latency,
    memory,
    profile,
    reading,
    rounds,
    table,
    versions,
    waiting,
    writing,
)
from benchmarks.place import make_place
from benchmarks.scale import FULL, QUICK

GROUPS = {
    "writing": writing.GROUP,
    "hashing": hashing.GROUP,
    "reading": reading.GROUP,
    "memory": memory.GROUP,
    "latency": latency.GROUP,
    "waiting": waiting.GROUP,
    "growth": growth.GROUP,
    "groups": groups.GROUP,
    "handling": handling.GROUP,
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, help="how many; medians count (default: 5, with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="small counts: shows that it works, not how fast")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a target is missed")
    parser.add_argument("--only", action="append", choices=sorted(GROUPS), help="this group; may be repeated")
    _add_place(parser, default=False)
    commands = parser.add_subparsers(dest="command", title="commands")
    sub = commands.add_parser("profile", help="one of them in a loop, for py-spy or perf")
    sub.add_argument("what", choices=sorted(profile.LOOPS))
    sub.add_argument("--aio", action="store_true", help="the asyncio colour")
    sub.add_argument("--seconds", type=float, default=8.0)
    _add_place(sub, default=argparse.SUPPRESS)  # given before the command, it counts too
    return parser.parse_args()


def _add_place(parser: argparse.ArgumentParser, *, default: bool | str) -> None:
    def add(option: str, text: str) -> None:
        parser.add_argument(option, action="store_true", default=default, help=text)

    add("--redis-server", "the redis-server on the PATH, not the embedded one")
    add("--unix", "over the unix socket, not TCP loopback; both sides")


def main() -> int:
    """Run."""
    arguments = _arguments()
    binary = "redis-server" if arguments.redis_server else None
    scale = QUICK if arguments.quick else FULL
    with make_place(scale, binary=binary, unix=arguments.unix) as place:
        print(versions.line(place), flush=True)
        if arguments.command == "profile":
            return profile.run(place, arguments.what, aio=arguments.aio, seconds=arguments.seconds)
        count = arguments.rounds or (1 if arguments.quick else 5)
        groups = [GROUPS[name] for name in arguments.only or GROUPS]
        started = time.monotonic()
        results = rounds.run(place, groups, count, _tell)
    rows = [row for group in groups for row in group.rows]
    print(f"{count} round(s) in {time.monotonic() - started:.0f} s; figures are medians, ratios those of each round\n")
    print("\n".join(table.lines(rows, results)))
    if place.notes:
        print("\n" + "\n".join(place.notes))
    failed = table.missed(rows, results)
    print(f"\n{len(failed)} of {sum(row.target is not None for row in rows)} targets missed")
    if failed:
        print("where the time goes: python -m benchmarks profile send|send_many|send_and_wait|poll [--aio]")
    return 1 if failed and arguments.strict else 0


def _tell(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
