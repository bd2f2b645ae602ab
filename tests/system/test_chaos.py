"""Every fault that one machine can show, under load: what was promised holds, and a table says what it cost.

Two producers, two readers without a group and two members of a group are at work, of one colour. `make test` plays a
selection, `make chaos` (the thorough profile) all of them, and prints the table.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pytest

from tests.profiles import THOROUGH
from tests.system.chaos import LONG, SHORT, Scenario
from tests.system.judge import Anomaly, History, lost
from tests.system.load import Load
from tests.system.stage import Stage

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

SCENARIOS = SHORT + LONG if THOROUGH else SHORT
AROUND = 500 if THOROUGH else 100
"""So many records are acknowledged before the fault, and as many after it."""
FLOOR = 2 * AROUND
"""So many records must have been acknowledged, read and handled, and the fault have struck; else it proves nothing."""


class Row(NamedTuple):
    """A line of the table."""

    fault: str
    sent: int
    acked: int
    lost: int
    duplicated: int
    out_of_order: int
    recovered_s: float
    verdict: str


TABLE: list[Row] = []


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[scenario.title for scenario in SCENARIOS])
def test_fault(scenario: Scenario) -> None:
    """The promise holds: nothing acknowledged is lost, or, where that may be, everybody concerned was told."""
    with Stage(scenario.kind, replica=scenario.replica) as stage:
        url = f"{stage.front.url}{scenario.options}"
        load = Load(scenario.colour, url, writers=2, readers=2, members=2, topic=scenario.topic, acks=scenario.acks)
        with load as stage.load:
            load.wait_acked(AROUND)
            scenario.strike(stage)
            load.wait_acked(AROUND)
            load.stop_writing()
            load.wait_seen(stage.primary.url)
        lossy = scenario.lossy or scenario.unread
        floors = {"acked": FLOOR, "read": FLOOR, "handled": FLOOR} | dict.fromkeys(stage.fired, 1)
        found = load.verdict(stage.primary.url, floors=floors, fired=stage.fired, lossy=lossy)
    assert stage.fired, "the fault says how often it struck"
    gone = lost(load.history)
    if gone and not scenario.lossy:
        found.append(Anomaly("lost-write", f"{gone} acknowledged records are not where they were"))
    if scenario.lossy and not gone:
        found.append(Anomaly("vacuous", "nothing was lost, though it could be"))
    TABLE.append(_row(scenario, stage, load.history, gone, found))
    assert found == []
    assert load.errors == []


def _row(scenario: Scenario, stage: Stage, history: History, gone: int, found: list[Anomaly]) -> Row:
    names = Counter(anomaly.name for anomaly in found)
    return Row(
        scenario.title,
        history.counts["sending"],
        history.counts["acked"],
        gone,
        names["duplicate"],
        names["nonmonotonic-send"] + names["nonmonotonic-poll"] + names["realtime-order"],
        max(_recovery(history, healed) for healed in stage.healed_at),
        ("lost, and told" if gone else "kept") if not found else ", ".join(sorted(names)),
    )


def _recovery(history: History, healed: float) -> float:
    """The seconds from a fault's end until something was acknowledged, read and handled again."""
    firsts = [
        min((event.at for event in history.of(what) if event.at > healed), default=float("inf"))
        for what in ("acked", "read", "handled")
    ]
    return max(firsts) - healed


def lines() -> list[str]:
    """The table, of what this process has played; empty unless all of it was."""
    if not THOROUGH:
        return []
    head = ("fault", "sent", "acked", "lost", "duplicated", "out of order", "recovered", "verdict")
    cells = [head, *((*map(str, row[:6]), f"{row.recovered_s:.2f} s", row.verdict) for row in TABLE)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]
