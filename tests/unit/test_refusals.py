"""Every text a server can answer, and the one meaning it has. The texts are real servers', copied."""

from __future__ import annotations

import re

import pytest

from streamlayer import errors
from streamlayer._async.link import _place_of
from streamlayer._core.calls import Call
from streamlayer._core.keys import group_keys, groups_key, partition_keys, registry_key
from streamlayer._core.refusals import Refusal, error_from_reply, error_of, where
from streamlayer._core.scripts import ALL, APPEND

UNBLOCKED = "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)"
READONLY = "READONLY You can't write against a read only replica."
BUSY = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."
MISCONF = (
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. Commands that "
    "may modify the data set are disabled, because this instance is configured to report errors during writes if RDB "
    "snapshotting fails (stop-writes-on-bgsave-error option)."
)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", errors.ServerFullError),
        (
            "OOM command not allowed when used memory > 'maxmemory'. script: 0e2f, on @user_script:1.",
            errors.ServerFullError,
        ),
        ("-OOM command not allowed when used memory > 'maxmemory'.", errors.ServerFullError),
        (MISCONF, errors.ServerReadOnlyError),
        (READONLY, errors.ServerReadOnlyError),
        (UNBLOCKED, errors.ServerReadOnlyError),
        ("ERR WAIT cannot be used with replica instances. Please also note that …", errors.ServerReadOnlyError),
        ("ERR WAITAOF cannot be used with replica instances. Please also note that …", errors.ServerReadOnlyError),
        (f"{READONLY} script: 0e2f, on @user_script:1.", errors.ServerReadOnlyError),
        ("LOADING Redis is loading the dataset in memory", errors.ServerUnavailableError),
        ("LOADING Valkey is loading the dataset in memory", errors.ServerUnavailableError),
        (
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            errors.ServerUnavailableError,
        ),
        (BUSY, errors.ServerUnavailableError),
        (
            "ERR Script killed by user with SCRIPT KILL... script: 0e2f, on @user_script:1.",
            errors.ServerUnavailableError,
        ),
        ("TRYAGAIN Multiple keys request during rehashing of slot", errors.ServerUnavailableError),
        ("CLUSTERDOWN The cluster is down", errors.ServerUnavailableError),
        ("ERR max number of clients reached", errors.ServerUnavailableError),
        ("NOPERM User limited has no permissions to run the 'evalsha' command", errors.AuthorizationError),
        (
            "ERR ACL failure in script: User limited has no permissions to run the 'append' command script: on @u:342.",
            errors.AuthorizationError,
        ),
        (
            "ERR The user executing the script can't run this command or subcommand script: e69e, on @user_script:342.",
            errors.AuthorizationError,
        ),
        ("NOAUTH Authentication required.", errors.AuthenticationFailedError),
        (
            "WRONGPASS invalid username-password pair or user is disabled.",
            errors.AuthenticationFailedError,
        ),
        (
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            errors.ForeignDataError,
        ),
        ("ERR unknown command 'EVALSHA', with args beginning with: ", errors.ConfigurationError),
        ("ERR unknown command `script`, with args beginning with: `load`, ", errors.ConfigurationError),
        ("ERR something else", errors.StreamlayerError),
        ("NOREPLICAS Not enough good replicas to write.", errors.NotEnoughReplicasError),
        ("", errors.StreamlayerError),
    ],
)
def test_a_servers_own_texts(text: str, kind: type[errors.StreamlayerError]) -> None:
    """Each is one class, and the message says where it was and what the server said."""
    found = error_from_reply(text, "orders", 3)
    assert type(found) is kind
    if kind is not errors.ConfigurationError:
        assert "orders[3]" in str(found)


CANNOT_RUN = "ERR The user executing the script can't run this command or subcommand"
CANNOT_ACCESS = "ERR The user executing the script can't access at least one of the keys mentioned"


def at(command: str) -> str:
    """Where, in Redis 7.0's words: on the first line of ``append`` with this command."""
    lines = APPEND.flagged.split("\n")
    number = next(number for number, line in enumerate(lines, 1) if f"redis.call('{command}'" in line)
    return f"script: {APPEND.flagged_sha}, on @user_script:{number}."


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("NOPERM User x has no permissions to run the 'script|load' command", "; give the user +script|load"),
        ("NOPERM this user has no permissions to run the 'waitaof' command", "; give the user +waitaof"),
        (
            "ERR ACL failure in script: User x has no permissions to run the 'hget' command (HGET)",
            "; give the user +hget",
        ),
        (f"{CANNOT_RUN} {at('APPEND')}", "; give the user +append"),
        (f"{CANNOT_RUN} {at('TYPE')}", "; give the user +type"),
        (f"{CANNOT_RUN} (STRLEN)", "; give the user +strlen"),
        (f"{CANNOT_ACCESS} {at('TYPE')}", ""),
        ("NOPERM No permissions to access a key", ""),
    ],
)
def test_a_right_that_is_missing_is_named(text: str, advice: str) -> None:
    """As the ACL's rule has it; Redis 7.0 says only where in the script it was. A key is no command."""
    found = error_from_reply(text, "orders", 3)
    assert type(found) is errors.AuthorizationError
    assert str(found) == f"orders[3]: the server's ACL does not allow it{advice} (the server said: {text})"


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("UNKNOWN_TOPIC sl:t:{orders:3}:meta", errors.UnknownTopicOrPartitionError, "does not exist"),
        ("TOPIC_REPLACED abc", errors.UnknownTopicIdError, "deleted and created again"),
        ("OUT_OF_RANGE 5 9", errors.OffsetOutOfRangeError, "from 5 to before 9"),
        ("TRUNCATED 5 8", errors.LogTruncationError, "from offset 5 on; the log ends at 8"),
        ("TRUNCATED -1 8", errors.LogTruncationError, "where the logs part is unknown"),
        ("FOREIGN sl:t:{orders:3}:log:0", errors.ForeignDataError, "'sl:t:{orders:3}:log:0' holds data"),
        ("LAYOUT 2", errors.UnsupportedVersionError, "layout version 2; this release knows version 1"),
        ("DAMAGED field 7 is gone", errors.PartitionDamagedError, "field 7 is gone. .*redis-check-aof --fix"),
        ("FENCED_PRODUCER 4", errors.ProducerFencedError, "epoch 4. Make a new Producer"),
        ("SEQUENCE_REUSED 12", errors.DuplicateSequenceNumberError, "sequence 12 came before"),
    ],
)
def test_the_scripts_words_for_users(text: str, kind: type[errors.StreamlayerError], words: str) -> None:
    """Each becomes its own class, with what happened, where, and what to do."""
    found = error_from_reply(text, "orders", 3)
    assert type(found) is kind
    with pytest.raises(kind, match=words):
        raise found


