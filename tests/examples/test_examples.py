"""Each example runs as it says it does, and prints what it should: by itself, and on a server that is there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamlayer.embedded import Server

ROOT = Path(__file__).resolve().parents[2]

OUTPUT = {
    "produce.py": """\
300 orders are in the log
order 300 is at offset 100 of orders[3]
3233 orders are at 100 to 3332 of partition 1
3233 orders are at 100 to 3332 of partition 2
3233 orders are at 101 to 3333 of partition 3
""",
    "consume.py": """\
anna ordered for 4500
bert ordered for 4500
carla ordered for 4500
""",
    "replay.py": """\
all: 24
from offset 20: [30, 31, 32, 33]
since 21 hours after the start: [31, 32, 33]
the last three: [31, 32, 33]
""",
    "async_pipeline.py": """\
b'attic' 98
b'attic' 99
b'cellar' 98
b'cellar' 99
b'kitchen' 98
b'kitchen' 99
""",
    "two_processes.py": """\
process 1 read 20000 records, in order for each of 10 keys
process 2 wrote 20000 records
""",
    "fan_in.py": """\
site 0: 5000 readings, in order
site 1: 5000 readings, in order
site 2: 5000 readings, in order
site 3: 5000 readings, in order
""",
    "rebuild.py": """\
caught up with 1000 payments
caught up with 500 payments
rebuilt from 1500 payments
the same as before: anna 1500, bert 1496, carla 1499
""",
}
BY_TURNS = {"two_processes.py"}  # which of its processes prints first is chance


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server of this file's own, on a port; each example has topics of its own."""
    with Server(port=0) as server:
        yield server.url


def run(name: str, *arguments: str, **variables: str) -> str:
    """Run an example as a person would; what it prints."""
    environment = {k: v for k, v in os.environ.items() if k != "STREAMLAYER_URL"} | variables
    ran = subprocess.run(
        [sys.executable, f"examples/{name}", *arguments],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    return "".join(sorted(ran.stdout.splitlines(keepends=True))) if name in BY_TURNS else ran.stdout


def test_no_example_is_left_out() -> None:
    """What is in the folder is what is tested, and is short enough to be read."""
    there = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "examples").glob("*.py")}
    assert there.keys() == OUTPUT.keys()
    assert max(there.values()) <= 70


@pytest.mark.parametrize("name", OUTPUT)
def test_it_runs_by_itself(name: str) -> None:
    """Nothing else is running, nothing is said about a server."""
    assert run(name) == OUTPUT[name]


@pytest.mark.parametrize("name", OUTPUT)
def test_it_runs_on_a_server_that_is_there(name: str, url: str) -> None:
    """With the url as an argument."""
    assert run(name, "--url", url) == OUTPUT[name]


def test_the_url_may_come_from_the_environment(url: str) -> None:
    """``STREAMLAYER_URL`` names the server; an example that clears up after itself runs twice on one."""
    assert run("replay.py", STREAMLAYER_URL=url) == run("replay.py", STREAMLAYER_URL=url) == OUTPUT["replay.py"]
