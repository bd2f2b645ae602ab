"""What a producer leaves that is killed in the middle of its batches. `make chaos` has a line for it in its table."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.doomed import Doomed, holes
from tests.system.judge import History, Value
from tests.system.load import Colour, Load
from tests.system.stage import Stage

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

KILLS = 3


@pytest.mark.parametrize(("kind", "colour"), [("valkey", "aio"), ("redis", "sync")])
def test_a_killed_producer_leaves_a_beginning_of_what_it_sent(kind: str, colour: Colour, tmp_path: Path) -> None:
    """SIGKILL under load, with batches under way: all that was acknowledged is there, of each key a beginning, once."""
    names = [f"{colour}{number}" for number in range(KILLS)]
    with Stage(kind) as stage:
        with Load(colour, stage.front.url) as load:
            for number, name in enumerate(names):
                with Doomed(stage.front.url, tmp_path, colour, name) as process:
                    process.wait("acked", 40 + 7 * number)
                    process.kill()
                process.hand_over(load.history)
            load.wait_read(100)
        assert load.verdict(stage.primary.url, floors={"acked": 300, "read": 300, "unknown": 1}) == []
    assert load.errors == []
    assert holes(load.history, names) == []


def test_a_record_left_out_is_found() -> None:
    """What the test above looks for: a later record of a key without an earlier one."""
    history = History()
    records = [Value("p-writer-0", "key-0", index) for index in (0, 2)]
    history.drained(0, enumerate(records))
    assert [anomaly.name for anomaly in holes(history, ["p"])] == ["hole"]
    assert holes(history, ["another"]) == []
