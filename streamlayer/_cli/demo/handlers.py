"""The demo's app: what the processes of `streamlayer worker` do with the records: each writes down what it was given.

The rule: a diary is complete before the handler returns, for what it returns from is committed. Only these processes,
and their supervisor, import this file: it quietens the log.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from streamlayer import App, ConsumerRecord
from streamlayer._cli.demo.diary import DIARIES, GROUP, TOPIC, Diary, diary_of

AT_ONCE = 1000

# The screen shows what becomes of server and processes.
logging.getLogger("streamlayer").addHandler(logging.NullHandler())
logging.getLogger("streamlayer").propagate = False
_diaries: dict[int, Diary] = {}

app = App()


@app.consumer(TOPIC, group_id=GROUP, batch_size=AT_ONCE, batch_wait_ms=20)
async def write_down(records: list[ConsumerRecord]) -> None:
    """Do what there is to do: write it down."""
    pid = os.getpid()
    if pid not in _diaries:
        _diaries[pid] = Diary(Path(os.environ[DIARIES]) / diary_of(pid))
    diary = _diaries[pid]
    diary.processed(time.monotonic(), records[0].partition, records)
    diary.flush()
