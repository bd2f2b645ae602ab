"""``streamlayer topics``: make, list, describe and delete topics."""

from __future__ import annotations

from typing import Annotated

import typer

from streamlayer import Admin, NewTopic, TopicAlreadyExistsError
from streamlayer._cli import output
from streamlayer._cli.options import NamespaceOption, UrlOption, examples, pairs, session
from streamlayer._types import TopicDescription

app = typer.Typer(help="Make, list, describe and delete topics.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
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
        described = admin.describe_topics()
    if json:
        output.print_json([_summary(topic) for topic in described.values()])
    elif described:
        rows = [
            (name, len(topic.partitions), _records(topic), output.size(_bytes(topic)))
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
            admin.describe_topics(names)  # before anything is deleted or asked
        found = [name for name in names if name in there]
        if found and not yes:
            records = sum(_records(topic) for topic in admin.describe_topics(found).values())
            typer.confirm(f"Delete {', '.join(found)} with {records:,} records?", abort=True, err=True)
        admin.delete_topics(names, missing_ok=missing_ok)
    for name in names:
        print(f"deleted {name}" if name in there else f"{name} does not exist")


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
        "partitions": [partition._asdict() for partition in topic.partitions],
    }


def _print_details(topic: TopicDescription) -> None:
    output.console().print(f"[bold]{topic.name}[/bold]  id {topic.topic_id}")
    for name, value in topic.config.model_dump().items():
        shown = topic.config.segment_limit if name == "segment_bytes" and value is None else value
        print(f"  {name} = {'no limit' if shown == -1 else shown}")
    output.print_table(
        ("PARTITION", "START", "END", "RECORDS", "BYTES", "SEGMENTS"),
        [(p.partition, p.log_start, p.log_end, p.log_end - p.log_start, p.bytes, p.segments) for p in topic.partitions],
    )
