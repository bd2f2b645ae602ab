"""``Watch``: says when a handler blocks the event loop, and where.

While the loop stands still nothing else goes on: no other handler, no heartbeat. After the session timeout the
partitions go to others, and the record that was in hand is handled there again.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from threading import Event, Thread, get_ident
from time import monotonic
from typing import Final

logger = logging.getLogger("streamlayer")

_BEAT_S: Final = 0.25
BLOCKED_S: Final = 1.0


class Watch:
    """A thread that expects the event loop to answer.

    :param loop: the loop of the calling thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._thread_id = loop, get_ident()
        self._heard_at = monotonic()
        self._over = Event()
        self._thread = Thread(target=self._run, name="streamlayer-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._over.set()

    def _beat(self) -> None:
        self._heard_at = monotonic()

    def _run(self) -> None:
        told = False
        while not self._over.wait(_BEAT_S):
            silent = monotonic() - self._heard_at
            if silent > BLOCKED_S and not told:
                told = True
                logger.warning(
                    "the event loop has stood still for %.1f s, and with it all handlers and heartbeats, in:\n%s"
                    "A handler that computes or blocks is better a plain `def`: it runs in a thread",
                    silent,
                    self._stack(),
                )
            elif silent <= BLOCKED_S and told:
                told = False
                logger.warning("the event loop goes on")
            try:
                self._loop.call_soon_threadsafe(self._beat)
            except RuntimeError:
                return  # it was closed

    def _stack(self) -> str:
        frames = sys._current_frames()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the documented way
        frame = frames.get(self._thread_id)
        return "" if frame is None else "".join(traceback.format_stack(frame)[-6:])
