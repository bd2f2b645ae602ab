"""What a process of `streamlayer worker` runs: one app, until its supervisor says so (SIGTERM), or is gone.

The rule: nobody outlives the supervisor. The pipe's end is its end, which a thread of its own waits for, since a
handler may hold the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress

import msgspec

from streamlayer._async import session
from streamlayer._waiting.aio import Latch
from streamlayer._worker.reports import HEARD_MS, ON_ITS_WAY, OVERTIME_MS, REPORT_MS, Report, Spec, as_line
from streamlayer._worker.target import AppNotFoundError, Served, find_app
from streamlayer.errors import StreamlayerError

LOG_FORMAT = "%(asctime)s %(levelname)-7s [%(process)d] %(message)s"

logger = logging.getLogger("streamlayer")


def main() -> int:
    """Be the child that the argument says (``Spec``, JSON); its exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches it too; its supervisor decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    spec = msgspec.json.decode(sys.argv[1], type=Spec)
    pipe = socket.socket(fileno=spec.pipe)
    pipe.set_inheritable(False)
    session.ID_PREFIX = spec.token
    try:
        app = find_app(spec.target)
    except AppNotFoundError as error:
        set_up_logging(spec.level)
        logger.error("worker %d: %s", spec.number, error, exc_info=error.__cause__)  # noqa: TRY400 - of the module only
        return 1
    set_up_logging(spec.level)
    try:
        asyncio.run(_serve(app, spec, pipe))
    except StreamlayerError as error:
        logger.error("worker %d cannot go on: %s", spec.number, error)  # noqa: TRY400 - the words are enough
        return 1
    except Exception:  # it is told here, and its supervisor starts another
        logger.exception("worker %d died", spec.number)
        return 1
    return 0


def set_up_logging(level: str) -> None:
    """Log to stderr, unless the user's module has set up something else."""
    logging.basicConfig(format=LOG_FORMAT, level=level)


async def _serve(app: Served, spec: Spec, pipe: socket.socket) -> None:
    stop, over = asyncio.Event(), Latch()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    threading.Thread(
        target=end_with_supervisor, args=(pipe, loop, stop, spec.grace_ms), name="supervisor", daemon=True
    ).start()
    reporter = Reporter(app, pipe)
    reporting = asyncio.create_task(reporter.run(over))
    try:
        await app.serve(stop, grace_ms=spec.grace_ms)
    finally:
        over.set()
        await reporting
        reporter.look()
        threading.Thread(target=_end_late, name="end", daemon=True).start()


def end_with_supervisor(
    pipe: socket.socket, loop: asyncio.AbstractEventLoop, stop: asyncio.Event, grace_ms: int
) -> None:
    """Wait for the end of the pipe: the supervisor's. End in good order then, or without it."""
    with suppress(OSError):  # reset, if it was killed before it had read the last report
        if pipe.recv(1):
            return
    logger.warning("the supervisor is gone: ending")
    try:
        loop.call_soon_threadsafe(stop.set)
    except RuntimeError:
        return  # it has ended already
    threading.Event().wait(grace_ms / 1000)
    _end_late()


def _end_late() -> None:
    """End the process if something holds it, as a thread that is no daemon does. Its place is wanted."""
    threading.Event().wait(OVERTIME_MS / 1000)
    os._exit(1)


class Reporter:
    """Says how an app is doing, when that is news and once a second."""

    def __init__(self, app: Served, pipe: socket.socket) -> None:
        self._app, self._pipe = app, pipe
        self._groups = set(app.groups())
        self._said: Report | None = None
        self._said_at = 0.0
        self._joined = False
        self._unsent = b""

    async def run(self, over: Latch) -> None:
        """Until that is set."""
        while not await over.wait(REPORT_MS):
            self.look()

    def look(self) -> None:
        """Say what there is to say. A supervisor that does not read is waited for by nobody."""
        health = self._app.health()
        members = tuple(self._app.members())
        joined = health.ok and health.state not in ON_ITS_WAY and {group for group, _ in members} >= self._groups
        self._joined = self._joined or joined
        report = Report(members, health.ok, health.state, health.reason, self._joined)
        now = time.monotonic()
        if not self._unsent and (report != self._said or now >= self._said_at + HEARD_MS / 1000):
            self._said, self._said_at = report, now
            self._unsent = as_line(report)
        try:
            while self._unsent:
                self._unsent = self._unsent[self._pipe.send(self._unsent, socket.MSG_DONTWAIT) :]
        except OSError:
            return  # full, or the supervisor is gone: `end_with_supervisor` knows that


if __name__ == "__main__":
    sys.exit(main())
