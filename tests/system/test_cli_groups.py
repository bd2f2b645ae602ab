"""``streamlayer groups``, ``lag`` and ``consume --group``, in processes of their own, against a real server."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial

import pytest
import redis

from streamlayer import Admin, Consumer, Producer, TopicPartition
from streamlayer._core import group_calls
from streamlayer._core.group_calls import TopicCount
from streamlayer._core.keys import group_keys
from streamlayer.embedded import Server
from tests import servers
from tests.system.test_cli import Cli, ended, read_line, values
from tests.waiting import sync_wait_until

pytestmark = pytest.mark.system

BASE = int(time.time() * 1000) - 3_600_000
T0, T1 = TopicPartition("t", 0), TopicPartition("t", 1)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server for all tests of this file."""
    with Server(binary=servers.binary("valkey")) as server:
        yield server.url


@pytest.fixture
def cli(url: str, request: pytest.FixtureRequest) -> Cli:
    """The command, with a namespace that no other test has, and a topic t with 6 and 4 records, a second apart."""
    made = Cli(url, re.sub(r"[^a-z0-9_]+", "-", request.node.name)[:60])
    with Producer(**made.where, num_partitions=2) as producer:
        for partition, count in enumerate((6, 4)):
            times = [BASE + 1000 * number for number in range(count)]
            lines = [b"%d:%d" % (partition, number) for number in range(count)]
            producer.send_many("t", lines, partition=partition, timestamps_ms=times)
    return made


