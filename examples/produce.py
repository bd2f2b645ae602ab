"""Sends orders in three ways: one by one, one that waits for its place in the log, and many at once.

python examples/produce.py [--url redis://localhost:6379/0]     without a url: on a throw-away server of its own
"""

import argparse
import os

from streamlayer import Producer, RecordFuture, serializers
from streamlayer.embedded import Server

CUSTOMERS = ["anna", "bert", "carla"]


def report_failure(future: RecordFuture) -> None:
    """Called when a record is decided; must not block."""
    if error := future.exception():
        print("not in the log:", error)


def main(url: str) -> None:
    """Send; leaving the block sends what is left and raises the first failure nobody was told of."""
    with Producer(url=url, key_serializer=serializers.string, value_serializer=serializers.json) as producer:
        for number in range(300):  # returns at once: batches are sent beside this loop
            order = {"number": number, "amount": 7}
            producer.send("orders", order, CUSTOMERS[number % 3]).add_done_callback(report_failure)
        producer.flush()
        print("300 orders are in the log")

        where = producer.send_and_wait("orders", {"number": 300, "amount": 9}, "anna", headers={"source": b"web"})
        print(f"order 300 is at offset {where.offset} of {where.topic}[{where.partition}]")

        many = [{"number": number, "amount": 1} for number in range(301, 10_000)]
        for run in producer.send_many("orders", many, keys=[CUSTOMERS[n % 3] for n in range(len(many))]):
            print(f"{run.count} orders are at {run.base_offset} to {run.last_offset} of partition {run.partition}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=os.environ.get("STREAMLAYER_URL"), help="the server to use")
    if given := parser.parse_args().url:
        main(given)
    else:
        with Server() as server:
            main(server.url)
