"""What the demo shows: a line for each step, a bar for each process on a terminal, and the table at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from streamlayer._cli import output

_MOST_FAULTS = 10  # shown one by one


@dataclass(frozen=True)
class Figures:
    """What the table says.

    :ivar written_s: seconds from the first record sent to the last acknowledged, the outage among them.
    :ivar read_s: seconds from the first record processed to the last.
    :ivar sent_bytes: of keys and values.
    :ivar stored_bytes: of the batches in the log.
    :ivar still_s: seconds for which nobody processed the partitions of the member that was killed.
    :ivar repeated: records that were processed again, since it had not committed them.
    """

    files: int
    records: int
    written_s: float
    read_s: float
    sent_bytes: int
    stored_bytes: int
    down_s: float
    sent_again: int
    stored_twice: int
    still_s: float
    repeated: int


class Screen:
    """The terminal, or the pipe: there the bars are left out."""

    def __init__(self) -> None:
        self._out: Console = output.console()
        self._bars = Progress(
            TextColumn("  {task.description}"),
            BarColumn(40),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._out,
            disable=not self._out.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        """Show the bars from now on."""
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bars as they are."""
        self._bars.stop()

    def step(self, text: str, style: str = "") -> None:
        """A line of the story."""
        self._out.print(Text(text, style))

    def bar(self, name: str, total: int) -> None:
        """Show how far a process is, out of so many records."""
        self._tasks[name] = self._bars.add_task(name, total=total)

    def progress(self, name: str, done: int) -> None:
        """How many records it has done."""
        self._bars.update(self._tasks[name], completed=done)

    def proof(self, text: str) -> None:
        """Something was proven."""
        self._end_bars()
        self._out.print(Text("proven  ", "bold green") + Text(text))

    def faults(self, what: str, faults: Sequence[str]) -> None:
        """Something was not; the first faults say what."""
        self._end_bars()
        self._out.print(Text("FAILED  ", "bold red") + Text(what))
        for fault in faults[:_MOST_FAULTS]:
            self._out.print(Text(f"        {fault}"))
        if len(faults) > _MOST_FAULTS:
            self._out.print(Text(f"        … and {len(faults) - _MOST_FAULTS:,} more"))

    def _end_bars(self) -> None:
        """What comes now stands below them."""
        self._bars.stop()

    def table(self, figures: Figures) -> None:
        """The figures at the end."""
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
        table.add_column(style="dim")
        table.add_column(justify="right")
        table.add_column(style="dim")
        size = output.size(figures.sent_bytes)
        rows = [
            ("records", f"{figures.records:,}", f"lines of {figures.files:,} files, {size} with their keys"),
            ("in", f"{figures.records / figures.written_s:,.0f}", "records/s from 2 producers, the outage included"),
            (
                "out",
                f"{figures.records / figures.read_s:,.0f}",
                "records/s to the group, both deaths included",
            ),
            ("stored", f"{figures.stored_bytes / figures.sent_bytes:.2f}", "bytes per byte sent"),
            ("server away", f"{figures.down_s:.1f} s", "killed, and started again with its append-only file"),
            ("sent again", f"{figures.sent_again:,}", "batches whose answer the crash took along"),
            ("stored twice", f"{figures.stored_twice:,}", "records"),
            ("stood still", f"{figures.still_s:.2f} s", "the killed worker's partitions; a session is 10 s"),
            ("done twice", f"{figures.repeated:,}", "lines that it had done and not committed"),
        ]
        for row in rows:
            table.add_row(*row)
        self._out.print()
        self._out.print(table)

    def next_steps(self) -> None:
        """What to type next."""
        self._out.print("\n[bold]What to type next[/bold]")
        name = output.own_name()
        steps = {
            f"{name} server --data-dir ./data": "a server of your own; it keeps its data",
            f"ls | {name} produce files": "in another terminal: each line a record",
            f"{name} consume files": "the last records, and what comes",
        }
        width = max(map(len, steps))
        for command, why in steps.items():
            self._out.print(Text("  ") + Text(command.ljust(width), "cyan") + Text(f"  {why}", "dim"))
