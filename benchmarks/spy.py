"""py-spy beside this process, where it is installed: which functions the time goes into."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RATE = 500
TOP = 18
_ASLEEP = (
    "threading.py Condition.wait",
    "selectors.py EpollSelector.select",
    "threading.py Thread._wait_for_tstate_lock",
)
"""Lines on which a thread waits for another, or for the network. py-spy takes it for busy at times; it is left out."""


def _binary() -> str | None:
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


@contextmanager
def spying(seconds: float) -> Iterator[None]:
    """Sample this process while the block runs, and print the functions and lines most often seen."""
    binary = _binary()
    if binary is None:
        print("(py-spy is not installed: `pip install py-spy`, or attach perf to the pid)")
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "stacks")
        command = [binary, "record", "--pid", str(os.getpid()), "--rate", str(RATE), "--format", "raw"]
        command += ["--duration", str(max(1, int(seconds))), "--output", str(path)]
        spy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        yield
        _, said = spy.communicate(timeout=seconds + 30)
        if path.exists():
            _print(path.read_text().splitlines())
        else:
            print(f"(py-spy found nothing: {said.strip()})")


def _print(stacks: list[str]) -> None:
    """Of folded stacks: ``function (file:line);function (file:line) 12``."""
    alone: Counter[str] = Counter()
    below: Counter[str] = Counter()
    total = 0
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        frames = [_short(frame) for frame in stack.split(";")]
        if frames[-1].startswith(_ASLEEP):
            continue
        total += int(count)
        alone[frames[-1]] += int(count)
        for function in {frame.rpartition(":")[0] for frame in frames}:
            below[function] += int(count)
    for title, counter in (("lines, by their own time", alone), ("functions, with what they call", below)):
        print(f"\n{title}:")
        for name, seen in counter.most_common(TOP):
            print(f"  {100 * seen / max(1, total):5.1f} %  {name}")


def _short(frame: str) -> str:
    """``send (streamlayer/_sync/producer.py:249)`` as ``_sync/producer.py send:249``."""
    function, _, rest = frame.partition(" (")
    path, _, line = rest.rstrip(")").rpartition(":")
    return f"{'/'.join(path.split('/')[-2:])} {function}:{line}" if path else f"{frame}:"
