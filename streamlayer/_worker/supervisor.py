"""The supervisor of ``streamlayer worker``: starts the processes, restarts who died, and ends them all in good order.

The rule: a dead child is taken out of its groups before anything else is done about it, so that its partitions go on
with others at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from streamlayer._waiting.aio import Latch, Signal
from streamlayer._worker.health_port import HOST, HealthPort
from streamlayer._worker.life import Life, how_it_ended
from streamlayer._worker.memberships import Memberships
from streamlayer._worker.reports import OVERTIME_MS
from streamlayer._worker.restarts import Restarts
from streamlayer._worker.target import Served
from streamlayer.errors import StreamlayerError

LOOK_MS = 1000
"""How often children are looked at although no signal said that one ended."""
REMOVAL_MS = 1000
"""How long a restart, and the end, wait for a dead child's memberships to be gone."""
STILL_MS = 500
"""Memberships that have not changed for so long are told."""

logger = logging.getLogger("streamlayer")


class Worker:
    """One of the supervisor's places for a process: who is there now, and what became of those before.

    :ivar life: the process; ``None`` while there is none.
    """

    def __init__(self, number: int) -> None:
        self.name = f"worker {number}"
        self.number = number
        self.life: Life | None = None
        self._last = "has not started"
        self._restarts = Restarts()

    def ended(self, how: str, lived_ms: float) -> float:
        """There is no process now: how long to wait before the next, in ms."""
        self.life = None
        self._last = how
        return self._restarts.died(lived_ms, random.random())

    def trouble(self) -> str:
        """What is wrong with it, in words; empty if nothing is."""
        what = self._last if self.life is None else self.life.trouble()
        return f"{self.name} {what}" if what else ""

    def told(self) -> dict[str, object]:
        """What `/health` says of it."""
        if self.life is None:
            return {"worker": self.number, "pid": None, "state": "gone", "reason": self._last, "groups": []}
        report = self.life.report
        groups = sorted({group_id for group_id, _ in report.members})
        return {
            "worker": self.number,
            "pid": self.life.pid,
            "state": report.state,
            "reason": self.life.trouble(),
            "groups": groups,
        }


