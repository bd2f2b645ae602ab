"""``docker-compose.yml`` and the ``Dockerfile``, as far as they can be tried without Docker: what they say is run here.

Not shown by this: that images build and that containers reach each other.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import redis
from ruamel.yaml import YAML

from tests import servers
from tests.waiting import sync_wait_until

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]
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
    socket = tmp_path / "s"
    command = [servers.binary("redis"), *options, "--port", "0", "--unixsocket", str(socket), "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            sync_wait_until(socket.exists, "the server's socket")
            with redis.Redis(unix_socket_path=str(socket), decode_responses=True) as client:
                assert client.ping()
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
