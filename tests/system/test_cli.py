"""The command ``streamlayer``, run as people run it: in processes of its own, against a real server."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from streamlayer import Admin, Consumer, Producer, TopicConfig, TopicPartition
from streamlayer._cli import main
from streamlayer.embedded import Server
from tests import servers
from tests.waiting import sync_wait_until

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "streamlayer._cli"]
WITHOUT_EXTRAS = "import sys; sys.modules[%r] = None; from streamlayer._cli import main; main()"
LINES_OF_A_FULL_PIPE = 20_000  # far more than a pipe holds


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server for all tests of this file."""
    with Server(binary=servers.binary("valkey")) as server:
        yield server.url


@pytest.fixture
def cli(url: str, request: pytest.FixtureRequest) -> Cli:
    """The command, with a namespace that no other test has."""
    return Cli(url, re.sub(r"[^a-z0-9_]+", "-", request.node.name)[:60])


class Cli:
    """The command and the environment in which it runs."""

    def __init__(self, url: str, namespace: str) -> None:
        self.where = {"url": url, "namespace": namespace}
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "STREAMLAYER_URL": url, "NO_COLOR": "1"}
        self.options = ["--namespace", namespace]

    def run(self, *args: str, given: bytes = b"", status: int = 0) -> tuple[str, str]:
        """Run it to its end, with this status; what it wrote to stdout and stderr."""
        done = subprocess.run(
            [*COMMAND, *self.options, *args],
            check=False, input=given, capture_output=True, env=self.environment, timeout=60,
        )  # fmt: skip
        out, err = done.stdout.decode(), done.stderr.decode()
        assert done.returncode == status, err
        assert "Traceback" not in err
        return out, err

    def mistake(self, *args: str, status: int = 1, given: bytes = b"") -> str:
        """Run it with a mistake: nothing on stdout, no traceback; what it says of it, as one line of words."""
        out, err = self.run(*args, given=given, status=status)
        assert out == ""
        return " ".join(err.replace("│", " ").split())

    def here(self, *args: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
        """Run it in this process, where starting costs nothing; its status and all its words, as one line."""
        monkeypatch.setenv("STREAMLAYER_URL", self.where["url"])
        monkeypatch.setattr(sys, "argv", ["streamlayer", *self.options, *args])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capfd.readouterr()
        return int(left.value.code or 0), " ".join((out + err).replace("│", " ").split())

    @contextlib.contextmanager
    def start(self, *args: str, stdin: int | None = None) -> Generator[subprocess.Popen[bytes]]:
        """Run it beside the test."""
        with subprocess.Popen(
            [*COMMAND, *self.options, *args],
            stdin=subprocess.PIPE if stdin is None else stdin,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environment,
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                process.kill()

    def fill(self, topic: str, *values: bytes) -> None:
        """Append these values to the topic's partition 0, of one."""
        with Producer(**self.where, num_partitions=1) as producer:
            producer.send_many(topic, values)


def read_line(process: subprocess.Popen[bytes]) -> str:
    """The next line of its stdout."""
    assert process.stdout is not None
    return process.stdout.readline().decode().rstrip("\n")


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Its status once it has ended, and what it wrote to stderr."""
    assert process.stderr is not None
    err = process.stderr.read().decode()
    return process.wait(30), err


# --- topics -----------------------------------------------------------------------------------------------------------


def test_topics(cli: Cli) -> None:
    """A topic is created with partitions and settings, listed, described and deleted."""
    out, _ = cli.run("topics", "create", "orders", "--partitions", "3", "--config", "retention.ms=3600000")
    assert out == "created orders\n"
    cli.fill("other", b"one", b"two")
    out, _ = cli.run("topics", "list")
    assert [line.split()[:3] for line in out.splitlines()] == [
        ["TOPIC", "PARTITIONS", "RECORDS"], ["orders", "3", "0"], ["other", "1", "2"],
    ]  # fmt: skip
    out, _ = cli.run("topics", "describe", "orders")
    assert "  retention_ms = 3600000  (topic)\n" in out
    assert "  max_message_bytes = 1114112  (default)\n" in out
    assert f"  segment_bytes = {TopicConfig().segment_limit}  (derived)\n" in out
    assert len([line for line in out.splitlines() if line.split()[1:3] == ["0", "0"]]) == 3
    assert cli.run("topics", "delete", "orders", "--yes")[0] == "deleted orders\n"
    with Admin(**cli.where) as admin:
        assert admin.list_topics() == ["other"]


def test_topics_in_json(cli: Cli) -> None:
    """What is listed and described can be read by programs too."""
    cli.fill("orders", b"one")
    (listed,) = json.loads(cli.run("topics", "list", "--json")[0])
    assert (listed["name"], listed["partitions"], listed["records"]) == ("orders", 1, 1)
    (described,) = json.loads(cli.run("topics", "describe", "orders", "--json")[0])
    assert described["topic_id"] == listed["topic_id"]
    assert described["config"]["retention_bytes"] == 268_435_456
    assert described["options"]["retention_bytes"] == {"value": 268_435_456, "source": "default"}
    assert described["partitions"][0]["log_end"] == 1


def test_creating_what_exists(cli: Cli) -> None:
    """A topic that exists is an error, and is left alone with --exist-ok."""
    cli.fill("orders", b"one")
    assert "--exist-ok" in cli.mistake("topics", "create", "orders")
    out, _ = cli.run("topics", "create", "orders", "new", "--exist-ok")
    assert out == "orders exists already\ncreated new\n"
    assert cli.run("consume", "orders", "--no-follow")[0].endswith("one\n")


def test_deleting_asks(cli: Cli) -> None:
    """Nothing is deleted without a yes; a topic that is not there is an error unless --missing-ok."""
    cli.fill("orders", b"one")
    for answer in (b"", b"n\n", b"\n"):
        _, err = cli.run("topics", "delete", "orders", given=answer, status=1)
        assert "Delete orders with 1 records?" in err
    assert "nope" in cli.mistake("topics", "delete", "orders", "nope", "--yes")
    assert cli.run("topics", "list")[0].count("orders") == 1
    assert cli.run("topics", "delete", "orders", given=b"y\n")[0].endswith("deleted orders\n")
    assert cli.run("topics", "delete", "orders", "--yes", "--missing-ok")[0] == "orders does not exist\n"


def test_altering(cli: Cli) -> None:
    """Settings change by either name, without a value they go back to the default; partitions are added."""
    cli.run("topics", "create", "orders", "--partitions", "1", "--config", "retention_ms=1000")
    out, _ = cli.run("topics", "alter", "orders", "--config", "retention.ms=-1", "--config", "segment.bytes=20000")
    assert out == "altered orders\n  retention_ms = no limit  (topic)\n  segment_bytes = 20000  (topic)\n"
    out, _ = cli.run("topics", "alter", "orders", "--config", "segment_bytes=", "--partitions", "3")
    assert out == f"altered orders\n  segment_bytes = {TopicConfig().segment_limit}  (derived)\n  3 partitions\n"
    assert cli.run("topics", "alter", "orders", "--partitions", "3")[0] == "altered orders\n  3 partitions\n"
    (described,) = json.loads(cli.run("topics", "describe", "orders", "--json")[0])
    assert described["config"]["retention_ms"] == -1
    assert described["config"]["segment_bytes"] is None
    assert len(described["partitions"]) == 3


def test_altering_what_cannot_be(cli: Cli) -> None:
    """Nothing to change, a bad setting, one that stays, fewer partitions, no such topic: told, and nothing changed."""
    cli.run("topics", "create", "orders", "--partitions", "2")
    alter = ("topics", "alter", "orders")
    assert "what is to change?" in cli.mistake(*alter, status=2)
    assert "did you mean 'retention_ms'" in cli.mistake(*alter, "--config", "retention=1")
    assert "did you mean 'retention_ms'" in cli.mistake(*alter, "--config", "retention=")
    assert "retention_ms='soon'" in cli.mistake(*alter, "--config", "retention.ms=soon")
    assert "decided when a topic is created" in cli.mistake(*alter, "--config", "partitioner=murmur2")
    assert "it cannot have fewer (1)" in cli.mistake(*alter, "--partitions", "1")
    assert "there is no topic 'nope'" in cli.mistake("topics", "alter", "nope", "--partitions", "3")
    with Admin(**cli.where) as admin:
        topic = admin.describe_topics(["orders"])["orders"]
    assert len(topic.partitions) == 2
    assert not topic.config.model_fields_set


def test_deleting_records(cli: Cli) -> None:
    """It asks, with the number of records; then those before the offset are gone, or all."""
    with Producer(**cli.where, num_partitions=2) as producer:
        for partition in range(2):
            producer.send_many("orders", [b"%d" % number for number in range(10)], partition=partition)
    some = ("topics", "delete-records", "orders", "--partition", "1", "--before", "4")
    for answer in (b"", b"n\n", b"\n"):
        assert "Delete 4 records of orders?" in cli.run(*some, given=answer, status=1)[1]
    assert len(cli.run("consume", "orders", "--no-follow", "--from", "beginning")[0].splitlines()) == 20
    assert cli.run(*some, given=b"y\n")[0].endswith("orders[1] begins at 4\n")
    assert len(cli.run("consume", "orders", "--no-follow", "--from", "beginning")[0].splitlines()) == 16
    assert cli.run(*some, "--yes")[0] == "orders[1] begins at 4\n"
    everything = ("topics", "delete-records", "orders", "--all")
    assert "Delete 16 records of orders?" in cli.run(*everything, status=1)[1]
    assert cli.run(*everything, "--partition", "0", "--yes")[0] == "orders[0] begins at 10\n"
    assert cli.run(*everything, "--yes")[0] == "orders[0] begins at 10\norders[1] begins at 10\n"
    assert cli.run("consume", "orders", "--no-follow", "--from", "beginning")[0] == ""


def test_deleting_records_that_are_not_there(cli: Cli) -> None:
    """Neither or both ways to say which, a partition or an offset that there is not: told before anything is asked."""
    cli.fill("orders", b"one")
    delete = ("topics", "delete-records", "orders")
    assert "which records?" in cli.mistake(*delete, status=2)
    assert "which records?" in cli.mistake(*delete, "--all", "--partition", "0", "--before", "1", status=2)
    assert "--before needs --partition" in cli.mistake(*delete, "--before", "1", status=2)
    assert "--before" in cli.mistake(*delete, "--partition", "0", "--before", "-1", status=2)
    assert "has the partitions 0 to 0, not 3" in cli.mistake(*delete, "--partition", "3", "--all")
    assert "from 0 to before 1" in cli.mistake(*delete, "--partition", "0", "--before", "2", "--yes")
    assert "there is no topic 'nope'" in cli.mistake("topics", "delete-records", "nope", "--all", "--yes")
    assert cli.run("consume", "orders", "--no-follow")[0].endswith("one\n")


def test_checking(cli: Cli) -> None:
    """One line where all is well; else status 1 and what contradicts, as a table or as JSON."""
    assert cli.run("topics", "check") == ("nothing contradicts\n", "")
    cli.fill("orders", b"one")
    cli.fill("other", b"one")
    assert cli.run("topics", "check")[0] == "nothing contradicts\n"
    assert cli.run("topics", "check", "orders", "--json")[0].strip() == "[]"
    with redis.Redis.from_url(cli.where["url"]) as client:
        client.hset(f"{cli.where['namespace']}:t:{{orders:0}}:meta", "next", 7)
    out, err = cli.run("topics", "check", status=1)
    header, row = out.splitlines()
    assert header.split() == ["TOPIC", "PARTITION", "CONTRADICTION"]
    assert row.split()[:2] == ["orders", "0"]
    assert "the tail holds 1 records" in row
    assert err == ""
    (found,) = json.loads(cli.run("topics", "check", "--json", status=1)[0])
    assert (found["topic"], found["partition"]) == ("orders", 0)
    assert "the tail holds 1 records" in found["contradiction"]
    assert cli.run("topics", "check", "other")[0] == "nothing contradicts\n"
    assert "there is no topic 'nope'" in cli.mistake("topics", "check", "nope")


def test_no_topics(cli: Cli) -> None:
    """An empty list is empty on stdout, and says on stderr what to do."""
    out, err = cli.run("topics", "list")
    assert out == ""
    assert "topics create" in err
    assert cli.run("topics", "list", "--json")[0].strip() == "[]"


# --- produce ----------------------------------------------------------------------------------------------------------


def test_produce_from_stdin(cli: Cli) -> None:
    """Each line is a record, the last one without its line end too, whatever its bytes; the count comes on stderr."""
    out, err = cli.run("produce", "lines", given=b"one\n\ntwo\r\n\xff\xfe")
    assert out == ""
    assert err.startswith("4 records, 12 bytes, stored in lines")
    with Consumer("lines", **cli.where) as consumer:
        assert sorted(record.value for record in consumer.read_to_end()) == [b"", b"one", b"two\r", b"\xff\xfe"]


def test_produce_nothing(cli: Cli) -> None:
    """Without a line nothing is sent, and that is no error."""
    assert cli.run("produce", "lines", given=b"")[1].startswith("0 records")


def test_produce_with_everything(cli: Cli, tmp_path: Path) -> None:
    """Lines of a file, with keys, headers, and a partition."""
    file = tmp_path / "orders.txt"
    file.write_bytes(b"anna\t3 apples\nbert\t1\tpear\n")
    cli.run("topics", "create", "orders", "--partitions", "4")
    cli.run(
        "produce", "orders", "--file", str(file), "--key-separator", "\\t", "--partition", "2",
        "--header", "from=shop=1", "--header", "to=",
    )  # fmt: skip
    with Consumer("orders", **cli.where) as consumer:
        records = list(consumer.read_to_end())
    assert [(r.partition, r.key, r.value) for r in records] == [(2, b"anna", b"3 apples"), (2, b"bert", b"1\tpear")]
    assert records[0].headers == (("from", b"shop=1"), ("to", b""))


def test_produce_without_a_key(cli: Cli) -> None:
    """A line without the separator is an error that names the line; what came before it is stored."""
    said = cli.mistake("produce", "orders", "--key-separator", ":", given=b"a:1\nb:2\noops\nc:3\n")
    assert said == "error: line 3 has no key separator ':': 'oops'; the 2 before it were sent"
    assert len(cli.run("consume", "orders", "--no-follow")[0].splitlines()) == 2


def test_produce_sends_while_it_reads(cli: Cli) -> None:
    """A line is stored while the next one is waited for; Ctrl-C then ends it with 130 and the count."""
    with cli.start("produce", "lines") as process:
        assert process.stdin is not None
        process.stdin.write(b"one\n")
        process.stdin.flush()
        with Admin(**cli.where) as admin:
            sync_wait_until(lambda: admin.list_topics() == ["lines"], "the topic to be created")
        with Consumer("lines", **cli.where) as consumer:
            assert next(iter(consumer)).value == b"one"
        process.send_signal(signal.SIGINT)
        status, err = ended(process)
    assert status == 130
    assert err.startswith("1 record, 4 bytes")
    assert "Traceback" not in err


# --- consume ----------------------------------------------------------------------------------------------------------


def values(out: str) -> list[str]:
    """The last column of each line."""
    return [line.split("  ")[-1] for line in out.splitlines()]


def test_consume_the_last_ten_and_follow(cli: Cli) -> None:
    """By default the last 10 records of all partitions come in time order, then what is appended; Ctrl-C gives 130."""
    base = int(time.time() * 1000) - 60_000
    with Producer(**cli.where) as producer:
        for number in range(15):
            producer.send("numbers", b"%d" % number, partition=number % 4, timestamp_ms=base + number)
    with cli.start("consume", "numbers") as process:
        assert [values(read_line(process)) for _ in range(10)] == [[str(number)] for number in range(5, 15)]
        with Producer(**cli.where) as producer:
            producer.send("numbers", b"more", b"key")
        assert read_line(process).split("  ")[2:] == ["key", "more"]
        process.send_signal(signal.SIGINT)
        assert ended(process) == (130, "")


def test_consume_from(cli: Cli) -> None:
    """--from takes beginning, end, an offset and a time; --max and --no-follow end it, --partition narrows it."""
    base = int(time.time() * 1000) - 3_600_000
    with Producer(**cli.where, num_partitions=2) as producer:
        for number in range(6):
            producer.send("t", b"%d" % number, partition=number % 2, timestamp_ms=base + 1000 * number)
    first = ("consume", "t", "--no-follow", "--partition", "0", "--from")
    assert values(cli.run(*first, "beginning")[0]) == ["0", "2", "4"]
    assert values(cli.run(*first, "1")[0]) == ["2", "4"]
    assert values(cli.run(*first, "99")[0]) == []
    assert values(cli.run(*first, "end")[0]) == []
    moment = datetime.fromtimestamp((base + 1500) / 1000, UTC).isoformat()
    assert values(cli.run(*first, moment)[0]) == ["2", "4"]
    assert values(cli.run(*first, "-2h")[0]) == ["0", "2", "4"]
    assert values(cli.run(*first, "10m ago")[0]) == []
    assert values(cli.run("consume", "t", "--from", "beginning", "--max", "2", "--partition", "1")[0]) == ["1", "3"]
    assert sorted(values(cli.run("consume", "t", "--exit", "--from", "2")[0])) == ["4", "5"]
    assert values(cli.run("consume", "t", "--max", "3")[0]) == ["3", "4", "5"]


def test_consume_in_json(cli: Cli) -> None:
    """--json gives one object a line, with all there is to a record."""
    base = int(time.time() * 1000)
    with Producer(**cli.where, num_partitions=1) as producer:
        producer.send("t", b"\xff", "Grüße".encode(), headers={"a": b"b"}, timestamp_ms=base)
        producer.send("t", b'{"n": 1}', timestamp_ms=base + 1)
    out, _ = cli.run("consume", "t", "--from", "beginning", "--no-follow", "--json")
    first, second = map(json.loads, out.splitlines())
    assert first == {
        "topic": "t", "partition": 0, "offset": 0, "timestamp": base,
        "key": "Grüße", "value_base64": "/w==", "headers": [{"name": "a", "value": "b"}],
    }  # fmt: skip
    assert (second["key"], second["value"]) == (None, '{"n": 1}')


def test_consume_on_a_terminal(cli: Cli) -> None:
    """On a terminal records come in colour, and what is in them cannot do anything to it."""
    cli.fill("t", b"\x1b[2Jgone", b"[red]no markup[/red]")
    ours, theirs = pty.openpty()
    environment = {**cli.environment, "TERM": "xterm-256color", "COLUMNS": "200"}
    del environment["NO_COLOR"]
    command = [*COMMAND, *cli.options, "consume", "t", "--no-follow"]
    with os.fdopen(ours, "rb", buffering=0) as terminal, subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, env=environment
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # Linux says EIO when the other side has gone
            while part := terminal.read(4096):
                shown += part
        assert ended(process) == (0, "")
    assert b"\x1b[36m0:0" in shown
    assert b"\\x1b[2Jgone" in shown
    assert b"\x1b[2J" not in shown
    assert b"[red]no markup[/red]" in shown


def test_reader_goes_away(cli: Cli) -> None:
    """When the reader of the pipe goes, as `head` does, the command ends without a word: in mid-flow and when idle."""
    cli.fill("many", *(b"%d" % number for number in range(LINES_OF_A_FULL_PIPE)))
    cli.fill("one", b"1")
    for args in (("many", "--from", "beginning", "--no-follow"), ("one",), ("one", "--json")):
        with cli.start("consume", *args) as process:
            assert read_line(process)
            assert process.stdout is not None
            process.stdout.close()
            assert ended(process) == (141, "")


def test_consume_waits_out_a_restart(tmp_path: Path) -> None:
    """While the server is away `consume` waits, and goes on where it was."""
    with Server(tmp_path, binary=servers.binary("valkey")) as server:
        servers.make_exact(server)
        cli = Cli(server.url, "restart")
        cli.fill("t", b"before")
        with cli.start("consume", "t") as process:
            assert values(read_line(process)) == ["before"]
            server.kill()
            server.start()
            cli.fill("t", b"after")
            assert values(read_line(process)) == ["after"]
            process.send_signal(signal.SIGINT)
            assert ended(process)[0] == 130


# --- server -----------------------------------------------------------------------------------------------------------


def test_server(cli: Cli, tmp_path: Path) -> None:
    """It says its URL and what to type next, keeps its data in the folder, and ends on SIGTERM and on Ctrl-C."""
    for number, status in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        with cli.start("server", "--port", "0", "--data-dir", str(tmp_path / "data")) as process:
            url = read_line(process).split()[0]
            assert url.startswith("redis://127.0.0.1:")
            told = [read_line(process) for _ in range(5)]
            assert f"  export STREAMLAYER_URL={url}" in told
            with Producer(url=url) as producer:
                producer.send_and_wait("kept", b"x", partition=0)
            process.send_signal(number)
            ended_with, err = ended(process)
            assert (ended_with, err) == (status, "Stopping.\n")
    with Server(tmp_path / "data") as server, Consumer(url=server.url) as consumer:
        place = TopicPartition("kept", 0)
        assert consumer.end_offsets([place]) == {place: 2}


def test_server_with_a_port_that_is_taken(cli: Cli) -> None:
    """A port that is taken is said in a line, with what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "0 takes any free one" in cli.mistake("server", "--port", str(taken.getsockname()[1]))


# --- mistakes and help ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (("topics", "create", "a b"), 1, "error: topic name 'a b'"),
        (("topics", "create", "t", "--config", "retention=1"), 1, "did you mean 'retention_ms'"),
        (("topics", "create", "t", "--config", "retention_ms=soon"), 1, "retention_ms='soon'"),
        (("topics", "create", "t", "--config", "retention_ms"), 2, "is not name=value"),
        (("topics", "create", "t", "--partitions", "0"), 1, "num_partitions=0"),
        (("topics", "create"), 2, "Missing argument"),
        (("topics", "describe", "nope"), 1, "there is no topic 'nope'"),
        (("topics", "lst"), 2, "No such command 'lst'"),
        (("consume", "nope"), 1, "error: there is no topic 'nope'"),
        (("consume", "nope", "--from", "tomorrow"), 2, "no place to start"),
        (("consume", "nope", "--max", "0"), 2, "--max"),
        (("produce", "t", "--file", "no-such-file"), 1, "error: no-such-file: No such file or directory"),
        (("produce", "t", "--header", "x"), 2, "is not name=value"),
        (("produce", "t", "--key-separator", ""), 2, "--key-separator"),
        (("server", "--port", "70000"), 2, "--port"),
        (("topics", "list", "--url", "http://here"), 1, "error: url scheme 'http'"),
        (("topics", "list", "--url", "redis://127.0.0.1:1"), 1, "`streamlayer server` starts a server here"),
    ],
)
def test_mistakes(
    cli: Cli,
    args: tuple[str, ...],
    status: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A mistake is told in words, with status 1, or 2 where the command line itself is wrong; never a traceback."""
    ended_with, said = cli.here(*args, monkeypatch=monkeypatch, capfd=capfd)
    assert ended_with == status
    assert words in said
    assert "Traceback" not in said


def test_mistakes_that_need_a_topic(cli: Cli) -> None:
    """A partition that is not there, and a name that is nearly right."""
    cli.fill("orders", b"one")
    assert cli.mistake("consume", "orders", "--partition", "5") == "error: orders has the partitions 0 to 0, not 5"
    assert cli.mistake("consume", "order") == "error: there is no topic 'order'; did you mean 'orders'?"
    assert "not 7" in cli.mistake("produce", "orders", "--partition", "7", given=b"x\n")


def test_debug_shows_the_traceback(cli: Cli) -> None:
    """With --debug before the command the whole way of an error is shown."""
    done = subprocess.run(
        [*COMMAND, "--debug", "consume", "nope"], check=False, capture_output=True, env=cli.environment
    )
    assert done.returncode == 1
    assert b"Traceback" in done.stderr
    assert b"UnknownTopicOrPartitionError" in done.stderr


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("topics", "create"),
        ("topics", "alter"),
        ("topics", "check"),
        ("topics", "delete-records"),
        ("topics", "delete"),
        ("produce",),
        ("consume",),
        ("server",),
        ("demo",),
    ],
)
def test_help(
    cli: Cli, args: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every command explains itself, with examples."""
    status, said = cli.here(*args, "--help", monkeypatch=monkeypatch, capfd=capfd)
    assert status == 0
    assert " ".join(["Usage: streamlayer", *args]) in said
    assert "Examples $" in said


def test_version(cli: Cli) -> None:
    """--version names the version, and what it runs on."""
    assert cli.run("--version")[0].startswith("streamlayer 0.")


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_the_extra(cli: Cli, package: str) -> None:
    """Where typer or rich is missing, one line says what to install."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS % package], check=False, capture_output=True, env=cli.environment
    )
    assert done.returncode == 1
    assert done.stderr.decode() == "error: the command line needs two more packages: pip install 'streamlayer[cli]'\n"
