"""``streamlayer worker`` under test: the command in a folder with a module of its user's, watched and killed.

    with WorkerCrew(server.url, tmp_path, SHOP, "--processes", "4") as crew:
        crew.wait_until_ready()
        crew.kill(1)

A handler of the module says what it has done by `note(record)`, with when it began if that matters: one line in a file
that outlives it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests.waiting import sync_wait_until

ROOT = Path(__file__).parents[2]
NOTES = "notes.log"
PRELUDE = f"""
import asyncio, os, signal, threading, time
from streamlayer import App, ConsumerRecord, Retry

_notes = os.open("{NOTES}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def note(record, begun=None):
    now = time.monotonic()
    key = (record.key or b"-").decode()
    words = begun or now, now, os.getpid(), record.partition, record.offset, key, record.value.decode()
    os.write(_notes, " ".join(map(str, words)).encode() + b"\\n")

app = App()
"""


class Note(NamedTuple):
    """A record was handled: from when to when (monotonic, a clock that all processes share), by whom, and which."""

    begun: float
    at: float
    pid: int
    partition: int
    offset: int
    key: str
    value: str


class WorkerCrew:
    """The command, beside the test."""

    def __init__(self, url: str, folder: Path, module: str, *args: str, name: str = "shop") -> None:
        self._folder, self._args, self._name = folder, args, name
        (folder / f"{name}.py").write_text(PRELUDE + module)
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "STREAMLAYER_URL": url, "NO_COLOR": "1"}
        self._log = folder / "worker.log"
        self._notes: list[Note] = []
        self.killed: dict[int, float] = {}
        self._read_to = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        """Run it; its log goes on where the last one's ended."""
        with self._log.open("ab") as log:
            self._began = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "streamlayer._cli", "worker", f"{self._name}:app", "--port", "0", *self._args],
                cwd=self._folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            print(self.log())  # noqa: T201 - for whoever reads why the test failed
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    # --- what it says ------------------------------------------------------------------------------------------------

    def log(self) -> str:
        """All it has logged since its start."""
        return self._log.read_bytes()[self._began :].decode()

    def said(self, pattern: str, times: int = 1) -> list[str]:
        """Wait until its log has that (a regular expression) so often; all that was found."""
        return sync_wait_until(
            lambda: found if len(found := re.findall(pattern, self.log())) >= times else None,
            f"the log has {pattern!r}",
            timeout=30,
        )

    def ask(self, path: str) -> tuple[int, Any]:
        """The status and the JSON that its port answers."""
        (port,) = self.said(r"http://127\.0\.0\.1:(\d+)/health")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def wait_until_ready(self) -> None:
        """Until each process has joined, and the group has settled."""
        sync_wait_until(lambda: self.ask("/ready")[0] == 200, "all have joined", timeout=30)

    def pid(self, number: int) -> int | None:
        """Of worker 1, 2, …"""
        pid: int | None = self.ask("/health")[1]["workers"][number - 1]["pid"]
        return pid

    def notes(self) -> list[Note]:
        """What was handled so far."""
        with contextlib.suppress(FileNotFoundError), (self._folder / NOTES).open("rb") as file:
            file.seek(self._read_to)
            whole, _, _ = file.read().rpartition(b"\n")
            if whole:
                self._read_to += len(whole) + 1
                for line in whole.decode().split("\n"):
                    begun, at, pid, partition, offset, key, value = line.split(" ")
                    self._notes.append(Note(float(begun), float(at), int(pid), int(partition), int(offset), key, value))
        return self._notes

    # --- what is done to it ------------------------------------------------------------------------------------------

    def kill(self, number: int) -> int:
        """End worker 1, 2, … by SIGKILL; its pid. ``killed`` has when that was, by the clock of notes."""
        pid = sync_wait_until(lambda: self.pid(number), f"there is a worker {number}")
        self.killed[pid] = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        return pid

    def stop_one(self, number: int) -> None:
        """Have worker 1, 2, … end in good order, by itself; wait until another has its place in the groups."""
        pid = sync_wait_until(lambda: self.pid(number), f"there is a worker {number}")
        os.kill(pid, signal.SIGTERM)
        sync_wait_until(lambda: self.pid(number) not in {pid, None}, f"there is another worker {number}")
        self.wait_until_ready()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Have it end in good order; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(60)


def is_alive(pid: int) -> bool:
    """Whether that process runs: one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        if sys.platform == "linux":
            return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False
