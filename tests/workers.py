"""One run of the tests, shared by several processes (`make test`: pytest-xdist): what they must know of each other.

Each process has servers, proxies and folders of its own; no test may count on anything that another process has. What
is left: whoever measures the machine has it for itself, and what processes counted is added up where the run is told.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

_folder = pytest.StashKey[tempfile.TemporaryDirectory[str]]()
FUZZED = "fuzzed "
FUZZ_FLOOR = int(os.environ.get("STREAMLAYER_FUZZ_FLOOR", "0"))
"""A run that tried fewer strange inputs than this has failed (`make fuzz`): it would prove too little."""
_steps: Counter[str] = Counter()  # of histories, by kind of server: those that other processes made


class Room:
    """Where tests of all processes run, many at once; or one alone.

    Two locks of the kernel: who waits to be alone keeps the door shut meanwhile, and nobody waits for ever.
    """

    def __init__(self, folder: Path) -> None:
        self._door, self._room = (folder / "door").open("w"), (folder / "room").open("w")

    @contextmanager
    def entered(self, *, alone: bool) -> Iterator[None]:
        """Be in it."""
        with _locked(self._door, fcntl.LOCK_EX):
            fcntl.flock(self._room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)


@contextmanager
def _locked(file: IO[str], how: int) -> Iterator[None]:
    fcntl.flock(file, how)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


# --- in each process --------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outside of the timeout: waiting for others is not the test's time
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test beside others, or alone."""
    config: Any = item.config
    if not _is_worker(config):
        return (yield)
    if not hasattr(config, "room"):
        config.room = Room(Path(config.workerinput["room"]))
    with config.room.entered(alone=item.get_closest_marker("alone") is not None):
        return (yield)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over what was counted."""
    config: Any = session.config
    if _is_worker(config):
        config.workeroutput["steps"] = dict(_own_steps())
    elif _strange_inputs() < FUZZ_FLOOR:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _strange_inputs() -> int:
    return sum(count for kind, count in (_steps + _own_steps()).items() if kind.startswith(FUZZED))


def _own_steps() -> Counter[str]:
    made: Counter[str] = Counter()
    for module, name, kind in (("tests.lua.machine", "STEPS", ""), ("tests.fuzz.inputs", "TRIED", FUZZED)):
        counted: Counter[str] = getattr(sys.modules.get(module), name, Counter())
        made.update({kind + key: count for key, count in counted.items()})
    return made


# --- in the one that tells --------------------------------------------------------------------------------------------


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give all the same room."""
    stash = node.config.stash
    if _folder not in stash:
        stash[_folder] = tempfile.TemporaryDirectory(prefix="streamlayer-tests-")
    node.workerinput["room"] = stash[_folder].name


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what was counted; a process that died hands over nothing."""
    _steps.update(getattr(node, "workeroutput", {}).get("steps", {}))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing behind."""
    if _folder in config.stash:
        config.stash[_folder].cleanup()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many steps of histories were made on which server: a run that made few proves little."""
    if rows := sys.modules.get("tests.system.test_chaos"):
        for line in rows.lines():
            terminalreporter.write_line(line)
    if _strange_inputs() < FUZZ_FLOOR:
        terminalreporter.write_line(f"FAILED: {FUZZ_FLOOR:,} strange inputs were wanted", red=True)
    counts = _steps + _own_steps()
    for title, fuzzed in (("steps of histories", False), ("strange inputs", True)):
        of_these = {kind: count for kind, count in sorted(counts.items()) if kind.startswith(FUZZED) == fuzzed}
        if of_these:
            made = ", ".join(f"{kind.removeprefix(FUZZED)} {count:,}" for kind, count in of_these.items())
            terminalreporter.write_line(f"{title}: {made}; {sum(of_these.values()):,} in all")