@pytest.fixture
def told(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run the command in this process: its status and all its words."""
    return partial(cli.here, monkeypatch=monkeypatch, capfd=capfd)


def commit(cli: Cli, group: str, first: int, second: int) -> None:
    """Have a group that has committed these two."""
    with Consumer("t", group_id=group, enable_auto_commit=False, **cli.where) as consumer:
        consumer.wait_for_assignment(timeout_ms=10_000)
        consumer.commit({T0: first, T1: second})


def committed(cli: Cli, group: str) -> list[int]:
    """What the group has stored."""
    with Admin(**cli.where) as admin:
        return [at.offset for at in admin.list_group_offsets(group).values()]


def table(out: str) -> list[list[str]]:
    """The words of each line."""
    return [line.split() for line in out.splitlines()]


def test_groups_are_listed_and_described(cli: Cli) -> None:
    """State, members with client, host and assignment, offsets with log end and lag; as tables and as JSON."""
    assert cli.run("groups", "list")[0] == ""
    assert "There are no groups" in cli.run("groups", "list")[1]
    commit(cli, "idle", 2, 4)
    with Consumer("t", group_id="busy", group_instance_id="one", client_id="app", **cli.where) as consumer:
        consumer.wait_for_assignment(timeout_ms=10_000)
        assert table(cli.run("groups", "list")[0]) == [
            ["GROUP", "STATE", "MEMBERS", "LAG"], ["busy", "Stable", "1", "10"], ["idle", "Empty", "0", "4"],
        ]  # fmt: skip
        head, columns, member, blank, *progress = table(cli.run("groups", "describe", "busy")[0])
        (described,) = [json.loads(cli.run("groups", "describe", "busy", "--json")[0])]
    assert (head, blank) == (["busy", "Stable"], [])
    assert columns == ["MEMBER", "INSTANCE", "CLIENT", "HOST", "ASSIGNMENT"]
    assert [member[1], member[2], member[4]] == ["one", "app", "t:0-1"]
    assert progress == [
        ["TOPIC", "PARTITION", "COMMITTED", "END", "LAG"], ["t", "0", "0", "6", "6"], ["t", "1", "0", "4", "4"],
    ]  # fmt: skip
    assert (described["state"], described["lag"]) == ("Stable", 10)
    assert described["members"][0]["assignment"] == [{"topic": "t", "partition": n} for n in range(2)]
    assert described["members"][0]["client_id"] == "app"
    assert table(cli.run("groups", "describe", "idle")[0]) == [
        ["idle", "Empty"],
        ["TOPIC", "PARTITION", "COMMITTED", "END", "LAG"], ["t", "0", "2", "6", "4"], ["t", "1", "4", "4", "0"],
    ]  # fmt: skip
    listed = json.loads(cli.run("groups", "list", "--json")[0])
    assert {group["group_id"]: group["lag"] for group in listed} == {"busy": 10, "idle": 4}


def test_lag(cli: Cli) -> None:
    """One row a partition, and the sum; the same in JSON."""
    commit(cli, "g", 2, 4)
    assert table(cli.run("lag", "g")[0]) == [
        ["TOPIC", "PARTITION", "COMMITTED", "END", "LAG"], ["t", "0", "2", "6", "4"], ["t", "1", "4", "4", "0"],
        ["4", "records", "behind"],
    ]  # fmt: skip
    assert json.loads(cli.run("lag", "g", "--json")[0]) == {
        "group_id": "g",
        "lag": 4,
        "partitions": [
            {"topic": "t", "partition": 0, "committed": 2, "metadata": "", "log_end": 6, "lag": 4},
            {"topic": "t", "partition": 1, "committed": 4, "metadata": "", "log_end": 4, "lag": 0},
        ],
    }
    with Admin(**cli.where) as admin:
        admin.delete_topics(["t"])
    assert cli.run("lag", "g")[0] == "0 records behind\n"
    assert "no group 'f' in namespace" in cli.mistake("lag", "f")


def test_offsets_are_reset(cli: Cli) -> None:
    """To the ends, an offset, a time, or by so many, of all or some; each change is shown, and a dry run makes none."""
    commit(cli, "g", 2, 3)
    reset = ("groups", "reset-offsets", "g")
    out, err = cli.run(*reset, "--to", "latest", "--dry-run")
    assert out == "t[0] 2 -> 6\nt[1] 3 -> 4\n"
    assert "Nothing was changed" in err
    assert committed(cli, "g") == [2, 3]
    assert cli.run(*reset, "--to", "latest") == (out, "")
    assert committed(cli, "g") == [6, 4]
    moment = datetime.fromtimestamp((BASE + 1500) / 1000, UTC).isoformat()
    assert cli.run(*reset, "--to", moment)[0] == "t[0] 6 -> 2\nt[1] 4 -> 2\n"
    assert cli.run(*reset, "--to", "-2h", "--partition", "t:1")[0] == "t[1] 2 -> 0\n"
    assert cli.run(*reset, "--shift-by", "-1", "--topic", "t")[0] == "t[0] 2 -> 1\nt[1] 0 -> 0\n"
    assert json.loads(cli.run(*reset, "--to", "3", "--json")[0]) == [
        {"topic": "t", "partition": 0, "before": 1, "after": 3},
        {"topic": "t", "partition": 1, "before": 0, "after": 3},
    ]
    cli.run("topics", "create", "new", "--partitions", "1")
    assert cli.run(*reset, "--to", "earliest", "--topic", "new")[0] == "new[0] none -> 0\n"
    assert cli.run(*reset, "--to", "earliest")[0] == "new[0] 0 -> 0\nt[0] 3 -> 0\nt[1] 3 -> 0\n"


def test_offsets_that_cannot_be_reset(cli: Cli, told: Callable[..., tuple[int, str]]) -> None:
    """Nowhere, two places, nonsense, no such group, topic or partition, or a living group: told, nothing changed."""
    commit(cli, "billing", 2, 3)
    reset = ("groups", "reset-offsets", "billing")
    for args, status, words in (
        ((), 2, "where to?"),
        (("--to", "0", "--shift-by", "1"), 2, "where to?"),
        (("--to", "tomorrow"), 2, "give `earliest`, `latest`, an offset like 1200"),
        (("--to", "0", "--partition", "t"), 2, "'t' is not TOPIC:N"),
        (("--to", "0", "--partition", "t:7"), 1, "0 to 1, not 7"),
        (("--to", "0", "--topic", "nope"), 1, "there is no topic 'nope'"),
    ):
        was, said = told(*reset, *args)
        assert (was, words in said) == (status, True), said
    assert "did you mean 'billing'?" in told("groups", "reset-offsets", "biling", "--to", "0")[1]
    with Consumer("t", group_id="billing", enable_auto_commit=False, **cli.where) as consumer:
        consumer.wait_for_assignment(timeout_ms=10_000)
        said = cli.mistake(*reset, "--to", "earliest")
        assert said.startswith("error: group billing has 1 member: ")
        assert "Stop them" in said
        assert cli.run(*reset, "--to", "earliest", "--dry-run")[0] == "t[0] 2 -> 0\nt[1] 3 -> 0\n"
    assert committed(cli, "billing") == [2, 3]


def test_groups_are_deleted(cli: Cli) -> None:
    """After a yes; not one that is not there, and not one that lives."""
    for group in ("a", "b", "c"):
        commit(cli, group, 1, 1)
    for answer in (b"", b"n\n"):
        assert "Delete a, b with 4 offsets?" in cli.run("groups", "delete", "a", "b", given=answer, status=1)[1]
    assert "no group 'x'" in cli.mistake("groups", "delete", "a", "x", "--yes")
    assert cli.run("groups", "delete", "a", given=b"y\n")[0].endswith("deleted a\n")
    with Consumer("t", group_id="b", **cli.where) as consumer:
        consumer.wait_for_assignment(timeout_ms=10_000)
        assert "group b has 1 member" in cli.mistake("groups", "delete", "b", "--yes")
    assert cli.run("groups", "delete", "b", "c", "--yes")[0] == "deleted b\ndeleted c\n"
    assert cli.run("groups", "list")[0] == ""


def test_members_are_removed(cli: Cli, told: Callable[..., tuple[int, str]]) -> None:
    """A static member that is gone for good has its partitions until somebody says so; a wrong id is told."""
    with Consumer("t", group_id="g", group_instance_id="one", **cli.where) as consumer:
        consumer.wait_for_assignment(timeout_ms=10_000)
    assert table(cli.run("groups", "list")[0])[1][1:3] == ["Stable", "1"]
    status, said = told("groups", "remove-members", "g", "one", "two")
    assert (status, "no member 'two'; it has one" in said) == (2, True)
    assert cli.run("groups", "remove-members", "g", "one")[0] == "removed one\n"
    assert table(cli.run("groups", "list")[0])[1][1:3] == ["Empty", "0"]
    assert "it has none" in told("groups", "remove-members", "g", "one")[1]


def test_members_that_died_are_shown_as_overdue(cli: Cli) -> None:
    """Nobody counts them any more; describe shows what they had, until somebody joins or puts them out."""
    with Admin(**cli.where) as admin:
        call = group_calls.heartbeat(
            group_keys(cli.where["namespace"], "g"), member="m1", call=1, applied=0, session_ms=100, interval_ms=10,
            retention_ms=60_000, description="app@host", subscription=("t",), topics={"t": TopicCount(2, 2)},
        )  # fmt: skip
        reply = admin._client.call(call)
        admin._client.call(group_calls.enlist_group(cli.where["namespace"], "g", reply.time))
        sync_wait_until(lambda: admin.describe_groups()["g"].members[0].overdue, "its session to be over")
    assert table(cli.run("groups", "list")[0])[1] == ["g", "Empty", "0", "0"]
    member = table(cli.run("groups", "describe", "g")[0])[2]
    assert member == ["m1", "-", "app", "host", "t:0-1", "(overdue)"]
    (described,) = json.loads(cli.run("groups", "describe", "g", "--json")[0])["members"]
    assert described["overdue"] is True
    assert cli.run("groups", "remove-members", "g", "m1")[0] == "removed m1\n"
    assert json.loads(cli.run("groups", "describe", "g", "--json")[0])["members"] == []


def test_consume_in_a_group_without_commit(cli: Cli) -> None:
    """What is printed comes again next time: the group stands where it was."""
    commit(cli, "g", 4, 3)
    for _ in range(2):
        assert sorted(values(cli.run("consume", "t", "--group", "g", "--no-follow")[0])) == ["0:4", "0:5", "1:3"]
        assert committed(cli, "g") == [4, 3]


def test_consume_in_a_group_with_commit(cli: Cli) -> None:
    """What was printed, and no more, is behind the group; a new one begins at the beginning, or where --from says."""
    consume = ("consume", "t", "--group", "g", "--commit")
    first = values(cli.run(*consume, "--max", "3")[0])
    assert len(first) == 3
    assert sum(committed(cli, "g")) == 3
    rest = values(cli.run(*consume, "--no-follow")[0])
    assert sorted(first + rest) == [f"0:{n}" for n in range(6)] + [f"1:{n}" for n in range(4)]
    assert committed(cli, "g") == [6, 4]
    assert cli.run(*consume, "--no-follow", "--json")[0] == ""
    assert cli.run("consume", "t", "--group", "new", "--from", "end", "--commit", "--no-follow")[0] == ""
    assert committed(cli, "new") == [6, 4]


def test_consume_in_a_group_commits_on_the_way_and_when_it_is_ended(cli: Cli) -> None:
    """What was printed is committed by Ctrl-C, and after some seconds by a process that is killed later, too."""
    consume = ("consume", "t", "--group", "g", "--commit")
    with cli.start(*consume) as process:
        assert len([read_line(process) for _ in range(10)]) == 10
        with Producer(**cli.where) as producer:
            producer.send("t", b"more", partition=1)
        assert values(read_line(process)) == ["more"]
        # Until its next poll it has these in hand: an end before that leaves them to be printed again.
        meta = f"{cli.where['namespace']}:t:{{t:1}}:meta"
        with redis.Redis.from_url(cli.where["url"]) as client:
            sync_wait_until(lambda: client.hget(meta, "armed"), "the next poll to have reached the end")
        process.send_signal(signal.SIGINT)
        assert ended(process) == (130, "")
    assert committed(cli, "g") == [6, 5]
    with cli.start(*consume) as process, Producer(**cli.where) as producer:
        producer.send("t", b"and more", partition=1)
        assert values(read_line(process)) == ["and more"]
        sync_wait_until(lambda: committed(cli, "g") == [6, 6], "the offset to be committed on the way", timeout=20)
        process.kill()


def test_consume_in_a_group_when_the_reader_goes_away(cli: Cli) -> None:
    """What nobody read from the pipe is not committed."""
    cli.fill("many", *(b"%d" % number for number in range(20_000)))
    with cli.start("consume", "many", "--group", "g", "--commit") as process:
        assert read_line(process)
        assert process.stdout is not None
        process.stdout.close()
        assert ended(process) == (141, "")
    assert committed(cli, "g")[0] < 20_000


def test_consume_in_a_group_what_cannot_be(told: Callable[..., tuple[int, str]]) -> None:
    """A commit without a group, a partition or an offset to begin at, no such topic: told, and no group was made."""
    group = ("consume", "t", "--group", "g")
    for args, status, words in (
        (("consume", "t", "--commit"), 2, "--commit needs --group"),
        ((*group, "--partition", "0"), 2, "the group says who reads what"),
        ((*group, "--from", "3"), 2, "reset-offsets"),
        ((*group, "--from", "2h ago"), 2, "reset-offsets"),
        (("consume", "nope", "--group", "g", "--no-follow"), 1, "there is no topic 'nope'"),
        (("groups", "list"), 0, "There are no groups"),
    ):
        was, said = told(*args)
        assert (was, words in said) == (status, True), said


def test_two_who_consume_in_a_group_share_its_partitions(cli: Cli) -> None:
    """Each has one of two; when one ends, the other reads all."""
    commit(cli, "g", 6, 4)
    with cli.start("consume", "t", "--group", "g") as one, cli.start("consume", "t", "--group", "g") as two:
        with Admin(**cli.where) as admin:

            def shared() -> bool:
                group = admin.describe_groups(["g"])["g"]
                return group.state == "Stable" and [len(each.assignment) for each in group.members] == [1, 1]

            sync_wait_until(shared, "each to have a partition", timeout=20)
        with Producer(**cli.where) as producer:
            for partition in range(2):
                producer.send("t", b"%d" % partition, partition=partition)
        first, second = values(read_line(one)), values(read_line(two))
        assert sorted(first + second) == ["0", "1"]
        one.send_signal(signal.SIGINT)
        assert ended(one) == (130, "")
        assert values(read_line(two)) == first  # nothing was committed
