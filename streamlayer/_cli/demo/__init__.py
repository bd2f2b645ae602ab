"""``streamlayer demo``: half a million real records through a server and a worker that are killed, and the proof.

`story.py` says what happens; this file is the command.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from streamlayer._cli.demo import corpus
from streamlayer._cli.demo.crew import Crew
from streamlayer._cli.demo.diary import TOPIC
from streamlayer._cli.demo.processes import Job
from streamlayer._cli.demo.screen import Screen
from streamlayer._cli.demo.story import Story
from streamlayer._cli.options import examples
from streamlayer.embedded import Server
from streamlayer.errors import ConfigurationError

EXAMPLES = examples("streamlayer demo")

MOST_LINES = 500_000


def demo(
    lines: Annotated[int, typer.Option(min=1, metavar="N", hidden=True, help="Send at most N lines.")] = MOST_LINES,
) -> None:
    """See it work: half a million records through a server and a worker that are killed, and proof that none is lost.

    The records are the lines of the Python files of the standard library. It takes less than a minute, needs no
    server, and leaves nothing behind. Exit status 1 if anything was lost, stored twice or out of order.
    """
    root = corpus.standard_library()
    files = corpus.collect(root, lines)
    if not files:
        raise ConfigurationError(f"there are no Python files of at most {lines:,} lines in {root}")
    # The folder before the first word: somebody who interrupts the demo has seen one, and the folder is then known.
    # It goes last, when nobody writes into it any more.
    with TemporaryDirectory(prefix="streamlayer-demo-") as diaries, Screen() as screen:
        screen.step(f"{corpus.lines_of(files):,} lines of {len(files):,} files in {root}", "bold")
        with Server() as server, Crew() as crew:
            screen.step(
                "2 producers write them to a topic of 8 partitions; `streamlayer worker` handles them in 4 processes."
            )
            proven = Story(screen, server, crew, Job(server.url, TOPIC, root), files, Path(diaries)).run()
    if not proven:
        raise typer.Exit(1)
    screen.next_steps()
