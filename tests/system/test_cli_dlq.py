"""``streamlayer dlq``: dead letters are shown as they are, and go back, each once."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import redis

from streamlayer import Admin, Consumer, ConsumerRecord, NewTopic, Producer
from streamlayer._worker import dead_letters
from streamlayer.embedded import Server
from streamlayer.testing import record
from tests import servers
from tests.shell.async_.test_truncation import power_failure
from tests.system.test_cli import Cli
from tests.waiting import sync_wait_until

pytestmark = pytest.mark.system

DEAD = "orders.dead"
Told = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server for all tests of this file."""
    with Server(binary=servers.binary("valkey")) as server:
        yield server.url


@pytest.fixture
def cli(url: str, request: pytest.FixtureRequest) -> Cli:
    """The command, with a namespace that no other test has, and the topics: two origins and their dead letters."""
    made = Cli(url, re.sub(r"[^a-z0-9_]+", "-", request.node.name)[:60])
    with Admin(**made.where) as admin:
        admin.create_topics([NewTopic("orders", 4), NewTopic("refunds", 1), NewTopic(DEAD, 2)])
    return made


@pytest.fixture
def told(cli: Cli, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Told:
    """Run the command in this process: its status and all its words."""
    return partial(cli.here, monkeypatch=monkeypatch, capfd=capfd)


NO_ANSWER = TimeoutError("no answer")
INVALID = ValueError("no answer")


def bury(
    cli: Cli,
    name: str,
    *,
    origin: str = "orders",
    error: Exception = NO_ANSWER,
    partition: int = 0,
    headers: tuple[tuple[str, bytes], ...] = (),
) -> None:
    """Append one dead letter, as a worker does."""
    dead = record(origin, name, f"key {name}", partition=3, offset=117, timestamp_ms=1_700_000_000_000, headers=headers)
    with Producer(**cli.where) as producer:
        said = dead_letters.headers(dead, "billing", error, 5)
        producer.send(DEAD, dead.value, dead.key, partition=partition, headers=said)


def read(cli: Cli, topic: str) -> list[ConsumerRecord]:
    """All records of a topic, those of a partition in order."""
    with Consumer(topic, **cli.where) as consumer:
        return list(consumer.read_to_end())


def values(cli: Cli, topic: str) -> list[str]:
    """What is in a topic, sorted."""
    return sorted(each.value.decode() for each in read(cli, topic))


# --- list -------------------------------------------------------------------------------------------------------------


def test_a_letter_is_shown_with_what_it_says(cli: Cli) -> None:
    """Where it lies, where it comes from, its key, whose it was, how often it was tried, and why it is dead."""
    bury(cli, "one", error=TimeoutError("no\x1b[31m answer"))
    head, line = cli.run("dlq", "list", DEAD)[0].splitlines()
    assert head.split() == ["LETTER", "DIED", "ORIGIN", "KEY", "GROUP", "ATTEMPTS", "REPLAYED", "ERROR"]
    assert re.fullmatch(
        r"0:0 +20\S+ \S+ +orders:3:117 +key one +billing +5 +no +TimeoutError: no\\x1b\[31m answer *", line
    )


def test_letters_in_json(cli: Cli) -> None:
    """A line is an object: the record with all its headers, and beside it what it says."""
    bury(cli, "one", headers=(("source", b"web"),))
    (said,) = map(json.loads, cli.run("dlq", "list", DEAD, "--json")[0].splitlines())
    assert (said["topic"], said["partition"], said["offset"], said["key"], said["value"]) == (
        DEAD,
        0,
        0,
        "key one",
        "one",
    )
    assert said["headers"][0] == {"name": "source", "value": "web"}
    assert said["dead_letter"] == {
        "topic": "orders",
        "partition": 3,
        "offset": 117,
        "timestamp": 1_700_000_000_000,
        "group": "billing",
        "error": "TimeoutError",
        "message": "no answer",
        "attempts": 5,
        "replayed": False,
    }


def test_which_letters_are_shown(cli: Cli, told: Told) -> None:
    """Those of a topic, with an error, in a partition; the newest if there are many; the oldest of them first."""
    for number in range(3):
        bury(cli, f"order {number}")
    bury(cli, "refund", origin="refunds", error=INVALID, partition=1)
    assert re.findall(r"key (\S+ ?\d?)", told("dlq", "list", DEAD)[1]) == ["order 0", "order 1", "order 2", "refund "]
    assert "order" not in told("dlq", "list", DEAD, "--topic", "refunds")[1].split("ERROR")[1]
    assert "refund" not in told("dlq", "list", DEAD, "--error", "TimeoutError")[1]
    assert "refund" not in told("dlq", "list", DEAD, "--partition", "0")[1]
    status, words = told("dlq", "list", DEAD, "--limit", "2")
    assert status == 0
    assert re.findall(r"key (\S+ ?\d?)", words) == ["order 2", "refund "]
    assert words.endswith("The newest 2 of 4; --limit shows more.")
    assert told("dlq", "list", DEAD, "--error", "KeyError") == (0, f"{DEAD} has no such letters.")
    assert told("dlq", "list", "refunds") == (0, "refunds has no letters.")


def test_what_does_not_say_where_it_comes_from_is_shown(cli: Cli, told: Told) -> None:
    """Somebody's own records, or headers that make no sense: no crash, and what can be said is said."""
    with Producer(**cli.where) as producer:
        producer.send(DEAD, b"\xff", partition=0)
        strange = {"dlq.topic": b"orders", "dlq.partition": b"\xb2", "dlq.offset": b"9" * 30, "dlq.error": b"\xff"}
        producer.send(DEAD, b"", partition=1, headers=strange)
    status, words = told("dlq", "list", DEAD)
    assert status == 0
    assert re.search(r"0:0 \S+ \S+ - - - - no - 1:0 \S+ \S+ - - - - no \\xff", words.replace("\\\\", "\\"))


def test_a_topic_that_is_not_there(cli: Cli, told: Told) -> None:
    """It is an error that names the nearest, and nothing is made: no topic, no group."""
    for verb in ("list", "replay"):
        assert told("dlq", verb, "orders.daed") == (
            1,
            f"error: there is no topic 'orders.daed'; did you mean '{DEAD}'?",
        )
    with Admin(**cli.where) as admin:
        assert admin.list_groups() == []
        assert admin.list_topics() == ["orders", DEAD, "refunds"]


# --- replay -----------------------------------------------------------------------------------------------------------


def test_letters_go_back_once(cli: Cli, told: Told) -> None:
    """To their topic, with their key, value and headers, without what the worker added; a second time only new ones."""
    bury(cli, "one", headers=(("source", b"web"), ("source", b"app")))
    bury(cli, "two", origin="refunds", partition=1)
    assert told("dlq", "replay", DEAD) == (0, "replayed 2 letters: 1 to orders, 1 to refunds")
    (back,) = read(cli, "orders")
    assert (back.key, back.value, back.headers) == (b"key one", b"one", (("source", b"web"), ("source", b"app")))
    (back,) = read(cli, "refunds")
    assert (back.key, back.value, back.headers) == (b"key two", b"two", ())
    assert told("dlq", "replay", DEAD) == (0, "replayed 0 letters")
    bury(cli, "three")
    assert told("dlq", "replay", DEAD) == (0, "replayed 1 letter: 1 to orders")
    assert values(cli, "orders") == ["one", "three"]
    with redis.Redis.from_url(
        cli.where["url"]
    ) as client:  # remembered for a year, not as long as other groups' offsets
        kept_ms = client.pttl(f"{cli.where['namespace']}:g:{{dlq-replay}}:offsets")
    assert kept_ms > 364 * 86_400_000
    assert re.findall(r"key (\w+) billing 5 (\w+)", told("dlq", "list", DEAD)[1]) == [
        ("one", "yes"), ("two", "yes"), ("three", "yes"),
    ]  # fmt: skip


def test_bytes_go_back_as_they_were(cli: Cli, told: Told) -> None:
    """A null value, no key, a key that is no text, a batch that was compressed: nothing is lost on the way."""
    pairs: list[tuple[Any, bytes | None]] = [(None, b"\xff\x00"), (b"\xff" * 3000, None), (b"", b"")]
    with Producer(**cli.where, compression_type="gzip") as producer:
        for value, key in pairs:
            dead = record("refunds", value, key)
            said = dead_letters.headers(dead, "billing", NO_ANSWER, 5)
            producer.send(DEAD, dead.value, dead.key, partition=1, headers=said)
    assert told("dlq", "list", DEAD, "--json")[0] == 0
    assert told("dlq", "replay", DEAD) == (0, "replayed 3 letters: 3 to refunds")
    assert [(back.value, back.key) for back in read(cli, "refunds")] == pairs


def test_what_was_left_out_is_replayed_later(cli: Cli, told: Told) -> None:
    """A choice sends what was chosen, and takes nothing away from a later replay, nor does that repeat it."""
    for number in range(6):
        bury(cli, f"{number}", error=(NO_ANSWER, INVALID)[number % 2], partition=number // 4)
    assert told("dlq", "replay", DEAD, "--error", "ValueError")[1] == "replayed 3 letters: 3 to orders"
    assert values(cli, "orders") == ["1", "3", "5"]
    assert re.findall(r"key (\d) billing 5 yes", told("dlq", "list", DEAD)[1]) == ["1", "3", "5"]
    assert told("dlq", "replay", DEAD, "--topic", "refunds")[1] == "replayed 0 letters"
    assert told("dlq", "replay", DEAD, "--partition", "0", "--limit", "1")[1] == "replayed 1 letter: 1 to orders"
    assert values(cli, "orders") == ["0", "1", "3", "5"]
    assert told("dlq", "replay", DEAD)[1] == "replayed 2 letters: 2 to orders"
    assert values(cli, "orders") == ["0", "1", "2", "3", "4", "5"]
    with Admin(**cli.where) as admin:
        stored = admin.list_group_offsets("dlq-replay")
    assert {(tp.partition, at.offset, at.metadata) for tp, at in stored.items()} == {(0, 4, ""), (1, 2, "")}


def test_one_letter_by_its_place(cli: Cli, told: Told) -> None:
    """It goes as often as it is named; the others are as they were."""
    for number in range(3):
        bury(cli, f"{number}")
    for _ in range(2):
        assert told("dlq", "replay", DEAD, "--partition", "0", "--offset", "1")[1] == "replayed 1 letter: 1 to orders"
    assert values(cli, "orders") == ["1", "1"]
    assert told("dlq", "replay", DEAD)[1] == "replayed 2 letters: 2 to orders"
    assert values(cli, "orders") == ["0", "1", "1", "2"]
    assert told("dlq", "replay", DEAD, "--partition", "0", "--offset", "9")[1] == "replayed 0 letters"
    assert "--offset needs --partition" in told("dlq", "replay", DEAD, "--offset", "1")[1]


def test_a_dry_run_changes_nothing(cli: Cli, told: Told) -> None:
    """It shows what would go, and where to; no record, no group, no offset comes of it."""
    bury(cli, "one")
    bury(cli, "two", error=INVALID)
    status, words = told("dlq", "replay", DEAD, "--dry-run", "--error", "ValueError", "--to", "refunds")
    assert status == 0
    assert "key two billing 5 no ValueError: no answer" in words
    assert "key one" not in words
    assert words.endswith("would replay 1 letter: 1 to refunds")
    assert told("dlq", "replay", DEAD, "--dry-run", "--limit", "1")[1].endswith("would replay 1 letter: 1 to orders")
    assert values(cli, "orders") == values(cli, "refunds") == []
    with Admin(**cli.where) as admin:
        assert admin.list_groups() == []
    told("dlq", "replay", DEAD, "--error", "ValueError")
    assert told("dlq", "replay", DEAD, "--dry-run")[1].endswith("would replay 1 letter: 1 to orders")


def test_to_another_topic(cli: Cli, told: Told) -> None:
    """All of them may go elsewhere, also those that do not say where they come from; not where they are."""
    bury(cli, "one")
    with Producer(**cli.where) as producer:
        producer.send(DEAD, b"stray", partition=0)
    said = "replayed 1 letter: 1 to orders 1 do not say where they come from: --to sends them somewhere."
    assert told("dlq", "replay", DEAD) == (0, said)
    assert told("dlq", "replay", DEAD, "--to", "refunds") == (0, "replayed 1 letter: 1 to refunds")
    assert (values(cli, "orders"), values(cli, "refunds")) == (["one"], ["stray"])
    assert "they are there already" in told("dlq", "replay", DEAD, "--to", DEAD)[1]


def test_a_topic_that_is_gone(cli: Cli, told: Told) -> None:
    """Where a letter cannot go back it is told, no topic is made, and what went before it does not go again."""
    bury(cli, "one")
    bury(cli, "two", origin="gone")
    bury(cli, "three")
    status, words = told("dlq", "replay", DEAD)
    assert status == 1
    assert "'gone'" in words
    assert "What was sent before is remembered." in words
    assert told("dlq", "replay", DEAD, "--topic", "orders")[1] == "replayed 1 letter: 1 to orders"
    assert told("dlq", "replay", DEAD, "--to", "refunds")[1] == "replayed 1 letter: 1 to refunds"
    assert (values(cli, "orders"), values(cli, "refunds")) == (["one", "three"], ["two"])
    with Admin(**cli.where) as admin:
        assert "gone" not in admin.list_topics()


def test_too_scattered_to_be_remembered(cli: Cli, told: Told) -> None:
    """What cannot be remembered is not sent: the error says what to replay first."""
    with Admin(**cli.where) as admin, Producer(**cli.where) as producer:
        admin.create_topics([NewTopic("many.dead", 1)])
        said = [("dlq.topic", b"orders"), ("dlq.partition", b"0")]
        for number in range(16_000):
            error = (b"TimeoutError", b"ValueError")[number % 2]
            producer.send("many.dead", b"%d" % number, headers=[*said, ("dlq.error", error)])
    status, words = told("dlq", "replay", "many.dead", "--error", "ValueError")
    assert status == 1
    assert "many.dead[0]: too many letters were left out" in words
    went = len(values(cli, "orders"))
    assert 2_000 < went < 8_000
    assert told("dlq", "replay", "many.dead")[1] == f"replayed {16_000 - went:,} letters: {16_000 - went:,} to orders"
    assert values(cli, "orders") == sorted(map(str, range(16_000)))


def test_two_replays_share_the_letters(cli: Cli, told: Told) -> None:
    """While another member of the group has partitions, the rest is replayed, and that is said; then the others."""
    bury(cli, "one", partition=0)
    bury(cli, "two", partition=1)
    with Consumer(DEAD, group_id="dlq-replay", enable_auto_commit=False, **cli.where) as other:
        other.poll(timeout_ms=5000)
        beside = cli.start("dlq", "replay", DEAD)
        with beside as process:
            while process.poll() is None:
                other.poll(timeout_ms=100)
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.read() == b"replayed 1 letter: 1 to orders\n"
            assert b"Another replay of orders.dead is at work on the rest." in process.stderr.read()
    assert told("dlq", "replay", DEAD)[1] == "replayed 1 letter: 1 to orders"
    assert values(cli, "orders") == ["one", "two"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_a_replay_that_is_ended(cli: Cli, told: Told, number: signal.Signals) -> None:
    """Wherever Ctrl-C or a kill meets it, the next one sends the rest: none is lost, and 500 go twice at most."""
    letters = 50_000
    with Producer(**cli.where) as producer:
        said = dead_letters.headers(record("orders", b""), "billing", NO_ANSWER, 5)
        for each in range(letters):
            producer.send(DEAD, b"%d" % each, partition=each % 2, headers=said)
    with cli.start("dlq", "replay", DEAD) as process, Admin(**cli.where) as admin:

        def gone_back() -> int:
            return sum(log.log_end for log in admin.describe_topics(["orders"])["orders"].partitions)

        sync_wait_until(gone_back, "the first are back")
        process.send_signal(number)
        status = process.wait(30)
        assert status == (130 if number == signal.SIGINT else -signal.SIGKILL)
        assert gone_back() < letters
        members = admin.describe_groups(["dlq-replay"])["dlq-replay"].members
        assert bool(members) == (number == signal.SIGKILL)
        admin.remove_group_members("dlq-replay", [member.member_id for member in members])
    assert told("dlq", "replay", DEAD)[0] == 0
    back = values(cli, "orders")
    assert {*back} == {str(each) for each in range(letters)}
    assert len(back) - letters <= 500


def test_a_letter_under_the_offset_of_a_lost_one_goes() -> None:
    """What was replayed is gone from the log, and another letter lies there: that one was not replayed, and is now.

    Group and log lie on one server here, which never loses one of them alone; so the group is put back by hand.
    """
    with Server(binary=servers.binary("valkey"), port=0) as server:
        cli = Cli(server.url, "sl")
        with Admin(**cli.where) as admin:
            admin.create_topics([NewTopic("orders", 1), NewTopic(DEAD, 1)])
        for name in ("left out", "also left out"):
            bury(cli, name)
        with power_failure(server):
            for number in range(3):
                bury(cli, f"lost {number}", error=INVALID)
            assert cli.run("dlq", "replay", DEAD, "--error", "ValueError")[0] == "replayed 3 letters: 3 to orders\n"
            group = servers.copy_keys(server.url, "sl:g:{dlq-replay}:*")
        servers.put_back(server.url, group)
        bury(cli, "new", error=INVALID)
        assert re.findall(r" 5 +(yes|no) ", cli.run("dlq", "list", DEAD)[0]) == ["no"] * 3
        assert cli.run("dlq", "replay", DEAD, "--error", "ValueError")[0] == "replayed 1 letter: 1 to orders\n"
        assert values(cli, "orders") == ["new"]
        cli.run("dlq", "replay", DEAD)
        assert {*values(cli, "orders")} == {"new", "left out", "also left out"}
