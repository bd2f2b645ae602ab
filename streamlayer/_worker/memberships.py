"""Who is in the groups of a worker's children, as their supervisor sees and mends it.

The rule: a membership whose process is gone is taken out at once, over a connection that is there already; if the
server is away just then, as soon as it is back. The session is the last resort, not the plan.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Collection, Mapping

from streamlayer._async.admin import Admin
from streamlayer._core.retry import backoff_ms
from streamlayer._core.runs import format_runs
from streamlayer._waiting.aio import Latch
from streamlayer._worker.life import Life
from streamlayer.errors import GroupIdNotFoundError, StreamlayerError

LOOK_MS = 1000
"""How often the connection is used."""
PATIENCE_S = 60
"""How long a removal is tried. By then a member's session is over, unless somebody made sessions longer."""

logger = logging.getLogger("streamlayer")


class Memberships:
    """An administrator of groups, who does not give up soon.

    :param groups: the groups in question.
    :param over: set when nothing is worth waiting for any more.
    """

    def __init__(self, admin: Admin, groups: Collection[str], over: Latch) -> None:
        self._admin = admin
        self._groups = sorted(groups)
        self._over = over

    async def connect(self) -> None:
        """Be ready, now and from now on, until ``over``: a connection that was lost is not found so by a removal."""
        in_trouble = False
        while not self._over.is_set():
            try:
                await self._admin.list_groups()
            except StreamlayerError as error:
                if not in_trouble:
                    logger.warning("the supervisor cannot reach the server, and goes on trying: %s", error)
                in_trouble = True
            else:
                if in_trouble:
                    logger.warning("the supervisor has reached the server")
                in_trouble = False
            await self._over.wait(LOOK_MS)

    async def close(self) -> None:
        """No more."""
        await self._admin.close()

    async def remove(self, who: str, life: Life, died: float) -> None:
        """Take a dead process's memberships out of their groups: those it has told of, and those it had no time to.

        :param who: whose, for the log.
        :param died: when it was found dead, by the monotonic clock.
        """
        known: dict[str, list[str]] = {}
        for group_id, member_id in life.report.members:
            known.setdefault(group_id, []).append(member_id)
        await asyncio.gather(
            *(self._clear(who, group, known.get(group, []), life.token, died) for group in self._groups)
        )

    async def _clear(self, who: str, group_id: str, known: list[str], token: str, died: float) -> None:
        if known:
            await self._remove(who, group_id, known, token, died)
        await self._remove(who, group_id, [], token, died)

    async def _remove(self, who: str, group_id: str, known: list[str], token: str, died: float) -> None:
        attempt = 0
        while True:
            try:
                ids = known or await self._found(group_id, token)
                removed = await self._admin.remove_group_members(group_id, ids) if ids else 0
            except GroupIdNotFoundError:
                return
            except StreamlayerError as error:
                trouble = error
            else:
                if removed:
                    took_ms = (time.monotonic() - died) * 1000
                    logger.info("%s was taken out of group %s after %.0f ms", who, group_id, took_ms)
                return
            given_up = not trouble.retriable or time.monotonic() - died > PATIENCE_S
            if attempt == 0 or given_up:
                then = "its session has to end by itself" if given_up else "trying again"
                logger.warning("%s cannot be taken out of group %s, %s: %s", who, group_id, then, trouble)
            if given_up or await self._over.wait(backoff_ms(attempt, random.random())):
                return
            attempt += 1

    async def _found(self, group_id: str, token: str) -> list[str]:
        described = await self._admin.describe_groups([group_id])
        return [each.member_id for each in described[group_id].members if each.member_id.startswith(token)]

    async def owners(self, names: Mapping[str, str]) -> dict[str, str]:
        """Who has which partitions, in words, by group.

        :param names: what processes are called, by what the ids of their members begin with.
        """
        told: dict[str, str] = {}
        for group_id in self._groups:
            try:
                described = await self._admin.describe_groups([group_id])
            except GroupIdNotFoundError:
                continue
            shares = sorted(
                (
                    next((name for token, name in names.items() if member.member_id.startswith(token)), None)
                    or f"{member.client_id} on {member.host}",
                    format_runs(member.assignment) or "none",
                )
                for member in described[group_id].members
            )
            told[group_id] = ", ".join(f"{who} has {partitions}" for who, partitions in shares) or "nobody is in it"
        return told
