"""``streamlayer doctor``: is this server fit to hold logs, and are they well?"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from typing import Annotated, Any

import redis
import typer
from redis.backoff import NoBackoff
from redis.retry import Retry

from streamlayer import Admin, GroupDescription, StreamlayerError, TopicDescription
from streamlayer._cli import output
from streamlayer._cli.options import NamespaceOption, Session, UrlOption, examples, session
from streamlayer._core.diagnosis import Broken, Facts, Finding, diagnose, worst
from streamlayer._core.durability import QUESTIONS, durability_of, settings_in
from streamlayer._core.entries import READY, read_entry
from streamlayer._core.group_calls import group_exists, list_groups
from streamlayer._core.keys import group_keys
from streamlayer._core.registry_calls import read_registry
from streamlayer._core.rights import PROBES, SINCE_7_2
from streamlayer._core.server import parse_info
from streamlayer._core.settings import DEFAULT_URL, namespace_of, parse_url
from streamlayer._sync.client import Client

EXAMPLES = examples("streamlayer doctor", "streamlayer doctor --strict --json")
PINGS = 50
SETTINGS = ("lazyfree-lazy-expire", "save", "stop-writes-on-bgsave-error")
PROBLEMS, UNREACHABLE = 1, 2
_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


def doctor(
    ctx: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="A warning counts as a problem.")] = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Look whether a server is fit to hold logs, and whether they are well; say what to do.

    It looks at the version, eviction, durability, replicas, memory, latency, connections, rights, retention, topics
    and groups, and writes nothing: what somebody left half done is told, and stays so.

    Exit status 1 if there is a problem, 2 if the server cannot be reached.
    """
    findings = diagnose(_look(session(ctx, url, namespace)))
    if json:
        output.print_json([finding._asdict() for finding in findings])
    else:
        _print(findings)
    verdict = worst(findings)
    if verdict == "problem" or (strict and verdict == "warning"):
        raise typer.Exit(PROBLEMS)


def _print(findings: list[Finding]) -> None:
    console = output.console()
    for finding in findings:
        colour = _COLOURS[finding.verdict]
        console.print(f"[{colour}]{finding.verdict:8}[/{colour}] {finding.subject:11} ", end="")
        console.print(finding.words, markup=False)
        if finding.advice and finding.verdict != "ok":
            console.print(f"{'':21}→ {finding.advice}", markup=False)


@contextmanager
def _connected(url: str) -> Generator[redis.Redis]:
    try:
        with redis.Redis.from_url(parse_url(url).url, protocol=2, retry=Retry(NoBackoff(), 0)) as client:  # pyright: ignore[reportUnknownMemberType]
            answer = _asked(client, "PING")
            if str(answer).startswith("BUSY"):
                raise redis.ConnectionError(answer)
            yield client
    except (redis.ConnectionError, redis.TimeoutError) as error:
        output.console(stderr=True).print(f"error: no connection to the server: {error}", markup=False)
        raise typer.Exit(UNREACHABLE) from None


def _look(where: Session) -> Facts:
    url = where.url or DEFAULT_URL
    namespace = namespace_of(where.namespace, parse_url(url))
    broken: list[Broken] = []
    with (
        closing(Client(url, None, namespace, None, allow_eviction=True)) as client,
        closing(Admin(url=url, namespace=namespace, allow_eviction=True)) as admin,
        _connected(url) as server,
    ):
        info = _asked(server, "INFO", "everything")
        topics, half_done = _topics(client, admin, broken)
        return Facts(
            info=parse_info(info.decode()) if isinstance(info, bytes) else {},
            settings=settings_in(_asked(server, "CONFIG", "GET", *SETTINGS)),
            durability=durability_of([_asked(server, *question) for question in QUESTIONS]),
            latency_ms=[_ping_ms(server) for _ in range(PINGS)],
            missing=_missing(server, namespace),
            topics=topics,
            half_done=half_done,
            groups=_groups(client, admin, broken),
            broken=broken,
        )


def _topics(client: Client, admin: Admin, broken: list[Broken]) -> tuple[list[TopicDescription], dict[str, str]]:
    """All topics, and the states of those that are half done: to describe these would finish them."""
    topics: list[TopicDescription] = []
    half_done: dict[str, str] = {}
    try:
        entries = client.call(read_registry(client.namespace))
    except StreamlayerError as error:
        broken.append(("topic", "", error))
        return topics, half_done
    for name, stored in sorted(entries.items()):
        if name.startswith(":"):
            continue
        try:
            entry = read_entry(stored, name)
            if entry.state == READY:
                topics += admin.describe_topics([name]).values()
            else:
                half_done[name] = entry.state
        except StreamlayerError as error:
            broken.append(("topic", name, error))
    return topics, half_done


def _groups(client: Client, admin: Admin, broken: list[Broken]) -> list[GroupDescription]:
    """All groups. ``Admin.list_groups`` would take those that have ended from the list."""
    groups: list[GroupDescription] = []
    try:
        listed = client.call(list_groups(client.namespace))
    except StreamlayerError as error:
        broken.append(("group", "", error))
        return groups
    for group_id in listed:
        try:
            if client.call(group_exists(group_keys(client.namespace, group_id))):
                groups += admin.describe_groups([group_id]).values()
        except StreamlayerError as error:
            broken.append(("group", group_id, error))
    return groups


def _asked(client: redis.Redis, *command: str) -> Any:
    """The answer as it is, or the refusal as a value."""
    pool: Any = client.connection_pool
    connection = pool.get_connection()
    try:
        connection.send_command(*command)
        return connection.read_response(disable_decoding=True)
    except redis.ResponseError as refused:
        return refused
    finally:
        pool.release(connection)


def _ping_ms(client: redis.Redis) -> float:
    began = time.perf_counter()
    _asked(client, "PING")
    return (time.perf_counter() - began) * 1000


def _missing(client: redis.Redis, namespace: str) -> list[str] | None:
    """Which of the rights that the README lists this user lacks; ``None`` if he may not ask."""
    name = _asked(client, "ACL", "WHOAMI")
    if not isinstance(name, bytes):
        return None
    missing: list[str] = []
    key = f"{namespace}:t:{{doctor:0}}:meta"
    for command, probe in PROBES.items():
        words = (key if word == "K" else word for word in probe.split())
        said = _asked(client, "ACL", "DRYRUN", name.decode(), *words)
        if isinstance(said, redis.ResponseError):
            if command in SINCE_7_2:
                continue  # this server does not know it
            return None
        if said != b"OK":
            missing.append(command)
    return missing
