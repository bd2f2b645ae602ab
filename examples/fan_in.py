"""Four processes with producers of their own write to one topic; a group of two, in processes too, counts what comes.

python examples/fan_in.py [--url redis://localhost:6379/0]     without a url: on a throw-away server of its own
"""

import argparse
import itertools
import multiprocessing
import os
from collections import Counter
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event

from streamlayer import Admin, Consumer, NewTopic, Producer
from streamlayer.embedded import Server

SITES, EACH = 4, 5_000
processes = multiprocessing.get_context("spawn")


def site(url: str, number: int) -> None:
    """One of many: its readings have its key, so they lie in one partition, in order."""
    with Producer(url=url) as producer:
        for reading in range(EACH):
            producer.send("readings-of-sites", b"%d" % reading, key=b"site %d" % number)


def reader(url: str, all_sent: Event, counts: Queue) -> None:
    """One of two: each partition is read by one of them. It ends when all was sent, and nothing of that is left."""
    seen: Counter[str] = Counter()
    last: dict[str, int] = {}
    with Consumer("readings-of-sites", url=url, group_id="counters") as consumer:
        while not (all_sent.is_set() and consumer.assignment() and not any(consumer.lag().values())):
            for record in itertools.chain(*consumer.poll(timeout_ms=200).values()):
                name, number = (record.key or b"").decode(), int(record.value)
                assert number > last.get(name, -1), f"{name}: {number} came after {last[name]}"
                last[name] = number
                seen[name] += 1
    counts.put(seen)


def main(url: str) -> None:
    """Start all of them, and add up."""
    with Admin(url=url) as admin:
        admin.delete_topics(["readings-of-sites"], missing_ok=True)
        admin.create_topics([NewTopic("readings-of-sites", 8)])
    all_sent, counts = processes.Event(), processes.Queue()
    readers = [processes.Process(target=reader, args=(url, all_sent, counts)) for _ in range(2)]
    sites = [processes.Process(target=site, args=(url, number)) for number in range(SITES)]
    for process in readers + sites:
        process.start()
    for process in sites:
        process.join()
    all_sent.set()
    total = counts.get() + counts.get()
    for process in readers:
        process.join()
    for name, count in sorted(total.items()):
        print(f"{name}: {count} readings, in order")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=os.environ.get("STREAMLAYER_URL"), help="the server to use")
    if given := parser.parse_args().url:
        main(given)
    else:
        with Server() as server:
            main(server.url)
