"""From a server's error text to what it means: a word for the client, or an error for the user.

Every text is classified here once. *Certainly not applied* is the class of everything the server says: it answered,
so it did not do it. What has an unknown result never reaches this file: a lost answer is the shell's to report.
"""

from __future__ import annotations

from streamlayer import errors
from streamlayer._core.rights import denied_commands
from streamlayer.errors import StreamlayerError


class Refusal(Exception):
    """A script refused with a word that the client acts on: ``SEGMENT``, ``GAP``, … or ``NOSCRIPT``.

    :ivar word: the word.
    :ivar detail: what stands behind it.
    """

    def __init__(self, word: str, detail: str) -> None:
        super().__init__(f"{word} {detail}")
        self.word = word
        self.detail = detail


_SERVER_WORDS: dict[str, tuple[type[StreamlayerError], str]] = {
    "OOM": (
        errors.ServerFullError,
        "the server is at its maxmemory; nothing was written. Raise maxmemory, or keep less",
    ),
    "NOREPLICAS": (errors.NotEnoughReplicasError, "the server has fewer replicas than it wants and refuses writes"),
    "MISCONF": (errors.ServerReadOnlyError, "the server cannot write to its disk and refuses writes"),
    "READONLY": (errors.ServerReadOnlyError, "this server is a replica and takes no writes"),
    "UNBLOCKED": (errors.ServerReadOnlyError, "this server became a replica while something was waited for"),
    "LOADING": (errors.ServerUnavailableError, "the server is still loading its data"),
    "MASTERDOWN": (errors.ServerUnavailableError, "this replica has lost its primary"),
    "BUSY": (errors.ServerUnavailableError, "a script of somebody's keeps the server busy"),
    "TRYAGAIN": (errors.ServerUnavailableError, "the keys are being moved to another node"),
    "CLUSTERDOWN": (errors.ServerUnavailableError, "the cluster is down"),
    "NOAUTH": (
        errors.AuthenticationFailedError,
        "the server wants a password: put it in the url, redis://user:password@host",
    ),
    "WRONGPASS": (errors.AuthenticationFailedError, "the user name or the password is wrong"),
}


_FOR_THE_CALLER = frozenset({"NOSCRIPT", "TOO_LARGE", "BAD_TIMESTAMP", "STALE", "FENCED_MEMBER", "NOT_OWNER"})
"""Words of which only the caller knows what they mean to the user."""


_NUMBERS = {
    "SEGMENT": 1,
    "TRIM": 2,
    "BAD_TIMESTAMP": 2,
    "OUT_OF_RANGE": 2,
    "TRUNCATED": 2,
    "NOT_ENOUGH_REPLICAS": 2,
}
"""How many numbers stand behind a word."""


_FENCED: dict[str, tuple[str, str]] = {
    "session": (
        "the group does not know this member any more: its session ran out, or an administrator removed it",
        "poll() joins again and goes on from what is committed",
    ),
    "instance": (
        "another consumer joined with this one's group_instance_id and took its place",
        "Give each consumer that runs at the same time an id of its own",
    ),
    "lost": (
        "the server lost its newest changes, this member's among them (a restart, or a failover)",
        "poll() joins again and goes on from what is committed",
    ),
}
"""Why a member is none: what happened, and what to do."""


def where(topic: str, partition: int | None) -> str:
    """Name a partition in an error's text."""
    return topic if partition is None else f"{topic}[{partition}]"


