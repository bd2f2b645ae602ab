"""``streamlayer topics``: make, list, describe, alter, check, repair and delete topics, and delete records."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

import typer

from streamlayer import (
    Admin,
    ForeignDataError,
    NewTopic,
    PartitionDamagedError,
    TopicAlreadyExistsError,
    TopicPartition,
)
from streamlayer._cli import output
from streamlayer._cli.options import NamespaceOption, UrlOption, examples, pairs, session
from streamlayer._core.checks import check_partition
from streamlayer._types import TopicDescription

app = typer.Typer(help="Make, list, describe, alter, check, repair and delete topics.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(metavar="TOPIC", help="The topic's name.", show_default=False)]
Names = Annotated[list[str], typer.Argument(metavar="TOPIC...", help="The topics' names.", show_default=False)]


@app.command("list", epilog=examples("streamlayer topics list", "streamlayer topics list --json"))
def list_(
    ctx: typer.Context,
    json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """List all topics, with what they hold."""
    where = session(ctx, url, namespace)
    with Admin(url=where.url, namespace=where.namespace) as admin:
        described = {name: _described(admin, name) for name in admin.list_topics()}
    if json:
        output.print_json(
            [_summary(topic) if topic else {"name": name, "damaged": True} for name, topic in described.items()]
        )
    elif described:
        rows = [
            (name, len(topic.partitions), _records(topic), output.size(_bytes(topic)))
            if topic
            else (name, "damaged", "-", "-")
            for name, topic in described.items()
        ]
        output.print_table(("TOPIC", "PARTITIONS", "RECORDS", "SIZE"), rows)
    else:
        output.console(stderr=True).print("There are no topics. `streamlayer topics create NAME` makes one.")


@app.command(
    epilog=examples(
        "streamlayer topics create orders --partitions 8",
        "streamlayer topics create orders --config retention.ms=3600000 --exist-ok",
    )
)
def create(
    ctx: typer.Context,
    names: Names,
    partitions: Annotated[
        int | None, typer.Option(metavar="N", help="How many partitions; by default 4.", show_default=False)
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A setting, like retention_ms or retention.ms. May be repeated."),
    ] = None,
    exist_ok: Annotated[bool, typer.Option("--exist-ok", help="Leave a topic that exists as it is.")] = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Create topics."""
    settings = {name: _number_or_text(value) for name, value in pairs(config or [], "--config").items()}
    where = session(ctx, url, namespace)
    with Admin(url=where.url, namespace=where.namespace) as admin:
        before = set(admin.list_topics())
        there = [name for name in names if name in before]
        if there and not exist_ok:
            raise TopicAlreadyExistsError(f"{there[0]} exists already; --exist-ok leaves it as it is")
        admin.create_topics([NewTopic(name, partitions, config=settings) for name in names], exist_ok=exist_ok)
    for name in names:
        print(f"{name} exists already" if name in before else f"created {name}")


@app.command(epilog=examples("streamlayer topics describe orders", "streamlayer topics describe orders --json"))
def describe(
    ctx: typer.Context,
    names: Names,
    json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Show topics' settings and partitions."""
    where = session(ctx, url, namespace)
    with Admin(url=where.url, namespace=where.namespace) as admin:
        described = admin.describe_topics(names)
    if json:
        output.print_json([_details(topic) for topic in described.values()])
        return
    for place, topic in enumerate(described.values()):
        if place:
            print()
        _print_details(topic)


@app.command(
    epilog=examples(
        "streamlayer topics alter orders --config retention.ms=3600000",
        "streamlayer topics alter orders --config retention.ms= --partitions 12",
    )
)
def alter(
    ctx: typer.Context,
    name: Name,
    config: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A setting, like retention_ms or retention.ms; without a value it gets its default. May be repeated.",
        ),
    ] = None,
    partitions: Annotated[
        int | None, typer.Option(metavar="N", help="How many partitions to have, no fewer.", show_default=False)
    ] = None,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Change a topic's settings, and add partitions."""
    settings = {
        setting: _number_or_text(value) if value else None for setting, value in pairs(config or [], "--config").items()
    }
    if not settings and partitions is None:
        raise typer.BadParameter("what is to change? --config NAME=VALUE or --partitions N")
    where = session(ctx, url, namespace)
    with Admin(url=where.url, namespace=where.namespace) as admin:
        if settings:
            admin.alter_configs({name: settings})
        if partitions is not None:
            admin.create_partitions({name: partitions})
        topic = admin.describe_topics([name])[name]
    print(f"altered {name}")
    _print_options(topic, {setting.replace(".", "_") for setting in settings})
    if partitions is not None:
        print(f"  {len(topic.partitions)} partitions")