class Supervisor:
    """A number of processes that run the same app.

    :param target: ``module:app``, for the children.
    :param app: the same app, for its server.
    :param processes: how many.
    :param grace_ms: how long what is in flight may take when they are to end.
    :param port: where to answer ``/health`` and ``/ready``; ``None``: nowhere, 0: any free one.
    :param level: the least that children log.
    """

    def __init__(
        self, target: str, app: Served, *, processes: int, grace_ms: int, port: int | None = None, level: str = "INFO"
    ) -> None:
        self._target, self._app, self._grace_ms, self._port, self._level = target, app, grace_ms, port, level
        self.workers = [Worker(number) for number in range(1, processes + 1)]
        self._stopping, self._over = Latch(), Latch()
        self._changed = Signal()
        self._signals: list[int] = []
        self._untidy = False
        self._removals: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Until SIGTERM or SIGINT; the exit status: 0, 1 if a child did not end in order, 128 + the second signal.

        :raises OSError: the port is taken.
        """
        async with self._signals_taken(), self._listening():
            groups = Memberships(self._app.admin(), self._app.groups(), self._over)
            beside = [
                asyncio.create_task(work)
                for work in (groups.connect(), self._look_now_and_then(), self._tell_owners(groups))
            ]
            try:
                async with asyncio.TaskGroup() as keeping:
                    for worker in self.workers:
                        keeping.create_task(self._keep(worker, groups))
            finally:
                self._kill()
                await self._finish(beside)
                await groups.close()
        if len(self._signals) > 1:
            logger.warning("stopped at once")
            return 128 + self._signals[1]
        logger.info("stopped")
        return int(self._untidy)

    async def _finish(self, beside: list[asyncio.Task[None]]) -> None:
        """What the last children left is removed, if that is possible; then nothing runs any more."""
        if self._removals:
            await asyncio.wait(self._removals, timeout=REMOVAL_MS / 1000)
        self._over.set()
        left = [*beside, *self._removals]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    # --- one worker --------------------------------------------------------------------------------------------------

    async def _keep(self, worker: Worker, groups: Memberships) -> None:
        """Have a process there, until the end."""
        while not self._stopping.is_set():
            try:
                life = Life(self._target, worker.number, self._grace_ms, self._level)
            except OSError as error:  # no memory, too many processes: it may pass
                wait_ms = worker.ended(f"cannot be started: {error}", 0)
                logger.error("%s cannot be started: %s", worker.name, error)  # noqa: TRY400 - the words are enough
            else:
                wait_ms = await self._live(worker, life, groups)
            if self._stopping.is_set():
                return
            if wait_ms:
                logger.info("%s starts again in %.0f ms", worker.name, wait_ms)
            await self._stopping.wait(wait_ms)

    async def _live(self, worker: Worker, life: Life, groups: Memberships) -> float:
        """See a process to its end, and clear up behind it; in how many ms the next is to start."""
        loop = asyncio.get_running_loop()
        worker.life = life
        logger.info("%s started: pid %d", worker.name, life.pid)
        loop.add_reader(life.fileno(), self._listen, life)
        try:
            await life.ended.wait()
        finally:
            loop.remove_reader(life.fileno())
            life.close()
        died = time.monotonic()
        removal = asyncio.create_task(groups.remove(worker.name, life, died))
        self._removals.add(removal)
        removal.add_done_callback(self._removals.discard)
        how, lived_ms = how_it_ended(life.status), life.lived_ms()
        stopping = self._stopping.is_set()
        in_order = life.status in {0, -signal.SIGTERM}  # the latter: it was told before it had begun
        self._untidy |= stopping and not in_order
        logger.log(
            logging.INFO if stopping and in_order else logging.WARNING,
            "%s (pid %d) %s after %.1f s", worker.name, life.pid, how, lived_ms / 1000,
        )  # fmt: skip
        await asyncio.wait([removal], timeout=REMOVAL_MS / 1000)
        self._changed.set()
        return worker.ended(how, lived_ms)

    def _listen(self, life: Life) -> None:
        before = life.report.members
        if not life.listen():
            asyncio.get_running_loop().remove_reader(life.fileno())
        if life.report.members != before:
            self._changed.set()

    # --- all of them -------------------------------------------------------------------------------------------------

    def _lives(self) -> list[Life]:
        return [worker.life for worker in self.workers if worker.life is not None]

    def _look(self) -> None:
        for life in self._lives():
            life.look()

    async def _look_now_and_then(self) -> None:
        while not await self._over.wait(LOOK_MS):
            self._look()

    async def _tell_owners(self, groups: Memberships) -> None:
        """Log who has which partitions, whenever that has changed and settled."""
        last: dict[str, str] = {}
        while await self._changed.wait(None):
            while await self._changed.wait(STILL_MS):
                pass
            names = {worker.life.token: worker.name for worker in self.workers if worker.life is not None}
            if not names:
                continue
            try:
                told = await groups.owners(names)
            except StreamlayerError:
                continue  # whoever is in trouble says so: this is news, and no more
            for group_id, owners in told.items():
                if last.get(group_id) != owners:
                    logger.info("group %s: %s", group_id, owners)
            last = told

    @asynccontextmanager
    async def _listening(self) -> AsyncGenerator[None]:
        if self._port is None:
            yield
            return
        async with HealthPort(self._port, {"/health": self.health, "/ready": self.ready}) as port:
            logger.info("http://%s:%d/health and /ready say how the workers are", HOST, port.port)
            yield

    def health(self) -> tuple[bool, object]:
        """Whether every child is alive and well, and what is wrong if not."""
        stopping = self._stopping.is_set()
        troubles = [worker.trouble() for worker in self.workers if not (stopping and worker.life is None)]
        reasons = [trouble for trouble in troubles if trouble]
        return not reasons, self._told(reasons)

    def ready(self) -> tuple[bool, object]:
        """Whether every child has joined its groups."""
        reasons = [
            f"{worker.name} has not joined its groups yet"
            for worker in self.workers
            if worker.life is None or not worker.life.report.joined
        ]
        if self._stopping.is_set():
            reasons = ["it is stopping"]
        return not reasons, self._told(reasons)

    def _told(self, reasons: list[str]) -> object:
        return {"ok": not reasons, "reasons": reasons, "workers": [worker.told() for worker in self.workers]}

    # --- the end -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _signals_taken(self) -> AsyncGenerator[None]:
        loop = asyncio.get_running_loop()
        handlers: dict[int, Callable[[], None]] = {
            signal.SIGTERM: lambda: self._on_signal(signal.SIGTERM),
            signal.SIGINT: lambda: self._on_signal(signal.SIGINT),
            signal.SIGCHLD: self._look,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        self._signals.append(number)
        if len(self._signals) > 1:
            logger.warning("%s again: the workers are killed", number.name)
            self._kill()
            return
        logger.info("%s: the workers finish what is in flight, for %d ms at most", number.name, self._grace_ms)
        self._stopping.set()
        for life in self._lives():
            life.signal(signal.SIGTERM)
        asyncio.get_running_loop().call_later((self._grace_ms + OVERTIME_MS) / 1000, self._kill_overdue)

    def _kill_overdue(self) -> None:
        for worker in self.workers:
            if worker.life is not None and not worker.life.ended.is_set():
                logger.error("%s (pid %d) did not end in time: it is killed", worker.name, worker.life.pid)
                worker.life.signal(signal.SIGKILL)

    def _kill(self) -> None:
        for life in self._lives():
            life.signal(signal.SIGKILL)
