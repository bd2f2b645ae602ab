"""The shop's worker: an invoice for each order, with 19 % tax on top; orders that cannot be billed are set aside.

    streamlayer worker worker:app --processes 2
    streamlayer dlq list orders.dead              # what was set aside, and why

It needs a server: STREAMLAYER_URL, by default redis://localhost:6379/0 (`streamlayer server` starts one).
"""

from orders import Invoice, Order

from streamlayer import App, ConsumerRecord, ProducerRecord, Retry

app = App()
SOLD_OUT = {"moon"}


class SoldOutError(Exception):
    """There is no more of it."""


@app.consumer(
    "orders",
    group_id="billing",
    to="invoices",
    concurrency=64,
    ordering="key",  # the orders of one customer one after another
    retries=Retry(attempts=3, backoff_ms=200),
    dead_letter="orders.dead",
)
async def bill(order: Order, record: ConsumerRecord) -> Invoice | ProducerRecord:
    """What is returned goes to ``invoices``, under the key of the order."""
    if order.item in SOLD_OUT:
        raise SoldOutError(order.item)
    invoice = Invoice(customer=order.customer, item=order.item, total=round(order.cents * 1.19))
    source = dict(record.headers).get("source")
    return ProducerRecord(value=invoice, headers={"source": source}) if source else invoice


if __name__ == "__main__":
    app.run()  # in this process, until Ctrl-C or SIGTERM
