"""What has to be confirmed behind an append, and whether it was: replicas (``WAIT``) and disks (``WAITAOF``).

With ``acks="all"`` a batch is done when the primary has it and ``min_insync_replicas`` - 1 replicas do; with ``flush``
their disks, too. A server answers an append before any replica has it. So one ``WAIT`` goes behind a round's appends,
on the same connection (it knows only what was written there), for the most that a batch of the round needs; its answer
is held against what each batch needs. A batch that lacks something is *written, not yet safe*: it is frozen and goes
again. The server finds it, touches it, and so the next ``WAIT`` covers it, whatever the connection.

What is needed is the partition's to say, and each answer to an append says it: settings that are changed under an open
producer hold from its next batch on.

No clock, no lock, no socket.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from streamlayer._core.calls import Appended, Call
from streamlayer._core.refusals import where
from streamlayer._core.server_calls import Holders, wait_disks, wait_replicas
from streamlayer.errors import NotEnoughReplicasAfterAppendError, StreamlayerError

NOBODY = Holders()
FLUSH_REPLICAS = 2


def needs(min_insync_replicas: int, flush: int) -> Holders:
    """Who must have a batch by a topic's settings.

    :param flush: 0 ``server``, 1 ``primary``, 2 ``replicas``.
    """
    others = min_insync_replicas - 1
    return Holders(others, 1 if flush else 0, others if flush == FLUSH_REPLICAS else 0)


def waits(needed: Iterable[Holders], timeout_ms: int) -> list[Call[Holders]]:
    """The calls to send behind a round's appends.

    :param needed: of each batch.
    :param timeout_ms: how long each may take.
    """
    most = _most(needed)
    calls: list[Call[Holders]] = []
    if most.replicas:
        calls.append(wait_replicas(most.replicas, timeout_ms))
    if most.disk:
        calls.append(wait_disks(most.disk, most.replica_disks, timeout_ms))
    return calls


def _most(several: Iterable[Holders]) -> Holders:
    return Holders(*map(max, zip(NOBODY, *several, strict=True)))


class Unconfirmed(NamedTuple):
    """An append that was executed and is not yet safe.

    :ivar appended: what the script answered.
    :ivar error: what is missing.
    :ivar hopeless: it will not be confirmed either if it is asked for again.
    """

    appended: Appended
    error: StreamlayerError
    hopeless: bool


def confirmed(places: Sequence[tuple[str, int]], outcomes: Sequence[Any], answers: Sequence[Any]) -> list[Any]:
    """The outcomes of a round's appends; an ``Unconfirmed`` where a batch needs more than was reached.

    :param places: topic and partition of each.
    :param answers: what came of the calls that ``waits`` made.
    """
    reached = _most(answer for answer in answers if isinstance(answer, Holders))
    failures = [_error_of(answer) for answer in answers if not isinstance(answer, Holders)]
    trouble = failures[0] if failures else None
    return [_held_against(reached, trouble, *each) for each in zip(places, outcomes, strict=True)]


def _error_of(answer: Any) -> StreamlayerError:
    """Why a ``WAIT`` was not answered by numbers: an error, or no answer."""
    found: StreamlayerError = answer if isinstance(answer, StreamlayerError) else answer.error
    return found


def _held_against(reached: Holders, trouble: StreamlayerError | None, place: tuple[str, int], outcome: Any) -> Any:
    if not isinstance(outcome, Appended):
        return outcome
    needed = needs(outcome.min_insync_replicas, outcome.flush)
    if all(have >= want for have, want in zip(reached, needed, strict=True)):
        return outcome
    why = f" ({trouble})" if trouble is not None else ""
    error = NotEnoughReplicasAfterAppendError(f"{where(*place)}: {_missing(reached, needed)}{why}")
    error.__cause__ = trouble
    return Unconfirmed(outcome, error, trouble is not None and not trouble.retriable)


def _missing(reached: Holders, needed: Holders) -> str:
    missing: list[str] = []
    if reached.replicas < needed.replicas:
        missing.append(f"{reached.replicas} of {needed.replicas} replicas")
    if reached.disk < needed.disk:
        missing.append("0 of 1 primary's disk")
    if reached.replica_disks < needed.replica_disks:
        missing.append(f"{reached.replica_disks} of {needed.replica_disks} replicas' disks")
    return f"a batch is in the log, but not as safe as min_insync_replicas and flush want: {', '.join(missing)} have it"
