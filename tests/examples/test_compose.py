"""``docker-compose.yml`` and the ``Dockerfile``, as far as they can be tried without Docker: what they say is run here.

Not shown by this: that images build and that containers reach each other.
"""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from ruamel.yaml import YAML

from streamlayer import Admin
from streamlayer.embedded import Server
from tests import servers
from tests.examples.shop import ROOT, order, served, started, stop, totals
from tests.waiting import sync_wait_until

pytestmark = pytest.mark.system

COMPOSE = ROOT / "docker-compose.yml"
SERVICES: dict[str, Any] = YAML(typ="safe").load(COMPOSE)["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def checked(file: Path) -> subprocess.CompletedProcess[str]:
    """Hold a file against the schema of compose files, which is part of check-jsonschema."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_it_is_a_compose_file(tmp_path: Path) -> None:
    """The schema takes it, and would not take a misspelt word."""
    ran = checked(COMPOSE)
    assert ran.returncode == 0, ran.stdout
    spoilt = tmp_path / "docker-compose.yml"
    spoilt.write_text(COMPOSE.read_text(encoding="utf-8").replace("depends_on", "depends_upon"), encoding="utf-8")
    assert checked(spoilt).returncode != 0


def test_what_runs() -> None:
    """A Redis, the service, two workers: all wait for the Redis, and find it; nothing is open to other machines."""
    assert SERVICES.keys() == {"redis", "web", "worker"}
    assert SERVICES["worker"]["deploy"]["replicas"] == 2
    for name in ("web", "worker"):
        assert SERVICES[name]["depends_on"] == {"redis": {"condition": "service_healthy"}}
        assert SERVICES[name]["environment"] == {"STREAMLAYER_URL": "redis://redis:6379/0"}
        assert SERVICES[name]["build"] == "."
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_worker_may_finish_before_it_is_killed() -> None:
    """Docker waits for longer than the worker takes at most."""
    command = SERVICES["worker"]["command"]
    grace_ms = int(command[command.index("--grace-ms") + 1])
    assert int(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) * 1000 >= grace_ms + 5_000


def test_the_redis_takes_its_settings(tmp_path: Path) -> None:
    """A real server starts with this command, and has what the comments say."""
    program, *options = shlex.split(SERVICES["redis"]["command"])
    assert program == "redis-server"
    place = tmp_path / "s"
    command = [servers.binary("redis"), *options, "--port", "0", "--unixsocket", str(place), "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            with redis.Redis(unix_socket_path=str(place), decode_responses=True) as client:
                sync_wait_until(lambda: servers.answers(client), "the server answers")
                settings = client.config_get("appendonly", "appendfsync", "maxmemory*", "lazyfree-lazy-expire")
        finally:
            process.terminate()
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "everysec"
    assert settings["maxmemory"] == str(512 << 20)
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["lazyfree-lazy-expire"] == "yes"


def test_the_image_has_what_it_needs() -> None:
    """What is copied is there, and not ignored; it is all that the package is built of; the extra exists."""
    copied = [path for line in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE) for path in line.split()]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for path in copied:
        assert (ROOT / path).exists(), path
        assert f"!{path}" in ignored, path
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    built_of = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"], *built_of} <= {
        *copied
    }
    (extra,) = re.findall(r"pip install \S+ '/src\[(\w+)\]'", DOCKERFILE)
    assert extra in project["project"]["optional-dependencies"]


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def arguments(command: list[str], ports: dict[str, str]) -> list[str]:
    """What a container runs, as arguments of this Python, with other ports."""
    program, *rest = command
    module = {"python": [], "streamlayer": ["-m", "streamlayer._cli"]}[program]
    return [*module, *(re.sub(r"\b808\d\b", lambda found: ports[found[0]], word) for word in rest)]


def healthy(service: str, url: str, ports: dict[str, str]) -> bool:
    """Run what Docker runs to see how a container is."""
    kind, *command = SERVICES[service]["healthcheck"]["test"]
    assert kind == "CMD"
    with started(*arguments(command, ports), url=url) as look:
        return look.wait(30) == 0


def test_the_service_and_two_workers_run() -> None:
    """With the commands of the file: orders become invoices, all are healthy, and all stop in order."""
    ports = {port: str(free_port()) for port in ("8080", "8081", "8082")}
    second = [*SERVICES["worker"]["command"][:-1], "8082"]
    with (
        Server(port=0) as server,
        started(*arguments(SERVICES["web"]["command"], ports), url=server.url) as web,
        started(*arguments(SERVICES["worker"]["command"], ports), url=server.url) as worker,
        started(*arguments(second, ports), url=server.url) as other,
    ):
        assert served(web) == f"http://0.0.0.0:{ports['8080']}"
        shop = f"http://127.0.0.1:{ports['8080']}"
        for number in range(20):
            order(shop, f"customer {number}")
        for number in range(20):
            sync_wait_until(partial(totals, shop, f"customer%20{number}"), "an invoice for each", timeout=30)
        assert healthy("web", server.url, ports)
        assert healthy("worker", server.url, ports)
        with Admin(url=server.url) as admin:

            def shared() -> bool:
                members = admin.describe_groups(["billing"])["billing"].members
                return [len(member.assignment) for member in members] == [2, 2]

            sync_wait_until(shared, "each worker has two partitions of four", timeout=30)
        for process in (worker, other, web):
            stop(process)
        assert not healthy("web", server.url, ports)
