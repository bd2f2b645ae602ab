"""``Retry``: how often a handler is tried, and how long it waits in between."""

from __future__ import annotations

from dataclasses import dataclass

from streamlayer._core.retry import backoff_ms
from streamlayer.errors import ConfigurationError


@dataclass(frozen=True)
class Retry:
    """How often a handler is called for a record at most, and what lies between the calls.

    :ivar attempts: calls in all, the first one too; 1: no retry.
    :ivar backoff_ms: after the first failure; doubled with each further one, and shortened by chance to spread retries.
    :ivar max_backoff_ms: the longest wait.
    """

    attempts: int = 5
    backoff_ms: int = 200
    max_backoff_ms: int = 60_000

    def __post_init__(self) -> None:
        for name in ("attempts", "backoff_ms", "max_backoff_ms"):
            number = getattr(self, name)
            least = 1 if name == "attempts" else 0
            if not isinstance(number, int) or isinstance(number, bool) or number < least:
                msg = f"Retry({name}={number!r}): it is a whole number, {least} or more"
                raise ConfigurationError(msg)
        if self.max_backoff_ms < self.backoff_ms:
            msg = f"Retry: max_backoff_ms={self.max_backoff_ms} is less than backoff_ms={self.backoff_ms}"
            raise ConfigurationError(msg)

    def wait_ms(self, failures: int, jitter: float) -> float:
        """How long to wait after so many failures.

        :param failures: 1 after the first.
        :param jitter: a random number in [0, 1).
        :returns: ms, between half of the step and the step.
        """
        return backoff_ms(failures - 1, jitter, self.backoff_ms, self.max_backoff_ms)
