"""Reads a day's temperatures again: all of them, from an offset, from a time, and the last three.

python examples/replay.py [--url redis://localhost:6379/0]     without a url: on a throw-away server of its own
"""

import argparse
import os
from datetime import UTC, datetime, timedelta

from streamlayer import Admin, Consumer, NewTopic, Producer, TopicPartition, serializers
from streamlayer.embedded import Server

PLACE = TopicPartition("temperatures", 0)


def main(url: str) -> None:
    """Write 24 readings, an hour apart, then read them again and again."""
    start = datetime.now(UTC) - timedelta(hours=24)
    times = [start + timedelta(hours=hour) for hour in range(24)]
    with Admin(url=url) as admin:
        admin.delete_topics([PLACE.topic], missing_ok=True)
        admin.create_topics([NewTopic(PLACE.topic, 1, config={"retention.ms": 48 * 3_600_000})])
    with Producer(url=url, value_serializer=serializers.json) as producer:
        milliseconds = [int(time.timestamp() * 1000) for time in times]
        producer.send_many(PLACE.topic, [10 + hour for hour in range(24)], timestamps_ms=milliseconds)

    with Consumer(PLACE.topic, url=url, value_deserializer=serializers.from_json) as consumer:
        print("all:", len([record.value for record in consumer.read_to_end()]))

        consumer.seek(PLACE, 20)
        print("from offset 20:", [record.value for record in consumer.read_to_end()])

        consumer.seek_to_time(times[21])  # an aware datetime, or ms since the epoch; all partitions at once
        print("since 21 hours after the start:", [record.value for record in consumer.read_to_end()])

        consumer.seek(PLACE, consumer.end_offsets([PLACE])[PLACE] - 3)
        print("the last three:", [record.value for record in consumer.read_to_end()])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=os.environ.get("STREAMLAYER_URL"), help="the server to use")
    if given := parser.parse_args().url:
        main(given)
    else:
        with Server() as server:
            main(server.url)