def error_of(word: str, detail: str, place: str) -> StreamlayerError:
    """The error that a script's word stands for."""
    numbers = numbers_in(detail)
    if len(numbers) < _NUMBERS.get(word, 0):
        word = ""  # its detail makes no sense
    match word:
        case "UNKNOWN_TOPIC":
            return errors.UnknownTopicOrPartitionError(
                f"{place} does not exist on the server. Create the topic, or check name, namespace and url"
            )
        case "TOPIC_REPLACED":
            return errors.UnknownTopicIdError(
                f"{place} was deleted and created again: it is another log now. Open it anew to go on"
            )
        case "OUT_OF_RANGE":
            start, end = numbers
            return errors.OffsetOutOfRangeError(f"{place} holds the offsets from {start} to before {end}", start)
        case "TRUNCATED":
            diverged, end = numbers
            if diverged < 0:
                return errors.LogTruncationError(f"{place}: the server lost records; where the logs part is unknown")
            return errors.LogTruncationError(
                f"{place}: the server lost records from offset {diverged} on; the log ends at {end} now", diverged
            )
        case "FOREIGN":
            return errors.ForeignDataError(
                f"{place}: the key {detail!r} holds data that streamlayer did not write. "
                "Remove that key, or give streamlayer a namespace of its own (namespace=…)",
                detail,
            )
        case "LAYOUT":
            return errors.UnsupportedVersionError(
                f"{place} has layout version {detail}; this release knows version 1. Upgrade streamlayer"
            )
        case "DAMAGED":
            return errors.PartitionDamagedError(
                f"{place} is damaged: {detail}. Nothing is read from it or written to it until somebody mends it: stop "
                "the server, restore a backup or run `redis-check-aof --fix` (what was written behind the tear is gone "
                f"then), start it again; or give its records up: `streamlayer topics repair {place.partition('[')[0]}`"
            )
        case "FENCED_PRODUCER":
            return errors.ProducerFencedError(
                f"{place}: another producer with this one's id went on with epoch {detail}. Make a new Producer"
            )
        case "SEQUENCE_REUSED":
            return errors.DuplicateSequenceNumberError(
                f"{place}: sequence {detail} came before with other data: two producers share one id. "
                "Make a new Producer"
            )
        case "NOT_ENOUGH_REPLICAS":
            connected, wanted = numbers
            return errors.NotEnoughReplicasError(
                f"{place}: {connected} of the {wanted} replicas that its min_insync_replicas={wanted + 1} asks for are "
                "connected to the server; nothing was written. Bring replicas back, or lower min_insync_replicas"
            )
        case "STALE":
            return errors.RequestTimedOutError(
                f"{place}: the batch came after later ones and is too old to be looked up (next is {detail}): "
                "it may be in the log"
            )
        case "FENCED_MEMBER":
            what, advice = _FENCED.get(detail, _FENCED["session"])
            return errors.CommitFailedError(f"{place}: {what}; nothing was stored. {advice}")
        case "NOT_OWNER":
            topic, _, number = detail.rpartition(":")
            return errors.CommitFailedError(
                f"{place}: {topic}[{number}] is not this member's, or was another's meanwhile; nothing was stored. "
                "Its owner reads on from what is committed; poll() goes on with what is this consumer's now"
            )
        case "NON_EMPTY_GROUP":
            members = "1 member" if detail == "1" else f"{detail} members"
            return errors.NonEmptyGroupError(
                f"{place} has {members}: while it has any, only they commit its offsets, and it cannot be deleted; "
                "nothing was changed. Stop them (close() leaves at once, a process that died is dropped when its "
                "session_timeout_ms is over), or put them out with Admin.remove_group_members: who still runs then "
                "joins again"
            )
        case "":
            return StreamlayerError(f"{place}: the server said something that makes no sense: {detail!r}")
        case _:
            return errors.BY_WORD[word](f"{place}: {word} {detail}")


def numbers_in(detail: str) -> list[int]:
    """The whole numbers among the words of a detail."""
    return [int(part) for part in detail.split() if part.removeprefix("-").isdecimal()]


_DENIED = ("NOPERM ", "ACL failure in script", "The user executing the script can't")
"""What servers say of a right that is missing; in a script Redis from 7.2 on, and Valkey, the second; 7.0 the third."""


_KILLED = "Script killed by user"
_SCRIPT_FAILED = ("user_script", "Error running script")
"""In the text of an error that no script meant: what is stored is not what it wrote."""


