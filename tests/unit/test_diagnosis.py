"""The doctor's findings: each thing that can be wrong, found, with what to do; and nothing where nothing is."""

from __future__ import annotations

from typing import Any

import pytest

from streamlayer import (
    AuthorizationError,
    Durability,
    GroupDescription,
    MemberDescription,
    PartitionDamagedError,
    PartitionDescription,
    TopicConfig,
    TopicDescription,
    TopicPartition,
)
from streamlayer._core.diagnosis import Facts, Finding, diagnose, worst
from streamlayer._core.keys import REPLAY_GROUP

INFO = {
    "redis_version": "7.2.4",
    "role": "master",
    "maxmemory": "1000000000",
    "maxmemory_policy": "noeviction",
    "used_memory": "500000000",
    "total_system_memory": "4000000000",
    "connected_clients": "10",
    "maxclients": "10000",
    "master_replid": "abc",
    "aof_enabled": "1",
}
DISK = Durability("disk", 0, 0, ())


def topic(**config: Any) -> TopicDescription:
    """A topic with these settings; its partition holds ten records."""
    return TopicDescription("orders", "id", TopicConfig(**config), (PartitionDescription(0, 90, 100, 1000, 1),))


def member(*, overdue: bool) -> MemberDescription:
    """A member of a group."""
    none: frozenset[Any] = frozenset()
    return MemberDescription("m", None, "c", "h", none, none, none, overdue)


def group(state: str, lag: int, *, overdue: bool = False) -> GroupDescription:
    """A group of one member at most."""
    members = () if state == "Empty" else (member(overdue=overdue),)
    return GroupDescription("billing", state, members, {TopicPartition("orders", 0): lag})


def facts(info: dict[str, str] | None = None, **changed: Any) -> Facts:
    """A server that is well, but for what is changed."""
    given: dict[str, Any] = {
        "info": INFO | (info or {}),
        "settings": {"lazyfree-lazy-expire": "yes"},
        "durability": DISK,
        "latency_ms": [0.1, 0.2, 0.3],
        "missing": [],
        "topics": [topic()],
        "half_done": {},
        "broken": [],
        "groups": [group("Stable", 5)],
    }
    return Facts(**(given | changed))


@pytest.mark.parametrize(
    "settings", [{}, {"save": ""}, {"save": "60 1", "stop-writes-on-bgsave-error": "no"}], ids=["?", "none", "goes on"]
)
def test_a_failed_snapshot_that_stops_nobody(settings: dict[str, str]) -> None:
    """Where no snapshots are asked for by now, or a failed one does not matter, writes are taken."""
    assert worst(diagnose(facts({"rdb_last_bgsave_status": "err"}, settings=settings))) == "ok"


def test_a_server_that_is_well() -> None:
    """Nothing to say but ok."""
    findings = diagnose(facts())
    assert [finding for finding in findings if finding.verdict != "ok"] == []
    assert worst(findings) == "ok"


SNAPSHOT_FAILED = {"rdb_last_bgsave_status": "err"}
REPLICA = {"slave0": "ip=1,port=2,state=online,offset=1,lag=20"}


