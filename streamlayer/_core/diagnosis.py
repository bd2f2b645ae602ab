"""What a doctor makes of a server: findings in plain words, each with what to do about it.

Everything is computed from what was asked before (`Facts`); what a server would not say is a finding, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Literal, NamedTuple

from streamlayer._core.durability import mended_by, online_replicas
from streamlayer._core.entries import DELETING, USABLE
from streamlayer._core.keys import REPLAY_GROUP
from streamlayer._core.rights import COMMANDS, OPTIONAL
from streamlayer._core.server import check_server
from streamlayer._types import Durability, GroupDescription, TopicDescription, TopicPartition
from streamlayer.errors import StreamlayerError, UnsupportedVersionError

Verdict = Literal["ok", "warning", "problem"]
Broken = tuple[str, str, StreamlayerError]
"""``topic`` or ``group``; its name, or empty if not even the names can be read; and why."""
NEARLY_FULL = 0.9
SLOW_MS, VERY_SLOW_MS = 5.0, 100.0
MANY_CLIENTS = 0.9


class Finding(NamedTuple):
    """One thing that was looked at.

    :ivar subject: what, in a word.
    :ivar verdict: ``ok``; ``warning``: it works, and may not always; ``problem``: it does not, or records are at risk.
    :ivar words: how it is.
    :ivar advice: what to do; empty if nothing.
    """

    subject: str
    verdict: Verdict
    words: str
    advice: str = ""


@dataclass(frozen=True)
class Facts:
    """What the server, its topics and groups said.

    :ivar info: the fields of ``INFO``; empty if that is not allowed.
    :ivar settings: of ``CONFIG GET``; empty if that is not allowed.
    :ivar latency_ms: how long some calls took, one by one.
    :ivar missing: rights that the user lacks; ``None`` if nobody may say.
    :ivar half_done: topics of which somebody began a change that is not finished, and their state.
    :ivar broken: what cannot be described.
    """

    info: dict[str, str]
    settings: dict[str, str]
    durability: Durability
    latency_ms: list[float]
    missing: list[str] | None
    topics: list[TopicDescription]
    half_done: dict[str, str]
    broken: list[Broken]
    groups: list[GroupDescription]


def diagnose(facts: Facts) -> list[Finding]:
    """All findings, in the order in which one would look."""
    findings = [_version(facts), _eviction(facts), _durability(facts), _replicas(facts), _memory(facts)]
    findings += [_latency(facts), _clients(facts), _rights(facts), _loss(facts)]
    findings += [*_expiry(facts), *_retention(facts), *_topics(facts), *_groups(facts)]
    return findings


def _unread(subject: str, right: str) -> Finding:
    return Finding(subject, "warning", f"cannot be read: the right `{right}` is missing", f"Give the user +{right}")


def _version(facts: Facts) -> Finding:
    info = facts.info
    if not info:
        return _unread("server", "info")
    version = info.get("valkey_version") or info.get("redis_version", "?")
    words = f"{'Valkey' if 'valkey_version' in info else 'Redis'} {version}, {info.get('role', 'of unknown role')}"
    try:
        check_server(info, allow_eviction=True)
    except UnsupportedVersionError as error:
        return Finding("server", "problem", words, str(error))
    if info.get("role") == "slave":
        return Finding("server", "problem", f"{words}: it takes no writes", "Use the primary's url")
    return Finding("server", "ok", words)


def _eviction(facts: Facts) -> Finding:
    if not facts.info:
        return _unread("eviction", "info")
    policy = facts.info.get("maxmemory_policy", "noeviction")
    advice = "CONFIG SET maxmemory-policy noeviction (and the same in the server's configuration)"
    if policy != "noeviction" and facts.info.get("maxmemory", "0") != "0":
        words = f"maxmemory-policy is {policy}: records are deleted silently when memory is full"
        return Finding("eviction", "problem", words, advice)
    if policy != "noeviction":
        words = f"maxmemory-policy is {policy}, without effect while there is no maxmemory"
        return Finding("eviction", "warning", words, advice)
    return Finding("eviction", "ok", "noeviction: nothing is thrown away silently")


_MEANS = {
    "memory": "a crash of the server takes everything",
    "snapshot": "a crash of the server takes what came after the last snapshot",
    "os_cache": "a crash of the machine takes about 30 s",
    "second": "a crash of the machine takes a second or two",
    "disk": "nothing that was answered is lost, as far as the disk is honest",
}


def _durability(facts: Facts) -> Finding:
    if not facts.info:
        return _unread("durability", "info")
    found = facts.durability
    words = f"{found.level}: {_MEANS[found.level]}"
    if found.reasons:
        words += f" ({'; '.join(found.reasons)})"
    if _refuses_for_snapshots(facts):
        words += "; the last snapshot failed, and until one succeeds all writes are refused (MISCONF)"
        advice = (
            "See the server's log, its disk, and vm.overcommit_memory; or CONFIG SET stop-writes-on-bgsave-error no"
        )
        return Finding("durability", "problem", words, advice)
    if facts.info.get("aof_enabled") == "1" and facts.info.get("aof_last_bgrewrite_status", "ok") != "ok":
        words += "; the append-only file could not be rewritten and grows"
        return Finding("durability", "problem", words, "See the server's log, its disk, and vm.overcommit_memory")
    if found.level in {"second", "disk"}:
        return Finding("durability", "ok", words)
    verdict: Verdict = "problem" if found.level == "memory" else "warning"
    return Finding("durability", verdict, words, mended_by(found, "second"))


def _refuses_for_snapshots(facts: Facts) -> bool:
    """Whether a failed snapshot has the server refuse all writes: the append-only file may be as well as can be."""
    failed = facts.info.get("rdb_last_bgsave_status", "ok") != "ok"
    return failed and bool(facts.settings.get("save")) and facts.settings.get("stop-writes-on-bgsave-error") != "no"


def _replicas(facts: Facts) -> Finding:
    if not facts.info:
        return _unread("replicas", "info")
    count = online_replicas(facts.info)
    wanted = {topic.name: topic.config.min_insync_replicas - 1 for topic in facts.topics}
    short = sorted(name for name, number in wanted.items() if number > count)
    words = f"{count} connected" if count else "none"
    if facts.durability.min_replicas_to_write > count:
        words += f"; min-replicas-to-write is {facts.durability.min_replicas_to_write}: all writes are refused"
        return Finding("replicas", "problem", words, "Bring replicas back, or lower min-replicas-to-write")
    if short:
        words += f"; too few for the min_insync_replicas of {', '.join(short)}: acks=all is refused there"
        return Finding("replicas", "problem", words, "Bring replicas back, or lower min_insync_replicas")
    lags = [int(lag) for lag in _lags(facts.info)]
    if lags and max(lags) > 10:
        return Finding(
            "replicas", "warning", f"{words}, {max(lags)} s behind", "See the replicas' logs, and the network"
        )
    return Finding("replicas", "ok", words)


def _lags(info: dict[str, str]) -> Iterator[str]:
    for name, value in info.items():
        if name.startswith("slave") and "lag=" in value:
            yield value.rpartition("lag=")[2].partition(",")[0]


def _memory(facts: Facts) -> Finding:
    if not facts.info:
        return _unread("memory", "info")
    used, most = int(facts.info.get("used_memory", 0)), int(facts.info.get("maxmemory", 0))
    if not most:
        total = int(facts.info.get("total_system_memory", 0))
        words = f"{_mib(used)} used of the machine's {_mib(total)}; no maxmemory"
        if total and used > NEARLY_FULL * total:
            return Finding("memory", "problem", words, "Keep less (retention_bytes), or get a larger machine")
        advice = "CONFIG SET maxmemory: appends are refused then, instead of the process being killed"
        return Finding("memory", "warning", words, advice)
    words = f"{_mib(used)} used of {_mib(most)} ({used / most:.0%})"
    if used > NEARLY_FULL * most:
        return Finding(
            "memory", "problem", words, "Raise maxmemory, or keep less (retention_bytes): appends will be refused"
        )
    return Finding("memory", "ok", words)


def _mib(count: int) -> str:
    return f"{count / (1 << 20):,.0f} MiB"


def _latency(facts: Facts) -> Finding:
    usual, longest = median(facts.latency_ms), max(facts.latency_ms)
    words = f"a call takes {usual:.2f} ms, the longest of {len(facts.latency_ms)} took {longest:.2f} ms"
    scripts_ms = _percentiles_ms(facts.info.get("latency_percentiles_usec_evalsha", ""))
    if scripts_ms:
        words += f"; scripts hold the server for {scripts_ms[0]:.2f} ms, one of a thousand for {scripts_ms[-1]:.2f} ms"
        longest = max(longest, scripts_ms[-1])
    if usual > VERY_SLOW_MS:
        return Finding("latency", "problem", words, "The server is far away, or busy: see SLOWLOG GET")
    if usual > SLOW_MS or longest > VERY_SLOW_MS:
        return Finding("latency", "warning", words, "See SLOWLOG GET and LATENCY LATEST")
    return Finding("latency", "ok", words)


def _percentiles_ms(text: str) -> list[float]:
    """Of ``INFO latencystats``: p50, p99 and p99.9, unless the server is configured to tell others."""
    if not text.startswith("p50=") or ",p99.9=" not in text:
        return []
    return [float(part.partition("=")[2]) / 1000 for part in text.split(",")]


def _clients(facts: Facts) -> Finding:
    if not facts.info:
        return _unread("connections", "info")
    count, most = int(facts.info.get("connected_clients", 0)), int(facts.info.get("maxclients", 0))
    words = f"{count} of {most}"
    if most and count > MANY_CLIENTS * most:
        return Finding(
            "connections", "problem", words, "Raise maxclients: a consumer takes up to three, a producer two"
        )
    return Finding("connections", "ok", words)


def _rights(facts: Facts) -> Finding:
    if facts.missing is None:
        words = "cannot be looked at: the right `acl|dryrun` is missing"
        return Finding("rights", "warning", words, "Compare with the list in the README, or ask as another user")
    needed = [name for name in facts.missing if name in COMMANDS]
    if needed:
        given = " ".join(f"+{name}" for name in needed)
        return Finding("rights", "problem", f"missing: {', '.join(needed)}", f"ACL SETUSER … {given}")
    optional = [f"{name} ({OPTIONAL[name]})" for name in facts.missing]
    if optional:
        return Finding("rights", "warning", f"missing: {', '.join(optional)}", "Give them where that matters")
    return Finding("rights", "ok", "all that is needed")


def _loss(facts: Facts) -> Finding:
    if facts.info.get("master_replid"):
        return Finding("loss", "ok", "a log that lost its end is noticed")
    return Finding("loss", "warning", "a log that lost its end is not noticed", "Give the user +info")


def _expiry(facts: Facts) -> Iterator[Finding]:
    if facts.settings.get("lazyfree-lazy-expire", "yes") != "yes":
        words = "lazyfree-lazy-expire is no: old segments are freed while others wait"
        yield Finding("expiry", "warning", words, "CONFIG SET lazyfree-lazy-expire yes")


def _retention(facts: Facts) -> Iterator[Finding]:
    """Whether the topics may keep more than there is room for: then appends are refused one day."""
    room = int(facts.info.get("maxmemory", 0)) or int(facts.info.get("total_system_memory", 0))
    kept = [(topic.name, topic.config.retention_bytes, len(topic.partitions)) for topic in facts.topics]
    endless = sorted(name for name, most, _ in kept if most < 0)
    total = sum(most * count for _, most, count in kept if most > 0)
    words = [f"topics may keep {_mib(total)}"] if total > room else []
    words += [f"nothing limits the size of {', '.join(endless)}"] if endless else []
    if room and words:
        advice = "Unless they stay small: streamlayer topics alter … --config retention.bytes=…"
        yield Finding("retention", "warning", f"{'; '.join(words)}; there is room for {_mib(room)}", advice)


def _topics(facts: Facts) -> Iterator[Finding]:
    for name, state in sorted(facts.half_done.items()):
        words = f"{name}: {state}, and not finished" + ("" if state in USABLE else "; nobody can use it")
        verb = "delete" if state == DELETING else "describe"
        yield Finding("topic", "warning", words, f"Unless somebody is at it: streamlayer topics {verb} {name}")
    flushed = sorted(topic.name for topic in facts.topics if topic.config.flush != "server")
    if flushed and facts.info and facts.info.get("aof_enabled") != "1":
        words = f"appendonly is no, and the flush of {', '.join(flushed)} cannot be given: acks=all fails there"
        yield Finding("topic", "problem", words, "CONFIG SET appendonly yes")
    yield from _readable("topic", facts, len(facts.topics), "can be read")


def _groups(facts: Facts) -> Iterator[Finding]:
    held = {
        TopicPartition(topic.name, each.partition): each.log_end - each.log_start
        for topic in facts.topics
        for each in topic.partitions
    }
    unwell = [list(_group(group, held)) for group in facts.groups]
    for found in unwell:
        yield from found
    yield from _readable("group", facts, unwell.count([]), f"of {len(facts.groups)} look well")


def _readable(kind: str, facts: Facts, count: int, words: str) -> Iterator[Finding]:
    broken = [(name, error) for where, name, error in facts.broken if where == kind]
    for name, error in broken:
        place = f"{name}: " if name else f"no {kind} can be read: "
        yield Finding(kind, "problem", f"{place}{type(error).__name__}", str(error))
    if count or not broken:
        yield Finding(f"{kind}s", "ok", f"{count} {words}")


def _group(group: GroupDescription, held: Mapping[TopicPartition, int]) -> Iterator[Finding]:
    place = f"streamlayer groups describe {group.group_id}"
    overdue = sum(member.overdue for member in group.members)
    if overdue:
        words = f"{group.group_id}: {_count(overdue, 'member')} not heard of for a session, and nobody has dropped them"
        yield Finding("group", "warning", words, f"{place}; streamlayer groups remove-members {group.group_id}")
    lag = sum(group.lag.values())
    if group.state == "Empty" and lag and group.group_id != REPLAY_GROUP:
        words = f"{group.group_id}: nobody reads; it is behind by {_count(lag, 'record')}"
        yield Finding("group", "warning", words, f"Start its consumers, or: streamlayer groups delete {group.group_id}")

    missed = sum(max(0, behind - held.get(tp, behind)) for tp, behind in group.lag.items())
    if missed:
        words = f"{group.group_id}: {_count(missed, 'record')} went before they were read, by retention or deletion"
        yield Finding("group", "warning", words, f"More consumers, or a longer retention; {place}")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def worst(findings: Iterable[Finding]) -> Verdict:
    """``problem`` if there is one, else ``warning`` if there is one, else ``ok``."""
    verdicts = {finding.verdict for finding in findings}
    return "problem" if "problem" in verdicts else "warning" if "warning" in verdicts else "ok"
