"""What type checkers must accept of an administrator of groups, and what they must refuse. See ``producers``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import assert_type

from streamlayer import (
    Admin,
    GroupDescription,
    MemberDescription,
    OffsetAndMetadata,
    OffsetChange,
    TopicPartition,
    aio,
)

PLACE = TopicPartition("orders", 0)


def groups_are_described() -> None:
    with Admin() as admin:
        assert_type(admin.list_groups(), list[str])
        assert_type(admin.describe_groups(), dict[str, GroupDescription])
        group = admin.describe_groups(["billing"])["billing"]
        assert_type(group.members, tuple[MemberDescription, ...])
        assert_type(group.lag, dict[TopicPartition, int])
        assert_type(group.members[0].assignment, frozenset[TopicPartition])
        assert_type(group.members[0].group_instance_id, str | None)
        assert_type(group.members[0].overdue, bool)
        assert_type(admin.remove_group_members("billing", ["one"]), int)
        admin.delete_groups(["billing"])
        admin.delete_groups(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        admin.describe_groups([PLACE])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


def offsets_are_set() -> None:
    with Admin() as admin:
        assert_type(admin.list_group_offsets("billing"), dict[TopicPartition, OffsetAndMetadata])
        admin.list_group_offsets("billing", topics=["orders"])
        admin.list_group_offsets("billing", ["orders"])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        admin.alter_group_offsets("billing", {PLACE: 3})
        admin.alter_group_offsets("billing", {PLACE: OffsetAndMetadata(3, "by hand")})
        admin.alter_group_offsets("billing", {"orders": 3})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
        admin.alter_group_offsets("billing", {PLACE: "3"})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]


def offsets_are_reset() -> None:
    with Admin() as admin:
        changes = admin.reset_group_offsets("billing", "earliest", topics=["orders"], partitions=[PLACE], dry_run=True)
        assert_type(changes, dict[TopicPartition, OffsetChange])
        assert_type(changes[PLACE].before, int | None)
        assert_type(changes[PLACE].after, int)
        admin.reset_group_offsets("billing", to=7)
        admin.reset_group_offsets("billing", datetime.now(UTC))
        admin.reset_group_offsets("billing", shift_by=-10)
        admin.reset_group_offsets("billing", "beginning")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        admin.reset_group_offsets("billing", None, -10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def the_async_twin_is_awaited() -> None:
    async with aio.Admin() as admin:
        assert_type(await admin.list_groups(), list[str])
        assert_type(await admin.describe_groups(["billing"]), dict[str, GroupDescription])
        assert_type(await admin.list_group_offsets("billing"), dict[TopicPartition, OffsetAndMetadata])
        await admin.alter_group_offsets("billing", {PLACE: 3})
        assert_type(await admin.reset_group_offsets("billing", "latest"), dict[TopicPartition, OffsetChange])
        assert_type(await admin.remove_group_members("billing", ["one"]), int)
        admin.describe_groups().items()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
