"""What the command line reads from people, and shows to them: places to start, and bytes."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from streamlayer import ConsumerRecord
from streamlayer._cli.moments import Beginning, End, Moment, Offset, Start, parse_start
from streamlayer._cli.output import as_json, shown, size

NOW = 1_800_000_000_000


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("beginning", Beginning()),
        ("earliest", Beginning()),
        ("END", End()),
        ("0", Offset(0)),
        (" 1200 ", Offset(1200)),
        ("-15m", Moment(NOW - 900_000)),
        ("-1h30m", Moment(NOW - 5_400_000)),
        ("-1.5h", Moment(NOW - 5_400_000)),
        ("-250ms", Moment(NOW - 250)),
        ("2h ago", Moment(NOW - 7_200_000)),
        ("2 hours ago", Moment(NOW - 7_200_000)),
        ("1 minute ago", Moment(NOW - 60_000)),
        ("3 days 1 hour ago", Moment(NOW - 3 * 86_400_000 - 3_600_000)),
        ("2026-01-31T12:00Z", Moment(1_769_860_800_000)),
        ("2026-01-31T12:00:00.250+01:00", Moment(1_769_857_200_250)),
    ],
)
def test_places_to_start(text: str, start: Start) -> None:
    """Each way to say where to start means what it says."""
    assert parse_start(text, NOW) == start


def test_a_time_without_zone_is_local() -> None:
    """What a person reads from the clock on the wall is local time."""
    local = datetime(2026, 1, 31, 12, tzinfo=UTC).astimezone()
    assert parse_start(local.strftime("%Y-%m-%dT%H:%M:%S"), NOW) == Moment(1_769_860_800_000)


@pytest.mark.parametrize("text", ["tomorrow", "-", "-5", "-5x", "5m", "ago", "-1", "1e3", "2026-13-01", "²", ""])
def test_no_place_to_start(text: str) -> None:
    """What means nothing is refused with what would do."""
    with pytest.raises(ValueError, match="like 1200"):
        parse_start(text, NOW)


@pytest.mark.parametrize(
    ("stored", "text"),
    [
        (b"plain", "plain"),
        ("Grüße ✓".encode(), "Grüße ✓"),
        (b"\xff\x00", "\\xff\\x00"),
        (b"\x1b[31mred", "\\x1b[31mred"),
        (b"two\nlines\t", "two\\nlines\\t"),
        ("\u202eevil".encode(), "\\u202eevil"),
        (None, "null"),
        (b"", ""),
    ],
)
def test_bytes_for_a_person(stored: bytes | None, text: str) -> None:
    """Text is shown as it is; bytes that are none, and what would move the cursor, are shown escaped."""
    assert shown(stored) == text


def test_bytes_in_json() -> None:
    """Text stays text, null stays null, and bytes that are no text come back from their base64."""
    record = ConsumerRecord("t", 1, 2, 3, 0, None, b"\xff", (("a", b"b"), ("c", b"\xfe")))
    assert json.loads(as_json(record)) == {
        "topic": "t",
        "partition": 1,
        "offset": 2,
        "timestamp": 3,
        "key": None,
        "value_base64": "/w==",
        "headers": [{"name": "a", "value": "b"}, {"name": "c", "value_base64": "/g=="}],
    }


def test_sizes() -> None:
    """Bytes are told in the unit that fits."""
    assert [size(0), size(999), size(1000), size(28_700_000), size(5e12)] == [
        "0 bytes", "999 bytes", "1.0 KB", "28.7 MB", "5000.0 GB",
    ]  # fmt: skip
