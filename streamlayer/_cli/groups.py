"""``streamlayer groups`` and ``lag``: who is in consumer groups, how far they are, and what to do about it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, NamedTuple

import typer

from streamlayer import Admin, GroupDescription, MemberDescription, OffsetChange, TopicPartition
from streamlayer._cli import output
from streamlayer._cli.moments import Beginning, End, Moment, Offset, parse_start
from streamlayer._cli.options import NamespaceOption, UrlOption, examples, session
from streamlayer._core.refusals import where as place_of
from streamlayer._core.runs import format_runs

app = typer.Typer(help="List, describe and delete consumer groups, and move their offsets.", no_args_is_help=True)

LAG_EXAMPLES = examples("streamlayer lag billing", "streamlayer lag billing --json")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Group = Annotated[str, typer.Argument(metavar="GROUP", help="The group's id.", show_default=False)]
Groups = Annotated[list[str], typer.Argument(metavar="GROUP...", help="The groups' ids.", show_default=False)]


class Progress(NamedTuple):
    """How far a group is in one partition; ``None`` for what it has not committed."""

    tp: TopicPartition
    committed: int | None
    metadata: str
    log_end: int

    @property
    def lag(self) -> int | None:
        """How many records are left."""
        return None if self.committed is None else max(0, self.log_end - self.committed)


@app.command("list", epilog=examples("streamlayer groups list", "streamlayer groups list --json"))
def list_(
    ctx: typer.Context,
    json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """List all groups: those that have members, and those whose offsets are still kept."""
    where = session(ctx, url, namespace)
    with Admin(url=where.url, namespace=where.namespace) as admin:
        groups = admin.describe_groups().values()
    if json:
        output.print_json([_summary(group) for group in groups])
    elif groups:
        rows = [(group.group_id, group.state, _living(group), sum(group.lag.values())) for group in groups]
        output.print_table(("GROUP", "STATE", "MEMBERS", "LAG"), rows)
    else:
        output.console(stderr=True).print("There are no groups. `streamlayer consume TOPIC --group GROUP` makes one.")


@app.command(epilog=examples("streamlayer groups describe billing", "streamlayer groups describe billing --json"))
def describe(
    ctx: typer.Context,
    group_id: Group,
    json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Show a group's members with what they read, and how far it is in each partition."""
    where = session(ctx, url, namespace)
    with Admin(url=where.url, namespace=where.namespace) as admin:
        group = admin.describe_groups([group_id])[group_id]
        progress = _progress(admin, group)
    if json:
        members = [_member(member) for member in group.members]
        output.print_json({**_summary(group), "members": members, "partitions": [_details(one) for one in progress]})
        return
    output.console().print(f"[bold]{group_id}[/bold]  {group.state}")
    if group.members:
        columns = ("MEMBER", "INSTANCE", "CLIENT", "HOST", "ASSIGNMENT")
        output.print_table(columns, [_member_row(member) for member in group.members])
    if group.members and progress:
        print()
    if progress:
        _print_progress(progress)


