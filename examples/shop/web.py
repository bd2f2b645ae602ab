"""The shop's web service: takes orders into the log, and shows what the workers made of them.

    python web.py [--port 8080]             then, in another terminal: streamlayer worker worker:app
    curl -d '{"customer": "anna", "item": "tea", "cents": 450}' localhost:8080/orders
    curl localhost:8080/invoices/anna

It needs a server: STREAMLAYER_URL, by default redis://localhost:6379/0 (`streamlayer server` starts one).
"""

import argparse
import json
import signal
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from orders import Invoice, Order
from pydantic import ValidationError

from streamlayer import Consumer, Producer, StreamlayerError


class Shop:
    """What all requests share. The producer may be used by many threads, the consumer has one of its own."""

    def __init__(self, producer: Producer) -> None:
        self.producer = producer
        self.invoices: defaultdict[str, list[Invoice]] = defaultdict(list)

    def order(self, order: Order) -> dict[str, int]:
        """An order is taken when it is in the log."""
        where = self.producer.send_and_wait("orders", order.model_dump_json().encode(), order.customer.encode())
        return {"partition": where.partition, "offset": where.offset}

    def read(self, consumer: Consumer) -> None:
        """Keep the table of invoices: each process of the service has its own, read from the beginning."""
        for record in consumer:  # until wakeup()
            invoice = Invoice.model_validate_json(record.value)
            self.invoices[invoice.customer].append(invoice)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    shop: Shop  # set by main()

    def do_POST(self) -> None:
        """``POST /orders``."""
        if self.path != "/orders":
            return self.answer(404, {"error": "there are only /orders"})
        try:
            order = Order.model_validate_json(self.rfile.read(int(self.headers["Content-Length"] or 0)))
        except ValidationError as error:
            return self.answer(
                400, {"error": error.errors(include_url=False, include_context=False, include_input=False)}
            )
        try:
            return self.answer(201, self.shop.order(order))
        except StreamlayerError as error:  # nobody knows, or certainly not: the customer may try again
            return self.answer(503, {"error": str(error)})

    def do_GET(self) -> None:
        """``GET /invoices/<customer>``, ``GET /health``."""
        if self.path == "/health":
            health = self.shop.producer.health()
            return self.answer(200 if health.ok else 503, health._asdict())
        _, _, customer = unquote(self.path).partition("/invoices/")
        return self.answer(200, [invoice.model_dump() for invoice in self.shop.invoices.get(customer, [])])

    def answer(self, status: int, body: Any) -> None:
        """As JSON."""
        said = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)


def main(host: str, port: int) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stop.set())
    with Producer() as producer, Consumer("invoices") as consumer:  # leaving the block sends what is left
        Handler.shop = Shop(producer)
        with ThreadingHTTPServer((host, port), Handler) as server:
            threads = [
                threading.Thread(target=server.serve_forever),
                threading.Thread(target=Handler.shop.read, args=[consumer]),
            ]
            for thread in threads:
                thread.start()
            print(f"http://{host}:{server.server_port}", flush=True)
            stop.wait()
            server.shutdown()
            consumer.wakeup()
            for thread in threads:
                thread.join()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=8080, help="0 takes any free one")
    given = parser.parse_args()
    main(given.host, given.port)
