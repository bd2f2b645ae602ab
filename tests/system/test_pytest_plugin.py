"""What a user's pytest gets with the package: run as a user's, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

USERS_TESTS = """\
from pathlib import Path

import pytest

from streamlayer import Consumer, Producer


@pytest.mark.parametrize("name", ["one", "two"])
def test_that_writes(streamlayer_url, streamlayer_namespace, name):
    where = {"url": streamlayer_url, "namespace": streamlayer_namespace}
    with Producer(**where) as producer:
        producer.send("orders", name.encode())
    with Consumer("orders", **where) as consumer:
        assert [record.value for record in consumer.read_to_end()] == [name.encode()]
    with Path("urls").open("a") as urls:
        print(streamlayer_url, file=urls)
"""

USERS_CONFTEST = """\
import sys


def pytest_configure():
    assert "_streamlayer_pytestplugin" in sys.modules
    assert "streamlayer" not in sys.modules, "it was imported before anybody asked"
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a folder, as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder, env={**os.environ, "STREAMLAYER_URL": "redis://nobody.invalid/0"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_server_for_a_users_tests(tmp_path: Path) -> None:
    """One server for the run, gone after it; tests do not meet; nothing is imported before it is asked for."""
    (tmp_path / "test_users.py").write_text(USERS_TESTS, encoding="utf-8")
    (tmp_path / "conftest.py").write_text(USERS_CONFTEST, encoding="utf-8")
    ran = run(tmp_path)
    assert ran.returncode == 0, ran.stdout
    assert "2 passed" in ran.stdout
    (url,) = {*(tmp_path / "urls").read_text(encoding="utf-8").splitlines()}
    socket = Path(url.removeprefix("unix://").partition("?")[0])
    assert not socket.exists()


def test_the_fixtures_explain_themselves(tmp_path: Path) -> None:
    """``pytest --fixtures`` lists both, with what they give."""
    (tmp_path / "test_users.py").write_text("def test_nothing(): pass\n", encoding="utf-8")
    told = run(tmp_path, "--fixtures").stdout
    assert "streamlayer_url [session scope]" in told
    assert "The url of a real server" in told
    assert "streamlayer_namespace" in told
