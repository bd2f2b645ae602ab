"""``streamlayer.testing.record``: what a handler's test calls the handler with."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from streamlayer import ConsumerRecord, TopicPartition
from streamlayer.testing import record


class Order(BaseModel):
    """A value as users have them."""

    customer: str
    amount: int = 1


@dataclass
class Place:
    """Another kind."""

    x: int


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (b"\xff as it is", b"\xff as it is"),
        ("Grüße", "Grüße".encode()),
        (None, None),
        (Order(customer="anna"), b'{"customer":"anna","amount":1}'),
        ([Order(customer="anna", amount=2), {"x": Place(3)}], b'[{"customer":"anna","amount":2},{"x":{"x":3}}]'),
        (7, b"7"),
    ],
)
def test_a_value_is_stored_as_an_app_would(value: Any, stored: bytes | None) -> None:
    """Bytes stay, text is UTF-8, a null is a null, and what has fields is JSON."""
    assert record("orders", value).value == stored


def test_all_that_a_record_has() -> None:
    """What is said is there, what is not said is what the first record of a topic would have."""
    given = record(
        "orders",
        b"v",
        "Käse",
        partition=3,
        offset=7,
        timestamp_ms=1_700_000_000_000,
        headers=[("a", b"1"), ("a", b"2")],
    )
    headers = (("a", b"1"), ("a", b"2"))
    assert given == ConsumerRecord("orders", 3, 7, 1_700_000_000_000, 0, "Käse".encode(), b"v", headers)
    first = record("orders", b"v", headers={"a": b"1"})
    assert (first.topic_partition, first.offset, first.key) == (TopicPartition("orders", 0), 0, None)
    assert first.headers == (("a", b"1"),)
    assert abs(first.timestamp - time.time() * 1000) < 60_000
