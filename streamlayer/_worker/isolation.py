"""``Isolation``: of records that may end their worker, an app handles one at a time.

Which ones these are, and how often it came to that, is the progress's to say (``_core/progress``): whatever ran when a
worker ended is suspected. Only the record that is called alone can be blamed for the next end.
"""

from __future__ import annotations

import time
from typing import Final

from streamlayer._core.lanes import Job
from streamlayer.errors import StreamlayerError

LEAST_DEATHS: Final = 3
"""Before that a record may have stood beside others when its worker ended: once, or twice where several are deadly."""
TURN_MS: Final = 20
"""How often one that waits looks whether it is its turn."""
_LONGEST_S: Final = 60.0  # one that hangs does not hold up the others for ever


class WorkerLostError(StreamlayerError):
    """Each time a record was handled its worker has ended, or held its event loop until the session was over."""


class Isolation:
    """One app's."""

    def __init__(self) -> None:
        self._job: Job | None = None
        self._since = 0.0

    def enter(self, job: Job) -> bool:
        """Whether a job may be called now; then ``leave`` it."""
        now = time.monotonic()
        if self._job is not None and now - self._since < _LONGEST_S:
            return False
        self._job, self._since = job, now
        return True

    def leave(self, job: Job) -> None:
        """Its call is over. Safe for jobs that did not enter."""
        if self._job is job:
            self._job = None
