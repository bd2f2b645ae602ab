"""``streamlayer doctor``: is this server fit to hold logs, and are they well?"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated, Any

import redis
import typer
from redis.backoff import NoBackoff
from redis.retry import Retry

from streamlayer import Admin, GroupDescription, StreamlayerError, TopicDescription
from streamlayer._cli import output
from streamlayer._cli.options import NamespaceOption, Session, UrlOption, examples, session
from streamlayer._core.diagnosis import Facts, Finding, diagnose, worst
from streamlayer._core.durability import QUESTIONS, durability_of, settings_in
from streamlayer._core.rights import PROBES, SINCE_7_2
from streamlayer._core.server import parse_info
from streamlayer._core.settings import DEFAULT_URL, namespace_of, parse_url

EXAMPLES = examples("streamlayer doctor", "streamlayer doctor --strict --json")
PINGS = 50
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

    It looks at the version, eviction, durability, replicas, memory, latency, connections, rights, topics and groups,
    and writes nothing; but a topic that somebody left half done is finished, as by any use.

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
            client.ping()  # pyright: ignore[reportUnknownMemberType]
            yield client
    except (redis.ConnectionError, redis.TimeoutError) as error:
        output.console(stderr=True).print(f"error: no connection to the server: {error}", markup=False)
        raise typer.Exit(UNREACHABLE) from None


def _look(where: Session) -> Facts:
    url = where.url or DEFAULT_URL
    with _connected(url) as client:
        info = _asked(client, "INFO", "everything")
        settings = settings_in(_asked(client, "CONFIG", "GET", "lazyfree-lazy-expire"))
        durability = durability_of([_asked(client, *question) for question in QUESTIONS])
        latency_ms = [_ping_ms(client) for _ in range(PINGS)]
        missing = _missing(client, namespace_of(where.namespace, parse_url(url)))
    topics: list[TopicDescription] = []
    broken: list[tuple[str, str, StreamlayerError]] = []
    groups: list[GroupDescription] = []
    with Admin(url=where.url, namespace=where.namespace, allow_eviction=True) as admin:
        for name in admin.list_topics():
            try:
                topics += admin.describe_topics([name]).values()
            except StreamlayerError as error:
                broken.append(("topic", name, error))
        for name in admin.list_groups():
            try:
                groups += admin.describe_groups([name]).values()
            except StreamlayerError as error:
                broken.append(("group", name, error))
    fields = parse_info(info.decode()) if isinstance(info, bytes) else {}
    return Facts(fields, settings, durability, latency_ms, missing, topics, broken, groups)


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
    client.ping()  # pyright: ignore[reportUnknownMemberType]
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
