"""How things look on the terminal and in a pipe: tables, numbers, and bytes from records.

The rule: what comes out of a record never reaches the terminal as it is. It may hold anything, escape sequences too.
"""

from __future__ import annotations

import base64
import select
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamlayer import ConsumerRecord

_KEY_WIDTH_UNKNOWN = "-"
_UNITS = ("bytes", "KB", "MB", "GB")
_PIPE_WIDTH = 10_000  # columns: nothing is cut or wrapped where no terminal is


def own_name() -> str:
    """What to type to run this command again: its name if the PATH has it, else how it was called."""
    if shutil.which("streamlayer") is not None:
        return "streamlayer"
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{Path(sys.executable).name} -m streamlayer._cli"
    here = Path.cwd()
    return str(called.relative_to(here) if called.is_relative_to(here) else called)


def console(*, stderr: bool = False) -> Console:
    """A console without automatic colouring of numbers and words; in a pipe it cuts nothing."""
    made = Console(stderr=stderr, highlight=False, soft_wrap=True)
    if not made.is_terminal:
        made.width = _PIPE_WIDTH
    return made


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str | int]]) -> None:
    """Print a table without lines, fit for `grep` and `awk` too; numbers stand to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else cell) for cell in row))
    console().print(table)


def print_json(value: object) -> None:
    """Print a value as JSON, indented."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_json_line(value: object) -> None:
    """Print a value as JSON, on one line."""
    print(msgspec.json.encode(value).decode())


def size(count: float) -> str:
    """Bytes in words: ``512 bytes``, ``1.3 MB``."""
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count /= 1000
        unit += 1
    return f"{count:.0f} {_UNITS[unit]}" if unit == 0 else f"{count:.1f} {_UNITS[unit]}"


def shown(stored: bytes | None) -> str:
    """Bytes for a person: UTF-8 as text; what is not, and what would move the cursor, escaped; no value as ``null``."""
    if stored is None:
        return "null"
    text = stored.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def clock(timestamp: int) -> str:
    """A record's time in the local time zone, to the millisecond."""
    try:
        return datetime.fromtimestamp(timestamp / 1000).astimezone().isoformat(" ", "milliseconds")[:23]
    except (OverflowError, ValueError, OSError):
        return f"{timestamp} ms"


def as_json(record: ConsumerRecord[bytes, bytes]) -> bytes:
    """A record as one JSON object."""
    return msgspec.json.encode(json_fields(record))


def json_fields(record: ConsumerRecord[bytes, bytes]) -> dict[str, object]:
    """What JSON says of a record. Bytes that are no UTF-8 are base64, under ``key_base64`` or ``value_base64``."""
    fields: dict[str, object] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        **_field("key", record.key),
        **_field("value", record.value),
    }
    if record.headers:
        fields["headers"] = [{"name": name, **_field("value", value)} for name, value in record.headers]
    return fields


def _field(name: str, stored: bytes | None) -> Mapping[str, str | None]:
    if stored is None:
        return {name: None}
    try:
        return {name: stored.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(stored).decode()}


def record_printer(*, json: bool) -> Callable[[ConsumerRecord[bytes, bytes]], None]:
    """What prints records to stdout, one a line: as JSON, in colour on a terminal, plain in a pipe."""
    if json:
        write = sys.stdout.buffer.write
        return lambda record: _ignore(write(as_json(record) + b"\n"))
    if sys.stdout.isatty():
        terminal = console()
        return lambda record: terminal.print(_coloured(record))
    return lambda record: print("  ".join(_columns(record)))


def reader_is_gone() -> bool:
    """Whether stdout is a pipe that nobody reads any more. A write would tell too, but there may be none for hours."""
    poller = select.poll()
    poller.register(sys.stdout.fileno(), 0)
    return any(events & select.POLLERR for _, events in poller.poll(0))


def _ignore(_: object) -> None:
    """Writers say how many bytes they took."""


def _columns(record: ConsumerRecord[bytes, bytes]) -> tuple[str, str, str, str]:
    key = _KEY_WIDTH_UNKNOWN if record.key is None else shown(record.key)
    return f"{record.partition}:{record.offset}", clock(record.timestamp), key, shown(record.value)


def _coloured(record: ConsumerRecord[bytes, bytes]) -> Text:
    place, when, key, value = _columns(record)
    return Text("  ").join([Text(place, "cyan"), Text(when, "dim"), Text(key, "green"), Text(value)])
