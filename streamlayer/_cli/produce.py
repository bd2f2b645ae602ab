"""``streamlayer produce``: lines in, records out."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn

from streamlayer import ConfigurationError, Producer
from streamlayer._cli import output
from streamlayer._cli.options import NamespaceOption, UrlOption, examples, pairs, session

EXAMPLES = examples(
    "echo hello | streamlayer produce greetings",
    "streamlayer produce orders --file orders.txt",
    "printf 'anna:3 apples\\nbert:1 pear\\n' | streamlayer produce orders --key-separator :",
)

_REPORT_EVERY = 1_000  # records between two looks at the progress bar


class Counter:
    """What was given to the producer so far."""

    def __init__(self) -> None:
        self.records = 0
        self.bytes = 0


def produce(
    ctx: typer.Context,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="The topic; created if there is none.")],
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="PATH", help="Read lines from a file, not from stdin.")
    ] = None,
    key_separator: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What parts a line's key from its value; \\t is a tab. Without it, no keys."),
    ] = None,
    partition: Annotated[int | None, typer.Option(metavar="N", help="The partition for all records.")] = None,
    header: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A header for all records. May be repeated.")
    ] = None,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Append each line of stdin, or of a file, as a record. Ends when all of them are stored."""
    headers = [(name, value.encode()) for name, value in pairs(header or [], "--header").items()]
    separator = None if key_separator is None else key_separator.replace("\\t", "\t").encode()
    if separator == b"":
        raise typer.BadParameter("is empty", param_hint="--key-separator")
    counter, begun = Counter(), time.monotonic()
    with _opened(file) as lines:
        try:
            where = session(ctx, url, namespace)
            with Producer(url=where.url, namespace=where.namespace) as producer:
                for line in _watched(lines, file, counter):
                    value = line.removesuffix(b"\n")
                    key = None
                    if separator is not None:
                        key, value = _parted(value, separator, counter.records + 1)
                    producer.send(topic, value, key, partition=partition, headers=headers or None)
                    counter.records += 1
                    counter.bytes += len(line)
        except KeyboardInterrupt:
            _report(topic, counter, begun)  # what was given is stored: leaving the block waited for it
            raise
    _report(topic, counter, begun)


def _parted(line: bytes, separator: bytes, number: int) -> tuple[bytes, bytes]:
    key, found, value = line.partition(separator)
    if not found:
        wanted, shown = separator.decode(), output.shown(line[:60])
        raise ConfigurationError(
            f"line {number} has no key separator {wanted!r}: {shown!r}; the {number - 1:,} before it were sent"
        )
    return key, value


@contextmanager
def _opened(file: Path | None) -> Generator[BinaryIO]:
    if file is not None:
        with file.open("rb") as opened:
            yield opened
        return
    if sys.stdin.isatty():
        output.console(stderr=True).print("A line is a record; Ctrl-D ends.", style="dim")
    yield sys.stdin.buffer


def _watched(lines: Iterable[bytes], file: Path | None, counter: Counter) -> Iterator[bytes]:
    """The lines as they come, with a progress bar on stderr if that is a terminal that nobody types into."""
    if not sys.stderr.isatty() or (file is None and sys.stdin.isatty()):
        yield from lines
        return
    total = file.stat().st_size if file is not None else None
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=output.console(stderr=True), transient=True) as progress:
        task = progress.add_task("sending", total=total)
        for line in lines:
            yield line
            if counter.records % _REPORT_EVERY == 0:
                progress.update(task, completed=counter.bytes, description=f"{counter.records:,} records")


def _report(topic: str, counter: Counter, begun: float) -> None:
    took = time.monotonic() - begun
    rate = f" ({counter.records / took:,.0f} a second)" if counter.records >= _REPORT_EVERY else ""
    print(
        f"{counter.records:,} {'record' if counter.records == 1 else 'records'}, {output.size(counter.bytes)}, "
        f"stored in {topic} in {took:.1f} s{rate}",
        file=sys.stderr,
    )
