"""Adds up what each customer ordered, until nothing came for a second, or Ctrl-C or SIGTERM ends it.

python examples/consume.py [--url redis://localhost:6379/0]     without a url: on a throw-away server of its own
"""

import argparse
import os
import signal
from collections import Counter

from streamlayer import Consumer, Producer, serializers
from streamlayer.embedded import Server

CUSTOMERS = [b"anna", b"bert", b"carla"]


def send_orders(url: str) -> None:
    """Something to read."""
    with Producer(url=url, value_serializer=serializers.json) as producer:
        orders = [{"amount": number % 10} for number in range(3_000)]
        producer.send_many("shop-orders", orders, keys=[CUSTOMERS[number % 3] for number in range(3_000)])


def main(url: str) -> None:
    """Read all partitions of the topic from their beginning, many records at a time."""
    totals: Counter[str] = Counter()
    with Consumer("shop-orders", url=url, value_deserializer=serializers.from_json) as consumer:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda _number, _frame: consumer.wakeup())  # ends the poll below: nothing
        while polled := consumer.poll(timeout_ms=1000):
            for records in polled.values():  # by partition; in order within each
                for record in records:
                    totals[(record.key or b"?").decode()] += record.value["amount"]
    for customer, amount in sorted(totals.items()):
        print(f"{customer} ordered for {amount}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=os.environ.get("STREAMLAYER_URL"), help="the server to use")
    if given := parser.parse_args().url:
        send_orders(given)
        main(given)
    else:
        with Server() as server:
            send_orders(server.url)
            main(server.url)