@pytest.mark.parametrize(
    ("word", "detail", "kind", "words"),
    [
        ("NON_EMPTY_GROUP", "1", errors.NonEmptyGroupError, "^group billing has 1 member: .*remove_group_members"),
        ("NON_EMPTY_GROUP", "12", errors.NonEmptyGroupError, "^group billing has 12 members: .* Stop them"),
        ("FENCED_MEMBER", "session", errors.CommitFailedError, "^group billing: .* session ran out.* joins again"),
        ("FENCED_MEMBER", "instance", errors.CommitFailedError, "^group billing: another .* an id of its own"),
        ("FENCED_MEMBER", "lost", errors.CommitFailedError, "^group billing: the server lost .* joins again"),
        ("NOT_OWNER", "orders:3", errors.CommitFailedError, r"^group billing: orders\[3\] .* poll\(\) goes on"),
    ],
)
def test_what_a_group_says(word: str, detail: str, kind: type[errors.StreamlayerError], words: str) -> None:
    """Each word says what happened, to which group and partition, and what to do."""
    found = error_of(word, detail, "group billing")
    assert type(found) is kind
    with pytest.raises(kind, match=words):
        raise found


@pytest.mark.parametrize("word", ["FENCED_MEMBER", "NOT_OWNER"])
def test_what_a_member_is_told_is_its_own_to_explain(word: str) -> None:
    """They come as refusals: only the member knows what became of it."""
    found = error_from_reply(f"{word} orders:3", "group billing")
    assert isinstance(found, Refusal)
    assert (found.word, found.detail) == (word, "orders:3")


GROUP = group_keys("some.ns", "billing")
PARTITION = partition_keys("some.ns", "g", 3)


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        (tuple(GROUP), "group billing:"),
        ((GROUP.offsets,), "group billing:"),
        ((groups_key("some.ns"),), "the list of groups:"),
        ((registry_key("some.ns"),), "the topic registry:"),
        ((PARTITION.meta, PARTITION.tail), r"g\[3\]:"),
    ],
)
def test_an_error_names_what_the_call_was_about(keys: tuple[str, ...], place: str) -> None:
    """A group, the list of them, the registry or a partition: read from the first key, whatever the namespace."""
    call = Call(None, keys, ("GET", keys[0]), str)
    assert re.match(place, str(error_from_reply("OOM x", *_place_of(call))))


def test_what_errors_carry_besides_words() -> None:
    """Programs act on numbers and keys, not on messages."""
    range_error = error_from_reply("OUT_OF_RANGE 5 9", "orders", 3)
    assert isinstance(range_error, errors.OffsetOutOfRangeError)
    assert range_error.log_start == 5
    truncated = error_from_reply("TRUNCATED 5 8", "orders", 3)
    assert isinstance(truncated, errors.LogTruncationError)
    assert truncated.diverged_at == 5
    unknown = error_from_reply("TRUNCATED -1 8", "orders", 3)
    assert isinstance(unknown, errors.LogTruncationError)
    assert unknown.diverged_at is None
    foreign = error_from_reply("FOREIGN some:key", "orders", 3)
    assert isinstance(foreign, errors.ForeignDataError)
    assert foreign.key == "some:key"


@pytest.mark.parametrize(
    "word",
    sorted(errors.WORDS_FOR_THE_CLIENT | {"NOSCRIPT", "TOO_LARGE", "BAD_TIMESTAMP", "STALE"}),
)
def test_words_on_which_the_client_acts(word: str) -> None:
    """They come back as refusals with their detail, not as errors."""
    found = error_from_reply(f"{word} 7 8", "orders", 3)
    assert isinstance(found, Refusal)
    assert (found.word, found.detail) == (word, "7 8")


def test_every_word_of_every_script_has_a_meaning() -> None:
    """No script can say anything that ends as 'the server said'."""
    for word in {word for script in ALL for word in script.errors}:
        found = error_from_reply(f"{word} 1 2", "orders", 3)
        assert isinstance(found, Refusal) or type(found) is errors.BY_WORD[word]


@pytest.mark.parametrize(
    ("text", "retriable"),
    [("OOM x", True), (READONLY, True), (BUSY, True), ("NOPERM x", False), ("ERR x", False), ("DAMAGED x", False)],
)
def test_only_what_can_end_by_itself_is_tried_again(text: str, retriable: bool) -> None:
    """`retriable` is what the sender goes by."""
    found = error_from_reply(text, "orders", 3)
    assert isinstance(found, errors.StreamlayerError)
    assert found.retriable is retriable


def test_places_are_named_as_topic_and_number() -> None:
    """The registry has neither."""
    assert where("orders", 3) == "orders[3]"
    assert where("orders", None) == "orders"
    assert "the topic registry" in str(error_from_reply("OOM x"))
