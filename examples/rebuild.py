"""Keeps a table of balances in SQLite up to date from a topic, then throws it away and rebuilds it from offset 0.

Table and offsets are written in one transaction: whatever crashes, each payment counts once.

python examples/rebuild.py [--url redis://localhost:6379/0]     without a url: on a throw-away server of its own
"""

import argparse
import os
import sqlite3

from streamlayer import Admin, Consumer, NewTopic, Producer, TopicPartition, serializers
from streamlayer.embedded import Server

TABLES = """
CREATE TABLE balances (customer TEXT PRIMARY KEY, amount INTEGER NOT NULL);
CREATE TABLE offsets (number INTEGER PRIMARY KEY, next INTEGER NOT NULL);
"""


def pay(url: str, first: int, count: int) -> None:
    """Payments of three customers."""
    with Producer(url=url, value_serializer=serializers.json) as producer:
        for number in range(first, first + count):
            producer.send("payments-made", {"amount": number % 7}, key=b"%s" % (b"anna", b"bert", b"carla")[number % 3])


def catch_up(url: str, table: sqlite3.Connection) -> int:
    """Read from where the table is to the end; how many payments that were."""
    seen = 0
    with Consumer(url=url, value_deserializer=serializers.from_json) as consumer:
        consumer.assign(TopicPartition("payments-made", number) for number in range(4))
        known = dict(table.execute("SELECT number, next FROM offsets"))
        for place in consumer.assignment():
            consumer.seek(place, known.get(place.partition, 0))
        for record in consumer.read_to_end():
            with table:  # one transaction
                add = "INSERT INTO balances VALUES (?, ?) ON CONFLICT DO UPDATE SET amount = amount + excluded.amount"
                table.execute(add, ((record.key or b"").decode(), record.value["amount"]))
                table.execute("INSERT OR REPLACE INTO offsets VALUES (?, ?)", (record.partition, record.offset + 1))
            seen += 1
    return seen


def main(url: str) -> None:
    """Fill the table in two goes, then once more from nothing."""
    with Admin(url=url) as admin:
        admin.delete_topics(["payments-made"], missing_ok=True)
        admin.create_topics([NewTopic("payments-made", 4)])
    table = sqlite3.connect(":memory:")
    table.executescript(TABLES)
    for first, count in ((0, 1000), (1000, 500)):
        pay(url, first, count)
        print(f"caught up with {catch_up(url, table)} payments")
    before = table.execute("SELECT * FROM balances ORDER BY customer").fetchall()
    table.executescript(f"DROP TABLE balances; DROP TABLE offsets; {TABLES}")
    print(f"rebuilt from {catch_up(url, table)} payments")
    after = table.execute("SELECT * FROM balances ORDER BY customer").fetchall()
    assert after == before
    print("the same as before:", ", ".join(f"{customer} {amount}" for customer, amount in after))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=os.environ.get("STREAMLAYER_URL"), help="the server to use")
    if given := parser.parse_args().url:
        main(given)
    else:
        with Server() as server:
            main(server.url)
