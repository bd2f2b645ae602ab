"""The shop's own tests of its handler: no server, well under a second.

pip install 'streamlayer[testing]' pytest; pytest test_worker.py
"""

import asyncio

import pytest
from orders import Invoice, Order
from worker import SoldOutError, app, bill

from streamlayer.testing import record


def test_an_invoice_has_tax() -> None:
    """A handler is a plain function: call it."""
    order = Order(customer="anna", item="tea", cents=450)
    invoice = asyncio.run(bill(order, record("orders", order, key="anna")))
    assert invoice == Invoice(customer="anna", item="tea", total=536)


def test_what_is_sold_out_is_not_billed() -> None:
    """It raises."""
    order = Order(customer="anna", item="moon", cents=1)
    with pytest.raises(SoldOutError):
        asyncio.run(bill(order, record("orders", order)))


def test_orders_become_invoices() -> None:
    """The whole app: what was sent, what is to be seen, with key, order and headers."""
    with app.test() as t:
        for cents in (100, 200):
            t.send("orders", Order(customer="anna", item="tea", cents=cents), key="anna", headers={"source": b"web"})
        t.run()
        invoices = t.records("invoices")
    assert [Invoice.model_validate_json(invoice.value).total for invoice in invoices] == [119, 238]
    assert {(invoice.key, invoice.headers) for invoice in invoices} == {(b"anna", (("source", b"web"),))}


def test_what_cannot_be_billed_is_set_aside() -> None:
    """After three attempts, or at once if it is no order; the others go on."""
    with app.test() as t:
        t.send("orders", Order(customer="anna", item="moon", cents=1), key="anna")
        t.send("orders", b'{"customer": "bert"}', key="bert")
        t.send("orders", Order(customer="carla", item="tea", cents=100), key="carla")
        t.run()
        assert [invoice.key for invoice in t.records("invoices")] == [b"carla"]
        errors = {letter.key: dict(letter.headers) for letter in t.records("orders.dead")}
    assert (errors[b"anna"]["dlq.error"], errors[b"anna"]["dlq.attempts"]) == (b"SoldOutError", b"3")
    assert errors[b"bert"]["dlq.error"] == b"InvalidRecordError"