@app.command(
    "delete-records",
    epilog=examples(
        "streamlayer topics delete-records orders --all",
        "streamlayer topics delete-records orders --partition 2 --before 120000 --yes",
    ),
)
def delete_records(
    ctx: typer.Context,
    name: Name,
    partition: Annotated[
        int | None, typer.Option(metavar="P", help="Of this partition only.", show_default=False)
    ] = None,
    before: Annotated[
        int | None, typer.Option(metavar="OFFSET", min=0, help="The first offset to keep.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that is there now.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Delete a topic's oldest records, or all of them. There is no way back; offsets go on where they are."""
    if everything == (before is not None):
        raise typer.BadParameter("which records? --all, or --partition P --before OFFSET")
    if before is not None and partition is None:
        raise typer.BadParameter("an offset is one partition's: --before needs --partition")
    where = session(ctx, url, namespace)
    with Admin(url=where.url, namespace=where.namespace) as admin:
        there = admin.describe_topics([name])[name].partitions
        if partition is not None:
            check_partition(name, partition, len(there))
        numbers = range(len(there)) if partition is None else [partition]
        if not yes:
            ends = [there[number].log_end if before is None else before for number in numbers]
            count = sum(max(0, end - there[number].log_start) for number, end in zip(numbers, ends, strict=True))
            typer.confirm(f"Delete {count:,} records of {name}?", abort=True, err=True)
        wanted = {TopicPartition(name, number): -1 if before is None else before for number in numbers}
        starts = admin.delete_records(wanted)
    for place, start in starts.items():
        print(f"{place.topic}[{place.partition}] begins at {start}")


@app.command(epilog=examples("streamlayer topics check", "streamlayer topics check orders --json"))
def check(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[TOPIC]...", help="The topics' names; by default all.")
    ] = None,
    json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Look for contradictions in what is stored. It reads all of it; the status is 1 if something is wrong."""
    where = session(ctx, url, namespace)
    with Admin(url=where.url, namespace=where.namespace) as admin:
        found = admin.check_topics(names or None)
    if json:
        output.print_json([{**place._asdict(), "contradiction": words} for place, words in found.items()])
    elif found:
        rows = [(place.topic, place.partition, words) for place, words in found.items()]
        output.print_table(("TOPIC", "PARTITION", "CONTRADICTION"), rows)
    else:
        print("nothing contradicts")
    if found:
        raise typer.Exit(1)


@app.command(epilog=examples("streamlayer topics repair orders", "streamlayer topics repair orders --yes"))
def repair(
    ctx: typer.Context,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Have damaged partitions go on without the records that they hold. There is no way back; offsets go on."""
    where = session(ctx, url, namespace)
    with Admin(url=where.url, namespace=where.namespace) as admin:
        found = admin.check_topics([name])
        if found and not yes:
            output.print_table(
                ("TOPIC", "PARTITION", "CONTRADICTION"), [(*place, words) for place, words in found.items()]
            )
            typer.confirm("Give up all records of these, where only that helps?", abort=True, err=True)
        starts = admin.repair_partitions(found)
    for place, start in starts.items():
        print(f"{place.topic}[{place.partition}] goes on at {start}")
    if not starts:
        print(f"there is nothing to repair in {name}")


@app.command(epilog=examples("streamlayer topics delete orders", "streamlayer topics delete old older --yes"))
def delete(
    ctx: typer.Context,
    names: Names,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    missing_ok: Annotated[bool, typer.Option("--missing-ok", help="A topic that is not there is no error.")] = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Delete topics with all their records. There is no way back."""
    where = session(ctx, url, namespace)
    with Admin(url=where.url, namespace=where.namespace) as admin:
        there = set(admin.list_topics())
        if not missing_ok:
            admin.describe_topics(name for name in names if name not in there)  # before anything is deleted or asked
        found = [name for name in names if name in there]
        if found and not yes:
            typer.confirm(f"Delete {', '.join(found)} with {_records_of(admin, found)}?", abort=True, err=True)
        admin.delete_topics(names, missing_ok=missing_ok)
    for name in names:
        print(f"deleted {name}" if name in there else f"{name} does not exist")


def _described(admin: Admin, name: str) -> TopicDescription | None:
    try:
        return admin.describe_topics([name])[name]
    except (PartitionDamagedError, ForeignDataError):  # `streamlayer topics check` says what it is
        return None


def _records_of(admin: Admin, names: list[str]) -> str:
    described = [_described(admin, name) for name in names]
    records = f"{sum(_records(topic) for topic in described if topic):,} records"
    return records if all(described) else f"{records}, and those of damaged partitions"


def _number_or_text(value: str) -> int | str:
    try:
        return int(value)
    except ValueError:
        return value


def _records(topic: TopicDescription) -> int:
    return sum(partition.log_end - partition.log_start for partition in topic.partitions)


def _bytes(topic: TopicDescription) -> int:
    return sum(partition.bytes for partition in topic.partitions)


def _summary(topic: TopicDescription) -> dict[str, object]:
    return {
        "name": topic.name,
        "topic_id": topic.topic_id,
        "partitions": len(topic.partitions),
        "records": _records(topic),
        "bytes": _bytes(topic),
    }


def _details(topic: TopicDescription) -> dict[str, object]:
    return {
        "name": topic.name,
        "topic_id": topic.topic_id,
        "config": topic.config.model_dump(),
        "options": {name: entry._asdict() for name, entry in topic.options.items()},
        "partitions": [partition._asdict() for partition in topic.partitions],
    }


def _print_details(topic: TopicDescription) -> None:
    output.console().print(f"[bold]{topic.name}[/bold]  id {topic.topic_id}")
    _print_options(topic, topic.options.keys())
    output.print_table(
        ("PARTITION", "START", "END", "RECORDS", "BYTES", "SEGMENTS"),
        [(p.partition, p.log_start, p.log_end, p.log_end - p.log_start, p.bytes, p.segments) for p in topic.partitions],
    )


def _print_options(topic: TopicDescription, names: Collection[str]) -> None:
    for name, entry in topic.options.items():
        if name in names:
            print(f"  {name} = {'no limit' if entry.value == -1 else entry.value}  ({entry.source})")