@app.command(
    "reset-offsets",
    epilog=examples(
        "streamlayer groups reset-offsets billing --to earliest --dry-run",
        "streamlayer groups reset-offsets billing --to '2h ago' --topic orders",
        "streamlayer groups reset-offsets billing --shift-by -100 --partition orders:3",
    ),
)
def reset_offsets(
    ctx: typer.Context,
    group_id: Group,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="`earliest`, `latest`, an offset, or a time: ISO 8601 (local if it names no zone) or how long ago, "
            "-15m or '2h ago'. What a log does not hold becomes its start, or its end.",
            show_default=False,
        ),
    ] = None,
    shift_by: Annotated[
        int | None,
        typer.Option(metavar="N", help="Go on from what is committed; back by -N.", show_default=False),
    ] = None,
    topic: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TOPIC", help="Of this topic; by default of all that the group has read. May be repeated."
        ),
    ] = None,
    partition: Annotated[
        list[str] | None, typer.Option(metavar="TOPIC:N", help="Of this partition. May be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Have a group read again, or skip. Its members have to be stopped first."""
    if (to is None) == (shift_by is None):
        raise typer.BadParameter("where to? --to earliest|latest|OFFSET|TIME, or --shift-by N")
    goal = None if to is None else _goal(to)
    partitions = [_partition(text) for text in partition or ()]
    where = session(ctx, url, namespace)
    with Admin(url=where.url, namespace=where.namespace) as admin:
        changes = admin.reset_group_offsets(
            group_id,
            goal,
            shift_by=shift_by,
            topics=topic or None,
            partitions=partitions or None,
            dry_run=dry_run,
        )
    if json:
        output.print_json([{**tp._asdict(), **change._asdict()} for tp, change in changes.items()])
        return
    for tp, change in changes.items():
        print(f"{place_of(*tp)} {_change(change)}")
    hints = output.console(stderr=True)
    if not changes:
        hints.print(f"{group_id} has no offsets. --topic or --partition says where it shall have some.")
    elif dry_run:
        hints.print("Nothing was changed: --dry-run.")


@app.command(
    "remove-members",
    epilog=examples("streamlayer groups remove-members billing worker-3"),
)
def remove_members(
    ctx: typer.Context,
    group_id: Group,
    ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="Members' ids, or their instance ids.", show_default=False)
    ],
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Put members out of a group that will not come back by themselves. Who still runs joins again."""
    where = session(ctx, url, namespace)
    with Admin(url=where.url, namespace=where.namespace) as admin:
        members = admin.describe_groups([group_id])[group_id].members
        known = {name for member in members for name in (member.member_id, member.group_instance_id) if name}
        for each in ids:
            if each not in known:
                there = ", ".join(member.group_instance_id or member.member_id for member in members)
                raise typer.BadParameter(f"group {group_id} has no member {each!r}; it has {there or 'none'}")
        admin.remove_group_members(group_id, ids)
    for each in ids:
        print(f"removed {each}")


@app.command(epilog=examples("streamlayer groups delete billing", "streamlayer groups delete old older --yes"))
def delete(
    ctx: typer.Context,
    ids: Groups,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Delete groups with their offsets. There is no way back."""
    where = session(ctx, url, namespace)
    with Admin(url=where.url, namespace=where.namespace) as admin:
        described = admin.describe_groups(ids)
        if not yes:
            offsets = sum(len(group.lag) for group in described.values())
            typer.confirm(f"Delete {', '.join(described)} with {offsets:,} offsets?", abort=True, err=True)
        admin.delete_groups(described)
    for group_id in described:
        print(f"deleted {group_id}")


def lag(
    ctx: typer.Context,
    group_id: Group,
    json: JsonOption = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Show how many records a group is behind: in each partition, and in all."""
    where = session(ctx, url, namespace)
    with Admin(url=where.url, namespace=where.namespace) as admin:
        progress = _progress(admin, admin.describe_groups([group_id])[group_id])
    total = sum(one.lag or 0 for one in progress)
    if json:
        output.print_json({"group_id": group_id, "lag": total, "partitions": [_details(one) for one in progress]})
        return
    if progress:
        _print_progress(progress)
    print(f"{total:,} {'record' if total == 1 else 'records'} behind")


def _progress(admin: Admin, group: GroupDescription) -> list[Progress]:
    """One for each partition that has an offset or a reader."""
    offsets = admin.list_group_offsets(group.group_id)
    read = {tp for member in group.members for tp in member.assignment}
    ends = _log_ends(admin, offsets.keys() | read)
    progress: list[Progress] = []
    for tp in sorted(ends):
        at = offsets.get(tp)
        committed, metadata = (None, "") if at is None else (at.offset, at.metadata)
        progress.append(Progress(tp, committed, metadata, ends[tp]))
    return progress


def _log_ends(admin: Admin, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
    """Of those that are there."""
    wanted = set(tps)
    there = set(admin.list_topics())
    topics = admin.describe_topics(sorted({tp.topic for tp in wanted} & there))
    return {
        tp: partition.log_end
        for name, topic in topics.items()
        for partition in topic.partitions
        if (tp := TopicPartition(name, partition.partition)) in wanted
    }


def _goal(text: str) -> Literal["earliest", "latest"] | int | datetime:
    try:
        start = parse_start(text, int(time.time() * 1000))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no place to go on: give `earliest`, `latest`, an offset like 1200, "
            "a time like 2026-01-31T12:00 or -15m, or '2h ago'",
            param_hint="--to",
        ) from None
    match start:
        case Beginning():
            return "earliest"
        case End():
            return "latest"
        case Offset(offset):
            return offset
        case Moment(timestamp_ms):
            return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=timestamp_ms)


def _partition(text: str) -> TopicPartition:
    topic, _, number = text.rpartition(":")
    if not topic or not (number.isascii() and number.isdigit()):
        raise typer.BadParameter(f"{text!r} is not TOPIC:N, like orders:3", param_hint="--partition")
    return TopicPartition(topic, int(number))


def _change(change: OffsetChange) -> str:
    return f"{'none' if change.before is None else change.before} -> {change.after}"


def _living(group: GroupDescription) -> int:
    return sum(not member.overdue for member in group.members)


def _summary(group: GroupDescription) -> dict[str, object]:
    return {
        "group_id": group.group_id,
        "state": group.state,
        "members": _living(group),
        "lag": sum(group.lag.values()),
    }


def _member(member: MemberDescription) -> dict[str, object]:
    return {
        **member._asdict(),
        "subscription": sorted(member.subscription),
        "assignment": [tp._asdict() for tp in sorted(member.assignment)],
        "target": [tp._asdict() for tp in sorted(member.target)],
    }


def _member_row(member: MemberDescription) -> tuple[str, str, str, str, str]:
    assignment = format_runs(member.assignment) or "-"
    if member.target != member.assignment:
        assignment += f" -> {format_runs(member.target) or '-'}"
    if member.overdue:
        assignment += " (overdue)"
    return member.member_id, member.group_instance_id or "-", member.client_id, member.host, assignment


def _details(one: Progress) -> dict[str, object]:
    return {
        **one.tp._asdict(),
        "committed": one.committed,
        "metadata": one.metadata,
        "log_end": one.log_end,
        "lag": one.lag,
    }


def _print_progress(progress: list[Progress]) -> None:
    output.print_table(
        ("TOPIC", "PARTITION", "COMMITTED", "END", "LAG"),
        [(*one.tp, _or_dash(one.committed), one.log_end, _or_dash(one.lag)) for one in progress],
    )


def _or_dash(number: int | None) -> int | str:
    return "-" if number is None else number
