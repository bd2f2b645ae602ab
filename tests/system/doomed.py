"""Producers as processes of their own, which are killed and stopped under load; and members of the group.

    with Doomed(url, folder, "aio", "first") as process:
        process.wait("acked", 100)
        process.kill()
    process.hand_over(history)

The process is a `Load` whose history is written down line by line, each line in one go before anything else happens:
``python -m tests.system.doomed URL LOG COLOUR NAME``. What was under way when it died is unknown; who comes after
it has another name. The rule: it ends with the test, and a test that did not mean it to die fails with its words.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self, cast

from tests.system.group_crew import Crew, now_ns
from tests.system.judge import Anomaly, Event, History, Records, Value
from tests.system.load import MEMBER, PARTITIONS, Colour, Load
from tests.system.stage import Stage
from tests.waiting import sync_wait_until

ROOT = Path(__file__).parents[2]
COLOURS: tuple[Colour, ...] = ("sync", "aio")


class WrittenHistory(History):
    """One that is written down as it happens; in its process one thread adds to it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def _add(self, what: str, actor: str, partition: int, records: Records) -> None:
        super()._add(what, actor, partition, records)
        os.write(self._file, json.dumps(self.events[-1]).encode() + b"\n")


class Doomed:
    """Such a process, seen from the one that started it."""

    def __init__(self, url: str, folder: Path, colour: Colour, name: str) -> None:
        self.name = name
        self._log, self._errors = folder / f"{name}.log", folder / f"{name}.err"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.system.doomed", url, str(self._log), colour, name],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._process.kill()
        elif self._process.poll() is None:
            self._process.terminate()
        code = self._process.wait(60)
        assert kind is not None or code in {0, -signal.SIGKILL}, self._errors.read_text()

    def wait(self, what: str, more: int) -> None:
        """Wait until so many more of its events of a kind have happened."""
        enough = self._count(what) + more

        def done() -> bool:
            assert self._process.poll() is None, self._errors.read_text()
            return self._count(what) >= enough

        sync_wait_until(done, f"{self.name}: {more} more times {what}", timeout=30)

    def _count(self, what: str) -> int:
        return self._log.read_bytes().count(f'["{what}"'.encode()) if self._log.exists() else 0

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()
        self._process.wait()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Within the block it stands still (SIGSTOP)."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def hand_over(self, history: History) -> None:
        """Add all that it said, when it has ended."""
        under_way: dict[Value, None] = {}
        whole, _, _ = self._log.read_bytes().rpartition(b"\n")
        for line in whole.split(b"\n"):
            what, actor, partition, records, at = json.loads(line)
            event = Event(what, actor, partition, tuple((offset, Value(*value)) for offset, value in records), at)
            history.events.append(event)
            history.counts[what] += len(records)
            for _, value in event.records:
                if what == "sending":
                    under_way[value] = None
                elif what in {"acked", "failed", "unknown"}:
                    del under_way[value]
        for value in under_way:
            history.unknown(value)


def holes(history: History, names: Iterable[str]) -> list[Anomaly]:
    """What a producer that died has in the log is not a beginning of what it sent: a record of a key is left out."""
    there: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for event in history.of("drained"):
        for _, value in event.records:
            there[value.writer, value.key].append(value.index)
    writers = {f"{name}-writer-0" for name in names}
    return [
        Anomaly("hole", f"{writer}, {key}: {indices}")
        for (writer, key), indices in there.items()
        if writer in writers and indices != list(range(len(indices)))
    ]


# --- the faults ------------------------------------------------------------------------------------------------------


def _url(stage: Stage) -> str:
    return f"{stage.front.url}?socket_timeout=0.6"


def producer_killed(stage: Stage) -> None:
    """SIGKILL of producers of both colours, in the middle of their batches; each time a new one comes."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(4):
            with Doomed(stage.front.url, Path(folder), COLOURS[number % 2], f"doomed{number}") as process:
                process.wait("acked", 60)
                process.kill()
                stage.healed()
            process.hand_over(stage.load.history)
            stage.load.wait_acked(20)
    stage.fired["killed"] = 4


def producer_stopped(stage: Stage) -> None:
    """SIGSTOP, for longer than it waits for an answer: what was answered meanwhile it takes for lost."""
    with tempfile.TemporaryDirectory() as folder:
        for colour in COLOURS:
            with Doomed(_url(stage), Path(folder), colour, f"stopped-{colour}") as process:
                for _ in range(3):
                    process.wait("acked", 30)
                    with process.stopped():
                        stage.pass_time(0.9)
                    stage.healed()
                process.wait("acked", 30)
            process.hand_over(stage.load.history)
    stage.fired["stopped"] = 6


@contextmanager
def members(stage: Stage) -> Iterator[Crew]:
    """Processes that join the group of the stage's members; what they say is judged with what those say."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Crew(_url(stage), Path(folder), partitions=PARTITIONS, **MEMBER) as crew,
    ):
        yield crew
        for name in crew.names:
            crew.end(name)
        stage.load.take_in(crew.lines())


def member_killed(stage: Stage) -> None:
    """SIGKILL of members of the group, with records in hand that are not committed: others are given them again."""
    with members(stage) as crew:
        for colour in COLOURS:
            name = f"doomed-{colour}"
            crew.start(name, colour=colour, how="batch")
            crew.wait(lambda name=name: len(crew.said(name, "read")) >= 10, f"{name} reads")
            had = crew.has(name)
            crew.kill(name)
            stage.healed()
            stage.load.wait_handled(had)
    stage.fired["killed"] = len(COLOURS)


def member_stopped(stage: Stage) -> None:
    """SIGSTOP of members for longer than a session: their partitions are others' when they go on."""
    with members(stage) as crew:
        for colour in COLOURS:
            name = f"stopped-{colour}"
            crew.start(name, colour=colour, how="batch")
            crew.wait(lambda name=name: len(crew.said(name, "read")) >= 10, f"{name} reads")
            had = crew.has(name)
            crew.stop(name)
            stage.load.wait_handled(had)
            since = now_ns()
            crew.go_on(name)
            stage.healed()
            crew.wait(lambda name=name, since=since: crew.said(name, "read", since=since), f"{name} is a member again")
            crew.end(name)  # there are as many partitions as members
    stage.fired["stopped"] = len(COLOURS)


# --- the process -----------------------------------------------------------------------------------------------------


def main(url: str, path: str, colour: str, name: str) -> None:
    """Write until SIGTERM."""
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    with Load(cast("Colour", colour), url, readers=0, name=name, history=WrittenHistory(path)) as load:
        while not told.wait(0.05):
            load.check()


if __name__ == "__main__":
    main(*sys.argv[1:])
