"""A consumer group of many processes that join, leave, stand still, die and lose connections, under load, judged.

``HYPOTHESIS_PROFILE=thorough`` for minutes of it. The seed of a run is in its log; processes make no history twice.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from streamlayer.embedded import Server
from tests import servers
from tests.profiles import THOROUGH
from tests.system.group_crew import HOWS, SESSION, Crew
from tests.system.group_judge import counts_of, judge_group
from tests.waiting import sync_wait_until

logger = logging.getLogger("tests.groups")
pytestmark = [pytest.mark.system, pytest.mark.timeout(600 if THOROUGH else 120)]

ROUNDS = 20 if THOROUGH else 2
SLOTS = 4
SESSION_S = SESSION["session_timeout_ms"] / 1000
# What a round does, in an order of its own.
DECK = ("kill", "kill", "stop", "stop in mid work", "stop in mid work", "rejoin", "end", "cut")


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of its own."""
    with Server(binary=servers.binary(request.param), port=0) as running:
        yield running


class Chaos:
    """Does things to a crew: what is to happen when is on an agenda."""

    def __init__(self, crew: Crew, url: str, dice: random.Random) -> None:
        self._crew, self._url, self._dice = crew, url, dice
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._still: set[str] = set()
        self._instances: dict[str, str | None] = {}

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        """Put something on the agenda."""
        heapq.heappush(self._agenda, (time.monotonic() + seconds, next(self._count), what))

    def run(self) -> None:
        """Do all that is on the agenda, and what comes of it."""
        while self._agenda:
            at, _, what = heapq.heappop(self._agenda)
            sync_wait_until(lambda at=at: time.monotonic() >= at, "the next thing's time comes", timeout=60)
            self._crew.check()
            what()

    def start(self, instance: str | None = None) -> None:
        """One more process; with an instance id, a static member."""
        number = next(self._count)
        colour, how = ("aio", "sync")[number % 2], HOWS[number // 2 % len(HOWS)]
        self._instances[f"w{number}"] = instance
        self._crew.start(f"w{number}", colour=colour, how=how, group_instance_id=instance)

    def _start_again(self, seconds: float, name: str) -> None:
        self.later(seconds, lambda: self.start(self._instances[name]))

    def do(self, what: str) -> None:
        """One thing, to a process that is at work; if there is none, a little later."""
        # A worker at work has read something; one that starts would only start again.
        able = [name for name in self._crew.names if name not in self._still and self._crew.said(name, "read")]
        if len(able) < 2:
            self.later(0.1, lambda: self.do(what))
            return
        name = self._dice.choice(able)
        if what == "kill":
            self._crew.kill(name)
            self._start_again(self._dice.choice([0, self._dice.random() * 1.5]), name)
        elif what == "end":
            self._crew.end(name)
            self._start_again(self._dice.random(), name)
        elif what == "rejoin":
            self._crew.rejoin(name)
        elif what == "cut":
            with redis.Redis.from_url(self._url) as client:
                client.execute_command("CLIENT", "KILL", "TYPE", self._dice.choice(["normal", "pubsub"]))
        else:
            self._stop(name, in_mid_work=what != "stop")

    def _stop(self, name: str, *, in_mid_work: bool) -> None:
        """Stand still for longer than a session, at any moment or with records in hand that are not committed."""
        if in_mid_work:
            seen = len(self._crew.said(name, "read"))
            self._crew.wait(lambda: len(self._crew.said(name, "read")) > seen, f"{name} reads")
        self._crew.stop(name)
        self._still.add(name)

        def go_on() -> None:
            self._still.discard(name)
            self._crew.go_on(name)

        self.later(SESSION_S * (1.3 + self._dice.random()), go_on)


def test_a_group_under_chaos(server: Server, tmp_path: Path) -> None:
    """No two owners, no commit of a former one, nothing resumed too low or too high, nothing unseen; see the judge."""
    seed = random.randrange(1 << 32)
    logger.info("seed %d", seed)
    dice = random.Random(seed)
    with Crew(server.url, tmp_path) as crew:
        crew.produce()
        crew.observe()
        chaos = Chaos(crew, server.url, dice)
        for slot in range(SLOTS):
            chaos.start("static" if slot == 0 else None)
        at = 1.0
        for _ in range(ROUNDS):
            for what in dice.sample(DECK, len(DECK)):
                chaos.later(at, lambda what=what: chaos.do(what))
                at += dice.choice([0.05, 0.3, 0.9, 1.5])
        chaos.run()
        history = crew.finish()
    floors = {what: ROUNDS * count for what, count in FLOORS.items()}
    logger.info("%s", dict(counts_of(history)))
    assert judge_group(history, floors=floors) == [], f"seed {seed}, logs in {tmp_path}"


FLOORS = {
    "killed": 2, "stopped": 3, "continued": 3, "left": 2, "taken over": 3, "lost": 2, "refused": 1, "committed": 50,
    "records": 500,
}  # fmt: skip
