"""``streamlayer consume``: records out, one a line."""

from __future__ import annotations

import difflib
import heapq
import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import Annotated

import typer

from streamlayer import Consumer, ConsumerRecord, TopicPartition, UnknownTopicOrPartitionError
from streamlayer._cli import output
from streamlayer._cli.moments import Beginning, End, Moment, Offset, Start, parse_start
from streamlayer._cli.options import NamespaceOption, UrlOption, examples, session

EXAMPLES = examples(
    "streamlayer consume orders",
    "streamlayer consume orders --from beginning --no-follow --json",
    "streamlayer consume orders --from '2h ago' --max 100",
    "streamlayer consume orders --partition 2 --from 1200",
    "streamlayer consume orders --group billing --commit --max 100",
)

TAIL = 10  # records shown of what is there already, where no other start is asked for
_POLL_MS = 1_000

Record = ConsumerRecord[bytes, bytes]


def _start(text: str | None) -> Start | None:
    if text is None:
        return None
    try:
        return parse_start(text, int(time.time() * 1000))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--from") from None


def consume(
    ctx: typer.Context,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="The topic.", show_default=False)],
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="START",
            help=f"Where to begin: `beginning`, `end`, an offset, or a time; by default the last {TAIL} records. A "
            "time is ISO 8601 (local if it names no zone) or how long ago: -15m, '2h ago'. A partition that does not "
            "hold the offset begins at its nearest.",
            show_default=False,
        ),
    ] = None,
    most: Annotated[int | None, typer.Option("--max", min=1, metavar="N", help="Stop after N records.")] = None,
    partition: Annotated[int | None, typer.Option(min=0, metavar="N", help="Read this partition only.")] = None,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="GROUP",
            help="Read as a member of this group: the partitions that it gives this one, from where it is; --from "
            "(`beginning`, the default, or `end`) is for partitions that it has no offset of.",
            show_default=False,
        ),
    ] = None,
    commit: Annotated[
        bool, typer.Option("--commit/--no-commit", help="Have the group go on behind what was printed.")
    ] = False,
    no_follow: Annotated[
        bool, typer.Option("--no-follow", "--exit", help="Stop at the end; without it, wait there for more.")
    ] = False,
    json: Annotated[
        bool,
        typer.Option(
            "--json", help="One JSON object a line. Bytes that are no text come as key_base64 and value_base64."
        ),
    ] = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Print records: partition and offset, time, key, value. Bytes that are no text are shown escaped."""
    begin = _start(start)
    show = output.record_printer(json=json)
    where = session(ctx, url, namespace)
    if group is not None:
        _check_in_group(begin, partition)
        with Consumer(
            url=where.url,
            namespace=where.namespace,
            group_id=group,
            enable_auto_commit=commit,
            auto_offset_reset="latest" if isinstance(begin, End) else "earliest",
        ) as consumer:
            partitions_of(consumer, topic)  # a topic that is not there must not make a group
            consumer.subscribe([topic])
            for record in _of_group(consumer, most, follow=not no_follow):
                show(record)
        return
    if commit:
        raise typer.BadParameter("what was read is committed to a group: --commit needs --group", param_hint="--commit")
    with Consumer(url=where.url, namespace=where.namespace) as consumer:
        partitions = partitions_of(consumer, topic, partition)
        consumer.assign(partitions)
        for record in islice(_records(consumer, partitions, begin, most, follow=not no_follow), most):
            show(record)


def partitions_of(consumer: Consumer, topic: str, partition: int | None = None) -> list[TopicPartition]:
    """All partitions of a topic, or this one.

    :raises UnknownTopicOrPartitionError: it is not there; the message says what is.
    """
    topics = consumer.topics()
    if topic not in topics:
        near = difflib.get_close_matches(topic, topics, n=1)
        advice = f"; did you mean {near[0]!r}?" if near else "; `streamlayer topics list` shows what there is"
        raise UnknownTopicOrPartitionError(f"there is no topic {topic!r}{advice}")
    numbers = consumer.partitions_for_topic(topic)
    if partition is not None and partition not in numbers:
        raise UnknownTopicOrPartitionError(f"{topic} has the partitions 0 to {len(numbers) - 1}, not {partition}")
    return [TopicPartition(topic, number) for number in (sorted(numbers) if partition is None else [partition])]


def _records(
    consumer: Consumer, partitions: list[TopicPartition], begin: Start | None, most: int | None, *, follow: bool
) -> Iterator[Record]:
    """The records asked for, in order within a partition. Flushes stdout before it waits for more."""
    if begin is None:
        yield from _tail(consumer, partitions, TAIL if most is None else min(TAIL, most))
    else:
        _seek(consumer, partitions, begin)
        if not follow:
            yield from consumer.read_to_end()
    while follow:
        sys.stdout.flush()
        if output.reader_is_gone():
            raise BrokenPipeError
        yield from _in_time_order(consumer.poll(_POLL_MS))


def _check_in_group(begin: Start | None, partition: int | None) -> None:
    if partition is not None:
        raise typer.BadParameter("the group says who reads what", param_hint="--partition")
    if not isinstance(begin, Beginning | End | None):
        raise typer.BadParameter(
            "a group goes on where it is: `beginning` or `end` is for what it has no offset of; "
            "`streamlayer groups reset-offsets` moves it",
            param_hint="--from",
        )


def _of_group(consumer: Consumer[bytes, bytes], most: int | None, *, follow: bool) -> Iterator[Record]:
    """What the group gives to this member, in time order within a poll.

    A poll commits what the ones before it brought, and leaving the block the rest: so all of it is flushed before.
    """
    ends = {} if follow else consumer.end_offsets(consumer.wait_for_assignment())
    left = most
    while (left is None or left) and (follow or _behind(consumer, ends)):
        polled = consumer.poll(_POLL_MS, max_records=left)
        yield from _in_time_order(polled)
        sys.stdout.flush()
        if output.reader_is_gone():
            raise BrokenPipeError
        if left is not None:
            left -= sum(map(len, polled.values()))


def _behind(consumer: Consumer[bytes, bytes], ends: dict[TopicPartition, int]) -> bool:
    return any(consumer.position(tp) < ends[tp] for tp in consumer.assignment() & ends.keys())


def _in_time_order(polled: dict[TopicPartition, list[Record]]) -> Iterator[Record]:
    return heapq.merge(*polled.values(), key=lambda record: record.timestamp)


def _tail(consumer: Consumer, partitions: list[TopicPartition], count: int) -> list[Record]:
    """The last records over all partitions, in time order; the consumer stands behind them."""
    first, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
    for place in partitions:
        consumer.seek(place, max(first[place], ends[place] - count))
    found = sorted(consumer.read_to_end(), key=lambda record: (record.timestamp, record.partition, record.offset))
    return found[-count:]


def _seek(consumer: Consumer, partitions: list[TopicPartition], begin: Start) -> None:
    match begin:
        case Beginning():
            consumer.seek_to_beginning()
        case End():
            consumer.seek_to_end()
        case Moment(timestamp_ms):
            consumer.seek_to_time(timestamp_ms)
        case Offset(offset):
            first, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
            for place in partitions:
                consumer.seek(place, min(max(offset, first[place]), ends[place]))
