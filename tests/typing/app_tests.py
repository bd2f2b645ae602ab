"""What type checkers must accept of a user's tests of an app, and what they must refuse. See ``producers``."""

from __future__ import annotations

from typing import assert_type

from streamlayer import App, ConsumerRecord, RecordMetadata
from streamlayer.testing import AppTest, record


def records_are_made() -> None:
    assert_type(record("orders", {"a": 1}), ConsumerRecord[bytes, bytes])
    record("orders", b"v", "key", partition=1, offset=2, timestamp_ms=3, headers={"source": b"web"})
    record("orders", None, b"key", headers=[("source", b"web")])
    record("orders")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    record("orders", b"v", 7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    record("orders", b"v", headers={"source": "web"})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]


def apps_are_tested(app: App) -> None:
    assert_type(app.test(), AppTest)
    with app.test(num_partitions=4) as t:
        assert_type(t, AppTest)
        assert_type(t.send("orders", {"a": 1}, "key", partition=3), RecordMetadata)
        t.run(timeout_ms=1000)
        assert_type(t.records("orders"), list[ConsumerRecord[bytes, bytes]])
        assert_type(t.held, list[str])
        t.send("orders")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    app.test(4)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
