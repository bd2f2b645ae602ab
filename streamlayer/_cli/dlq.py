"""``streamlayer dlq``: look at the records that handlers gave up, and send them back."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Annotated

import typer

from streamlayer import Admin, Consumer
from streamlayer._cli import output
from streamlayer._cli.consume import partitions_of
from streamlayer._cli.dead_letters import COLUMNS, Choice, DeadLetter, dead_letter
from streamlayer._cli.options import NamespaceOption, UrlOption, examples, session
from streamlayer._cli.replay import Replay
from streamlayer._cli.replayed import Memory

app = typer.Typer(help="Look at dead letters, and send them back.", no_args_is_help=True)

_SHOWN = 50  # by default

DeadTopic = Annotated[str, typer.Argument(metavar="TOPIC", help="The dead letter topic.", show_default=False)]
OriginOption = Annotated[
    str | None, typer.Option("--topic", metavar="TOPIC", help="Only letters from this topic.", show_default=False)
]
ErrorOption = Annotated[
    str | None,
    typer.Option(
        "--error", metavar="CLASS", help="Only letters with this error, like TimeoutError.", show_default=False
    ),
]
PartitionOption = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="Only this partition of the dead letter topic.", show_default=False),
]


@app.command(
    "list",
    epilog=examples(
        "streamlayer dlq list orders.dead",
        "streamlayer dlq list orders.dead --error TimeoutError --json",
    ),
)
def list_(
    ctx: typer.Context,
    name: DeadTopic,
    topic: OriginOption = None,
    error: ErrorOption = None,
    partition: PartitionOption = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="The newest N of them.")] = _SHOWN,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with the record.")] = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Show dead letters: when and why each died, after how many attempts, where it comes from, if it was replayed."""
    where, choice = session(ctx, url, namespace), Choice(topic, error)
    found = 0

    def met() -> Iterator[tuple[DeadLetter, bool]]:
        nonlocal found
        for record in consumer.read_to_end():
            replayed, letter = memory.has(record), dead_letter(record)
            if choice.takes(letter):
                found += 1
                yield letter, replayed

    with (
        Admin(url=where.url, namespace=where.namespace) as admin,
        Consumer(url=where.url, namespace=where.namespace) as consumer,
    ):
        consumer.assign(partitions_of(consumer, name, partition))
        consumer.seek_to_beginning()
        memory = Memory(admin, name, consumer)
        shown = heapq.nlargest(limit, met(), key=_age)[::-1]
    if json:
        for letter, replayed in shown:
            output.print_json_line(letter.as_json(replayed=replayed))
        return
    if shown:
        output.print_table(COLUMNS, [letter.row(replayed=replayed) for letter, replayed in shown])
    hints = output.console(stderr=True)
    if not shown:
        hints.print(f"{name} has no such letters." if topic or error else f"{name} has no letters.")
    elif found > len(shown):
        hints.print(f"The newest {len(shown):,} of {found:,}; --limit shows more.")


@app.command(
    epilog=examples(
        "streamlayer dlq replay orders.dead --dry-run",
        "streamlayer dlq replay orders.dead --error TimeoutError",
        "streamlayer dlq replay orders.dead --partition 2 --offset 17",
        "streamlayer dlq replay orders.dead --to orders.second-try --limit 1",
    )
)
def replay(
    ctx: typer.Context,
    name: DeadTopic,
    to: Annotated[
        str | None,
        typer.Option(metavar="TOPIC", help="Send them here, not to where they come from.", show_default=False),
    ] = None,
    topic: OriginOption = None,
    error: ErrorOption = None,
    partition: PartitionOption = None,
    offset: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="OFFSET",
            help="Only the letter at this offset of --partition, even if it was replayed already.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="N letters at most.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be sent.")] = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Send dead letters back to the topic that they come from, with key and headers as they were.

    Each goes once, whatever was chosen before: the group dlq-replay remembers which.
    """
    if offset is not None and partition is None:
        raise typer.BadParameter("an offset is one partition's: --offset needs --partition")
    if to == name:
        raise typer.BadParameter("they are there already", param_hint="--to")
    where = session(ctx, url, namespace)
    work = Replay(name, Choice(topic, error, offset), to, 1 if offset is not None else limit)
    if dry_run:
        letters = work.look(where, partition)
        if letters:
            output.print_table(COLUMNS, [letter.row(replayed=False) for letter in letters])
    else:
        work.run(where, partition)
    by_topic = ", ".join(f"{count:,} to {target}" for target, count in sorted(work.sent.items()))
    count = work.sent.total()
    words = f"{count:,} {'letter' if count == 1 else 'letters'}"
    print(f"{'would replay' if dry_run else 'replayed'} {words}{': ' if by_topic else ''}{by_topic}")
    hints = output.console(stderr=True)
    if work.strays:
        hints.print(f"{work.strays:,} do not say where they come from: --to sends them somewhere.")
    if work.elsewhere:
        hints.print(f"Another replay of {name} is at work on the rest.")


def _age(met: tuple[DeadLetter, bool]) -> tuple[int, int, int]:
    letter, _ = met
    return letter.record.timestamp, letter.record.partition, letter.record.offset
