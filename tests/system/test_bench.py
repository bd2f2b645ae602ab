"""`make bench` and its profiler run and print what they promise. How fast is not asked here: a test machine is busy."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m benchmarks` as `make bench` runs it."""
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)


def test_the_table_has_a_line_for_each_measurement() -> None:
    """Versions first; each line with a target says what became of it; a missed target is no failure."""
    done = run("--quick")
    assert done.returncode == 0, done.stderr
    assert re.match(
        r"python 3\.\d+\.\d+ redis \S+ hiredis \S+ msgspec \S+; (valkey|redis) \S+, TCP loopback; ", done.stdout
    )
    promised = [line for line in done.stdout.splitlines() if re.search(r"[≥≤] [\d.]+ +(met|MISSED)$", line)]
    for what, lines in {
        "send, flush": 2,
        "send_many": 4,
        "murmur2 for crc32 in send": 4,
        "poll": 2,
        "memory": 3,
        "… the server's growth": 2,
        "send to poll at 1,000/s, p50": 2,
        "send_and_wait": 2,
        "append, waited for": 2,
        "fetch after seek": 2,
        "look up by time": 2,
        "append p99": 1,
        "longest call or event": 10,
    }.items():
        assert sum(line.startswith(what) for line in promised) == lines, done.stdout
    assert f"of {len(promised)} targets missed" in done.stdout


@pytest.mark.parametrize("arguments", [("--only", "waiting", "--strict"), ("--only", "waiting", "--strict", "--unix")])
def test_strict_makes_a_missed_target_an_error(arguments: tuple[str, ...]) -> None:
    """Exit 1 exactly if the table says MISSED."""
    done = run("--quick", *arguments)
    assert done.returncode == ("MISSED" in done.stdout), done.stderr
    assert ("unix socket" in done.stdout) == ("--unix" in arguments)


@pytest.mark.parametrize("what", ["send", "send_many", "send_and_wait", "poll"])
@pytest.mark.parametrize("colour", [(), ("--aio",)], ids=["sync", "aio"])
def test_each_path_can_be_profiled(what: str, colour: tuple[str, ...]) -> None:
    """It prints what a record costs here, and what the server spends."""
    done = run("--quick", "profile", what, "--seconds", "0.2", *colour)
    assert done.returncode == 0, done.stderr
    assert "µs a record" in done.stdout
    assert "the server:" in done.stdout
