"""The demo, small: it proves what it says, and it fails when what it says is not so."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import servers

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "streamlayer._cli", "demo", "--lines", "20000"]

# A producer that has a fault: it does with each batch of lines as TAMPER says.
FAULTY = """
from streamlayer._cli.demo import corpus, processes

def by_turns(root, files):
    for place, (key, lines) in enumerate(corpus.by_turns(root, files)):
        if place == 100:
            TAMPER
        yield key, lines

def write_files(*args):
    processes.by_turns = by_turns
    return processes.write_files(*args)
"""
RUN_FAULTY = """
import sys
import faulty
from streamlayer._cli import main
from streamlayer._cli.demo import story
if __name__ == "__main__":
    story.write_files = faulty.write_files
    sys.argv[1:] = ["demo", "--lines", "20000"]
    main()
"""


@pytest.fixture(autouse=True)
def _a_server() -> None:
    """The demo takes the embedded server: skip where there is none."""
    servers.binary("valkey")


def environment(*folders: Path, **more: str) -> dict[str, str]:
    """An environment in which the package is found, and these folders."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *folders))), **more}


def test_the_demo(tmp_path: Path) -> None:
    """20,000 lines go through a server and a worker that are killed; the proofs hold, nothing stays behind."""
    done = subprocess.run(
        COMMAND, check=False, capture_output=True, text=True, env=environment(TMPDIR=str(tmp_path)), timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "The server was killed (SIGKILL)" in done.stdout
    assert "worker 1 was killed (SIGKILL) too. Its supervisor says:" in done.stdout
    assert re.search(r"worker 1 \(pid \d+\) was ended by SIGKILL after .*\n +worker 1 was taken out of", done.stdout)
    assert done.stdout.count("proven  ") == 3
    assert "FAILED" not in done.stdout
    assert re.search(r"^in +[\d,]+ +records/s", done.stdout, re.MULTILINE)
    assert re.search(r"^stored +\d\.\d\d +bytes per byte sent", done.stdout, re.MULTILINE)
    assert re.search(r"^stored twice +0 ", done.stdout, re.MULTILINE)
    assert re.search(r"^stood still +\d+\.\d\d s ", done.stdout, re.MULTILINE)
    assert "What to type next" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        ("lines = lines[1:]", "1 line missing, 0 too many"),
        ("lines = lines + lines[-1:]", "0 lines missing, 1 too many"),
        ("lines = [b'first', b'second'] + lines[2:]", "2 lines missing, 2 too many"),
        ("key = b'a stranger'", "a stranger: was never sent"),
    ],
)
def test_a_demo_that_fails(tmp_path: Path, tamper: str, words: str) -> None:
    """When lines are lost, stored twice or changed on their way, the demo says so, and its status is 1."""
    tmp_path.joinpath("faulty.py").write_text(FAULTY.replace("TAMPER", tamper))
    script = tmp_path / "run_faulty.py"
    script.write_text(RUN_FAULTY)
    done = subprocess.run(
        [sys.executable, str(script)],
        check=False, capture_output=True, text=True, env=environment(tmp_path), timeout=60,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "FAILED  the lines did not come back as they were sent" in done.stdout
    assert words in done.stdout
    assert "Traceback" not in done.stderr


def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C, which a terminal sends to all processes of the demo, ends it at once: 130, no word, nothing behind."""
    with subprocess.Popen(
        [*COMMAND[:-1], "500000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=environment(TMPDIR=str(tmp_path)),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if "2 producers" in line:
                break
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == ""
    assert list(tmp_path.iterdir()) == []
