"""One life of a worker: a child process, from its start to its end, as its supervisor sees it.

The rule: what the child has said last is known when its end is, for who it was in its groups has to be known then.
"""

from __future__ import annotations

import secrets
import signal
import socket
import subprocess
import sys
import time

import msgspec

from streamlayer._waiting.aio import Latch
from streamlayer._worker.reports import ON_ITS_WAY, Report, Spec, newest

SILENT_MS = 5000
"""A child that has said nothing for so long is stuck."""
START_MS = 30_000
"""For so long a child may be on its way into its groups."""


class Life:
    """A child process. It starts with the object, and ``ended`` is set when ``look`` finds that it is over.

    :ivar token: what the ids of its members begin with.
    :ivar report: what it has said last.
    """

    def __init__(self, target: str, number: int, grace_ms: int, level: str) -> None:
        self.token = secrets.token_hex(8)
        self.report = Report()
        self.ended = Latch()
        self._rest = b""
        self._pipe, theirs = socket.socketpair()
        self._pipe.setblocking(False)
        spec = Spec(target, number, theirs.fileno(), self.token, grace_ms, level)
        command = [sys.executable, "-m", "streamlayer._worker.child", msgspec.json.encode(spec).decode()]
        # Inherited: an early Ctrl-C, which all processes of a terminal get, gives no traceback there.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        except BaseException:
            self._pipe.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            theirs.close()
        self.pid = self._process.pid
        self.began = self.heard = time.monotonic()

    def fileno(self) -> int:
        """The pipe's, to wait for what it says."""
        return self._pipe.fileno()

    def listen(self) -> bool:
        """Take what it has said since; whether it may say more."""
        while True:
            try:
                said = self._pipe.recv(65_536)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not said:
                return False
            report, self._rest = newest(self._rest + said)
            if report is not None:
                self.report, self.heard = report, time.monotonic()

    def look(self) -> None:
        """See whether it is over."""
        if not self.ended.is_set() and self._process.poll() is not None:
            self.listen()
            self.ended.set()

    def signal(self, number: int) -> None:
        """Send it a signal, if it still lives."""
        self.look()
        if not self.ended.is_set():
            self._process.send_signal(number)

    def close(self) -> None:
        """Let go of the pipe; its end is the child's, if it still lives."""
        self._pipe.close()

    @property
    def status(self) -> int:
        """How it ended: its exit status, or the signal that ended it as a negative number."""
        return self._process.returncode

    def lived_ms(self) -> float:
        """How long ago it began."""
        return (time.monotonic() - self.began) * 1000

    def trouble(self) -> str:
        """What is wrong with it, in words; empty if nothing is."""
        report = self.report
        silent_ms = (time.monotonic() - self.heard) * 1000
        unheard = self.heard == self.began  # it still imports
        if report.state in ON_ITS_WAY and self.lived_ms() < START_MS and (unheard or silent_ms <= SILENT_MS):
            return ""
        if silent_ms > SILENT_MS:
            return f"has said nothing for {silent_ms / 1000:.0f} s: it is stopped, or a handler holds its event loop"
        return "" if report.ok else f"is {report.state}: {report.reason}".rstrip(": ")


def how_it_ended(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