@pytest.mark.parametrize(
    ("ill", "subject", "verdict", "words"),
    [
        (facts({"redis_version": "6.2.0"}), "server", "problem", "Redis 6.2.0"),
        (facts({"role": "slave"}), "server", "problem", "takes no writes"),
        (facts({"maxmemory_policy": "allkeys-lru"}), "eviction", "problem", "allkeys-lru"),
        (facts(durability=Durability("memory", 0, 0, ("x",))), "durability", "problem", "takes everything (x)"),
        (facts(durability=Durability("snapshot", 0, 0, ())), "durability", "warning", "last snapshot"),
        (facts(durability=Durability("disk", 0, 1, ())), "replicas", "problem", "all writes are refused"),
        (facts(topics=[topic(min_insync_replicas=2)]), "replicas", "problem", "orders"),
        (facts(REPLICA), "replicas", "warning", "20 s behind"),
        (facts({"used_memory": "950000000"}), "memory", "problem", "95%"),
        (facts({"maxmemory": "0"}), "memory", "warning", "no maxmemory"),
        (facts({"maxmemory": "0", "used_memory": "3900000000"}), "memory", "problem", "no maxmemory"),
        (facts(latency_ms=[8.0, 9.0, 9.5]), "latency", "warning", "9.00 ms"),
        (facts(latency_ms=[0.1, 0.1, 150.0]), "latency", "warning", "150.00 ms"),
        (facts(latency_ms=[200.0, 210.0, 220.0]), "latency", "problem", "210.00 ms"),
        (facts({"connected_clients": "9500"}), "connections", "problem", "9500 of 10000"),
        (facts(missing=["hset", "info"]), "rights", "problem", "missing: hset"),
        (facts(missing=["info"]), "rights", "warning", "lost records are not noticed"),
        (facts(missing=None), "rights", "warning", "acl|dryrun"),
        (facts(settings={"lazyfree-lazy-expire": "no"}), "expiry", "warning", "lazyfree"),
        (facts(broken=[("topic", "orders", PartitionDamagedError("x"))]), "topic", "problem", "PartitionDamagedError"),
        (facts({"aof_enabled": "0"}, topics=[topic(flush="primary")]), "topic", "problem", "orders"),
        (facts({"aof_last_bgrewrite_status": "err"}), "durability", "problem", "grows"),
        (facts(SNAPSHOT_FAILED, settings={"save": "60 1"}), "durability", "problem", "all writes are refused"),
        (
            facts({"latency_percentiles_usec_evalsha": "p50=9,p99=20,p99.9=150000"}),
            "latency",
            "warning",
            "for 150.00 ms",
        ),
        (facts(topics=[topic(retention_bytes=2 * 10**9)]), "retention", "warning", "may keep 1,907 MiB"),
        (facts(topics=[topic(retention_bytes=-1)]), "retention", "warning", "nothing limits the size of orders"),
        (facts(half_done={"orders": "growing"}), "topic", "warning", "orders: growing, and not finished"),
        (facts(half_done={"orders": "creating"}), "topic", "warning", "nobody can use it"),
        (facts(groups=[group("Stable", 25)]), "group", "warning", "15 records went before they were read"),
        (facts(groups=[group("Empty", 7)]), "group", "warning", "billing: nobody reads; it is behind by 7 records"),
        (facts(groups=[group("Empty", 1)]), "group", "warning", "behind by 1 record"),
        (facts(groups=[group("Stable", 7, overdue=True)]), "group", "warning", "1 member not heard of"),
    ],
)
def test_what_is_wrong_is_found_with_what_to_do(ill: Facts, subject: str, verdict: str, words: str) -> None:
    """Just this one, as bad as it is."""
    (finding,) = [finding for finding in diagnose(ill) if finding.verdict != "ok"]
    assert (finding.subject, finding.verdict) == (subject, verdict)
    assert words in finding.words
    assert finding.advice
    assert worst(diagnose(ill)) == verdict


def test_what_remembers_replayed_dead_letters_is_let_be() -> None:
    """Between two replays nobody is in that group, and letters wait: whoever deleted it would have all go again."""
    assert worst(diagnose(facts(groups=[group("Empty", 7)._replace(group_id=REPLAY_GROUP)]))) == "ok"


@pytest.mark.parametrize(("kind", "other"), [("topic", "groups"), ("group", "topics")])
def test_what_cannot_be_listed_at_all(kind: str, other: str) -> None:
    """It is a problem of its own, and hides nothing else; nothing of that kind is said to be well."""
    ill: Any = {"topics": [], "groups": [], "broken": [(kind, "", AuthorizationError("no right to x"))]}
    found = {finding.subject: finding for finding in diagnose(facts(**ill))}
    assert found[kind] == Finding(kind, "problem", f"no {kind} can be read: AuthorizationError", "no right to x")
    assert found[other].verdict == "ok"
    assert f"{kind}s" not in found


def test_what_mends_durability_is_what_lacks() -> None:
    """Not a setting where the disk fails; and who half deleted a topic deletes it."""
    failed = Durability("memory", 0, 0, ("the last write to the append-only file failed",))
    (finding,) = [each for each in diagnose(facts(durability=failed)) if each.verdict != "ok"]
    assert "disk" in finding.advice
    assert "CONFIG" not in finding.advice
    (finding,) = [each for each in diagnose(facts(half_done={"orders": "deleting"})) if each.verdict != "ok"]
    assert finding.advice.endswith("streamlayer topics delete orders")


def test_a_policy_without_a_limit_is_a_warning() -> None:
    """It has no effect yet; and there is no limit."""
    findings = {f.subject: f for f in diagnose(facts({"maxmemory_policy": "allkeys-lru", "maxmemory": "0"}))}
    assert findings["eviction"].verdict == "warning"
    assert "without effect" in findings["eviction"].words


def test_who_may_ask_nothing_is_told_what_is_not_known() -> None:
    """Without INFO nothing is assumed to be well."""
    blind = Facts({}, {}, Durability("memory", 0, 0, ("x",)), [0.1], None, [], {}, [], [])
    unwell = {finding.subject for finding in diagnose(blind) if finding.verdict != "ok"}
    assert unwell == {
        "server", "eviction", "durability", "replicas", "memory", "connections", "rights", "loss",
    }  # fmt: skip
    assert all(isinstance(finding, Finding) for finding in diagnose(blind))
