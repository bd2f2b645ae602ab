"""``Isolation``: an app handles records that may end their worker one at a time, the last time with nothing beside.

Which ones these are, and how often it came to that, is the progress's to say (``_core/progress``): whatever ran when a
worker ended is suspected. Where one more end makes it a dead letter, nothing else may run that could be the cause.
"""

from __future__ import annotations

from typing import Final, Protocol

from streamlayer._core.lanes import Job
from streamlayer.errors import StreamlayerError

LEAST_DEATHS: Final = 3
"""Before the last a record may have stood beside others when its worker ended."""
LONGEST_S: Final = 60.0
"""One that hangs does not hold up the others for ever: it is not blamed for what comes later."""
QUIET_S: Final = 10.0
"""How long one that is to be called with nothing beside it waits for the calls that run."""
LOOK_MS: Final = 1000
"""How often one that waits looks by itself whether it is its turn."""


class WorkerLostError(StreamlayerError):
    """Each time a record was handled its worker has ended, or held its event loop until the session was over."""


class Calling(Protocol):
    """A pool, as this sees it."""

    @property
    def calling(self) -> int:
        """How many calls run."""
        ...

    def turn(self, job: Job) -> bool:
        """A job that waits may go on now; whether it still waits."""
        ...

    def fill(self) -> None:
        """Call what there is room for."""


class Isolation:
    """One app's.

    :ivar closed: no call is begun.
    :ivar pools: the app's.
    """

    def __init__(self) -> None:
        self.closed = False
        self.pools: set[Calling] = set()
        self._job: Job | None = None
        self._waiting: dict[Job, Calling] = {}

    @property
    def calling(self) -> int:
        """How many calls run in the app."""
        return sum(pool.calling for pool in self.pools)

    def enter(self, job: Job, pool: Calling) -> bool:
        """Whether a job may be called now; then ``leave`` it. If not, its pool is told when it is its turn."""
        if self._job is None:
            self._job = job
        else:
            self._waiting.setdefault(job, pool)
        return self._job is job

    def leave(self, job: Job) -> None:
        """Its call is over. Safe for jobs that did not enter."""
        if self._job is not job:
            return
        self._job = None
        if self.closed:
            self.closed = False
            for pool in self.pools:
                pool.fill()
        while self._waiting:
            job = next(iter(self._waiting))
            if self._waiting.pop(job).turn(job):
                break
