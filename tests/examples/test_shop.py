"""The shop of ``examples/shop`` as people run it: its service and its worker in processes, and its own tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from streamlayer import Admin
from streamlayer.embedded import Server
from tests.examples.shop import ask, order, served, started, stop, totals
from tests.waiting import sync_wait_until

pytestmark = pytest.mark.system

WORKERS = ("-m", "streamlayer._cli", "worker", "worker:app", "--processes", "2")


@pytest.fixture
def url() -> Iterator[str]:
    """A server for one test: the shop's topics have no namespace."""
    with Server() as server:
        yield server.url


def cli(url: str, *arguments: str) -> str:
    """What the command line prints."""
    with started("-m", "streamlayer._cli", *arguments, url=url) as process:
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return out


def test_orders_become_invoices(url: str) -> None:
    """Also those of before the worker came, those of while it was away, and in a service that starts later."""
    with started("web.py", "--port", "0", url=url) as service:
        shop = served(service)
        where = order(shop, "anna", cents=100)
        assert order(shop, "anna", cents=200) == {**where, "offset": where["offset"] + 1}
        with started("worker.py", url=url) as worker:
            sync_wait_until(lambda: totals(shop, "anna") == [119, 238], "the invoices of before the worker")
            stop(worker)
        order(shop, "anna", cents=300)
        with started(*WORKERS, url=url) as worker:
            sync_wait_until(lambda: totals(shop, "anna") == [119, 238, 357], "the invoice of while it was away")
            with started("web.py", "--port", "0", url=url) as later:
                second = served(later)
                sync_wait_until(lambda: totals(second, "anna") == [119, 238, 357], "all of them in a later service")
                stop(later)
            stop(worker)
        assert ask(f"{shop}/health")[1]["state"] == "ok"
        stop(service)


def test_what_the_service_refuses(url: str) -> None:
    """An order that is none is the customer's mistake; a server that is away is ours, and passes."""
    with started("web.py", "--port", "0", url=url) as service:
        shop = served(service)
        status, said = ask(f"{shop}/orders", b'{"customer": "", "item": "tea", "cents": 0}')
        assert status == 400
        assert {tuple(error["loc"]) for error in said["error"]} == {("customer",), ("cents",)}
        assert ask(f"{shop}/orders", b"rubbish")[0] == 400
        assert ask(f"{shop}/else", b"")[0] == 404
        assert ask(f"{shop}/invoices/nobody") == (200, [])
        stop(service)


def test_dead_orders_are_looked_at_and_go_back(url: str) -> None:
    """What the worker set aside says why; replayed, it is tried once more."""
    with (
        started("web.py", "--port", "0", url=url) as service,
        started("worker.py", url=url) as worker,
    ):
        shop = served(service)
        order(shop, "anna", "moon")
        order(shop, "bert")
        sync_wait_until(lambda: totals(shop, "bert") == [119], "the order that is fine")

        def letters() -> list[str]:
            return cli(url, "dlq", "list", "orders.dead").splitlines()[1:]

        with Admin(url=url) as admin:
            sync_wait_until(lambda: "orders.dead" in admin.list_topics(), "the first dead letter's topic", timeout=30)
        (letter,) = sync_wait_until(letters, "the order that is not", timeout=30)
        assert "anna" in letter
        assert letter.rstrip().endswith("billing  3         no        SoldOutError: moon")
        assert cli(url, "dlq", "replay", "orders.dead") == "replayed 1 letter: 1 to orders\n"
        sync_wait_until(lambda: len(letters()) == 2, "its second death", timeout=30)
        assert [line.split()[-3] for line in letters()] == ["yes", "no"]
        stop(worker)
        stop(service)


@pytest.mark.alone
def test_the_shops_own_tests_need_no_server_and_no_second(tmp_path: Path) -> None:
    """As a user runs them, with nobody to connect to: all pass, and together they take under a second.

    Of three times the shortest counts: what they wait for, they wait for each time.
    """
    assert min(seconds(tmp_path / f"{run}.xml") for run in range(3)) < 1


def seconds(report: Path) -> float:
    """How long the shop's own tests take."""
    with started(
        "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", url="redis://nobody.invalid/0"
    ) as run:
        out, _ = run.communicate(timeout=60)
    assert run.returncode == 0, out
    cases = list(ET.parse(report).iter("testcase"))
    assert len(cases) == 4
    return sum(float(case.attrib["time"]) for case in cases)
