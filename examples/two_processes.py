"""Two processes share a topic: one writes, this one reads what the other has written as it comes.

python examples/two_processes.py [--url redis://localhost:6379/0]     without a url: on a throw-away server of its own
"""

import argparse
import multiprocessing
import os

from streamlayer import Admin, Consumer, Producer
from streamlayer.embedded import Server

COUNT = 20_000


def write(url: str) -> None:
    """The other process: numbers from 0 on, each under one of ten keys. A process makes a producer of its own."""
    with Producer(url=url) as producer:
        for number in range(COUNT):
            producer.send("numbers", b"%d" % number, key=b"key %d" % (number % 10))
    print(f"process 2 wrote {COUNT} records")


def main(url: str) -> None:
    """This process: reads while they are written, and sees that no key's numbers go back."""
    with Admin(url=url) as admin:
        admin.delete_topics(["numbers"], missing_ok=True)
    with Consumer("numbers", url=url, consumer_timeout_ms=10_000) as consumer:  # waits for the topic to come
        writer = multiprocessing.get_context("spawn").Process(target=write, args=(url,))
        writer.start()
        seen, last = 0, dict.fromkeys([b"key %d" % number for number in range(10)], -1)
        for record in consumer:
            key, number = record.key or b"", int(record.value)
            assert number > last[key], f"{key!r}: {number} came after {last[key]}"
            last[key] = number
            seen += 1
            if seen == COUNT:
                break
        writer.join()
    print(f"process 1 read {seen} records, in order for each of {len(last)} keys")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=os.environ.get("STREAMLAYER_URL"), help="the server to use")
    if given := parser.parse_args().url:
        main(given)
    else:
        with Server() as server:
            main(server.url)
