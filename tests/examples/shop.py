"""The shop of ``examples/shop`` in processes, and its customers: what tests of it share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SHOP = ROOT / "examples" / "shop"


@contextmanager
def started(*arguments: str, url: str) -> Generator[subprocess.Popen[str]]:
    """A Python process in the shop's folder, killed at the end if it has not ended."""
    environment = {**os.environ, "STREAMLAYER_URL": url, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=SHOP, env=environment, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def stop(process: subprocess.Popen[str]) -> None:
    """Tell it to stop: it does, in order."""
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def served(process: subprocess.Popen[str]) -> str:
    """Where the service is."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ask(place: str, body: bytes | None = None) -> tuple[int, Any]:
    """GET, or POST with a body: the status, and the JSON."""
    try:
        with urllib.request.urlopen(place, body, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refusal:
        return refusal.code, json.load(refusal)


def order(shop: str, customer: str, item: str = "tea", cents: int = 100) -> dict[str, int]:
    """Order something; where the order is in the log."""
    status, where = ask(f"{shop}/orders", json.dumps({"customer": customer, "item": item, "cents": cents}).encode())
    assert status == 201
    return where


def totals(shop: str, customer: str) -> list[int]:
    """What a customer was billed."""
    return [invoice["total"] for invoice in ask(f"{shop}/invoices/{customer}")[1]]
