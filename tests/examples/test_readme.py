"""The README's Python runs, and prints what the README says it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamlayer._core.rights import acl_rules
from streamlayer.embedded import Server

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
TITLES = [
    "the first example",
    "producing",
    "consuming and replaying",
    "consumer groups",
    "the async twin",
    "workers",
    "testing",
    "fakeredis",
    "retention",
    "groups",
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server of this file's own."""
    with Server() as server:
        yield server.url


def test_every_snippet_has_its_output() -> None:
    """No Python block of the README is left out of the tests below."""
    assert README.count("```python") == len(SNIPPETS) == len(TITLES)


@pytest.mark.parametrize(("snippet", "output"), SNIPPETS, ids=TITLES)
def test_a_snippet_prints_what_is_printed_below_it(
    snippet: str, output: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Each in a fresh process, in a folder of its own; the first and fakeredis' with no server but what they start."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("STREAMLAYER_URL", None)
    if "embedded" not in snippet and "fakeredis" not in snippet:
        environment["STREAMLAYER_URL"] = request.getfixturevalue("url")
    ran = subprocess.run(
        [sys.executable, "-c", snippet],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stderr == ""
    assert ran.stdout == output
    assert ran.returncode == 0


def test_the_first_example_is_short() -> None:
    """Twelve lines, as promised to the reader's patience."""
    assert len(SNIPPETS[0][0].splitlines()) <= 12


def test_the_rights_are_those_that_are_tested() -> None:
    """The line to type is the list that ``test_rights`` plays with."""
    assert f"ACL SETUSER app on >secret {' '.join(acl_rules('sl'))}\n" in README