def nonsense(what: str, topic: str, partition: int | None, key: str) -> StreamlayerError:
    """The error for stored data that nobody can make sense of.

    :param what: how that showed.
    :param key: the first key that the call was about.
    """
    place = where(topic, partition) or "the topic registry"
    if partition is not None:
        return errors.PartitionDamagedError(
            f"{place} is damaged: {what}. `streamlayer topics check {topic}` looks closer; restore a backup, or delete "
            "the topic"
        )
    return errors.ForeignDataError(
        f"{place}: {what}. The key {key!r}, or one beside it, holds what streamlayer did not write: restore a backup, "
        "or delete them",
        key,
    )


_ONLY_WRITES = ("MISCONF", "NOREPLICAS")


def only_writes_are_refused(error: StreamlayerError) -> bool:
    """Whether a primary refuses writes only. (So does a replica; but what it has may be old.)"""
    return any(f"(the server said: {word}" in str(error) for word in _ONLY_WRITES)


def is_retriable(text: str) -> bool:
    """Whether what the server answered will pass by itself."""
    found = error_from_reply(text)
    return isinstance(found, StreamlayerError) and found.retriable


def error_from_reply(
    text: str, topic: str = "", partition: int | None = None, key: str = ""
) -> StreamlayerError | Refusal:
    """Classify what the server answered.

    :param text: the whole error line, its first word included.
    :param key: the first key that the call was about.
    :returns: a ``Refusal`` for the client, or the error to raise.
    """
    word, _, detail = text.partition(" ")
    place = where(topic, partition) or "the topic registry"
    if word in errors.WORDS_FOR_THE_CLIENT or word in _FOR_THE_CALLER:
        if len(numbers_in(detail)) < _NUMBERS.get(word, 0):
            return nonsense(f"a script said {text!r}", topic, partition, key)
        return Refusal(word, detail)
    if word in errors.BY_WORD:
        return error_of(word, detail, place)
    if word == "WRONGTYPE":
        return error_of("FOREIGN", key, place)
    if any(words in text for words in _DENIED):
        commands = " or ".join(f"+{command}" for command in denied_commands(text))
        advice = f"; give the user {commands}" if commands else ""
        return errors.AuthorizationError(
            f"{place}: the server's ACL does not allow it{advice} (the server said: {text})"
        )
    if "max number of clients" in text:
        return errors.ServerUnavailableError(f"{place}: the server has no connection left (maxclients)")
    if "unknown command" in text.lower() and any(name in text.lower() for name in ("eval", "script")):
        return errors.ConfigurationError(
            "this server runs no Lua scripts. With fakeredis: pip install 'fakeredis[lua]'"
        )
    if "cannot be used with replica instances" in text:  # WAIT and WAITAOF, instead of READONLY
        kind, why = _SERVER_WORDS["READONLY"]
        return kind(f"{place}: {why} (the server said: {text})")
    if "waitaof" in text.lower():
        return errors.ConfigurationError(
            "flush='primary' and flush='replicas' need Redis 7.2 or Valkey, with `appendonly yes` "
            f"(the server said: {text})"
        )
    if word in _SERVER_WORDS or word.lstrip("-") in _SERVER_WORDS:
        kind, meaning = _SERVER_WORDS[word.lstrip("-")]
        return kind(f"{place}: {meaning} (the server said: {text})")
    for server_word, (kind, meaning) in _SERVER_WORDS.items():
        if f" -{server_word} " in text or f": {server_word} " in text:
            return kind(f"{place}: {meaning} (the server said: {text})")
    if _KILLED in text:  # it had not written yet, or it could not have been
        return errors.ServerUnavailableError(
            f"{place}: somebody ended the script with SCRIPT KILL; nothing was written (the server said: {text})"
        )
    if any(words in text for words in _SCRIPT_FAILED):
        return nonsense(f"a script failed on it ({text})", topic, partition, key)
    return StreamlayerError(f"{place}: the server said: {text}")
