"""The embedded server's keeper: a small process between the owner and the server, so that neither outlives its reason.

Run by path with a bare interpreter (``python -I -S _keeper.py SPEC``), so it imports the standard library only. It

1. takes the folder's lock, and hands it down to the server: the kernel lets go of it exactly when the server is gone,
2. starts the server and writes ``server.json``, by which other processes find it,
3. ends the server when its owner asks (a byte on stdin) or is gone, and leaves when the server has ended.

The owner imports the last part, which reads what this process writes.

Why a process: ``PR_SET_PDEATHSIG`` set by the owner fires when the *thread* that forked ends, and ``preexec_fn`` is
unsafe where there are threads. Here is one thread only, so the server may be tied to the keeper that way (on Linux).
That the owner is gone is seen twice: end of file on stdin, at once; and a changed parent, within a second, because
children forked by the owner hold a copy of that pipe and may outlive it.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from typing import TypedDict

LOCK, STATE, LOG = "server.lock", "server.json", "server.log"  # files in the server's folder
BUSY = b"BUSY\n"  # said on stdout when another server has the folder; else the server's pid is said
KILL, STOP = b"K", b"S"  # what the owner may say on stdin
PARENT_CHECK_S = 1.0
GRACE_S = 10.0  # between SIGTERM and SIGKILL
_PR_SET_PDEATHSIG = 1


class State(TypedDict):
    """What ``server.json`` holds."""

    pid: int
    socket: str
    port: int  # 0: none


def main() -> int:
    """Keep one server, as SPEC (JSON: folder, command, socket, port, owner, remove) says; returns its exit status."""
    spec = json.loads(sys.argv[1])
    folder: str = spec["folder"]
    lock = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.write(1, BUSY)
        return 0
    wake = _signals_as_bytes()
    server = _start(folder, spec["command"], lock)
    _write_state(folder, {"pid": server.pid, "socket": spec["socket"], "port": spec["port"]})
    os.write(1, b"%d\n" % server.pid)
    orphaned = _watch(server, wake, spec["owner"])
    _forget_state(folder)  # before the lock goes: whoever gets it next finds no stale address
    if orphaned:
        for path in spec["remove"]:
            shutil.rmtree(path, ignore_errors=True)
    return server.returncode if server.returncode >= 0 else 128 - server.returncode


def _signals_as_bytes() -> int:
    """Make SIGCHLD and SIGTERM readable, so that one ``select`` waits for everything."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, _noted)
    signal.set_wakeup_fd(writer)
    return reader


def _noted(number: int, frame: object) -> None:
    """A handler has to be there for the number to be written to the pipe."""


def _start(folder: str, command: list[str], lock: int) -> subprocess.Popen[bytes]:
    log = os.path.join(folder, LOG)
    if os.path.exists(log):
        os.replace(log, log + ".previous")  # this run's log and the one before: never more
    with open(log, "wb") as output:
        try:
            return subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[lock],
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
        except OSError as error:
            output.write(f"{command[0]} did not run: {error}\n".encode())  # the owner shows the log
            raise SystemExit(1) from error


def _end_with_parent() -> None:
    # For a `killall -9 python`, which takes owner and keeper together.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _write_state(folder: str, state: State) -> None:
    path = os.path.join(folder, STATE)
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(state, file)
    os.replace(path + ".new", path)


def _forget_state(folder: str) -> None:
    try:
        os.unlink(os.path.join(folder, STATE))
    except FileNotFoundError:
        pass  # the owner removed the folder by hand


def _watch(server: subprocess.Popen[bytes], wake: int, owner: int) -> bool:
    """Wait until the server has ended, ending it if need be; True if the owner was lost."""
    orphaned = False
    listening = [0, wake]
    while server.poll() is None:
        ready = select.select(listening, [], [], PARENT_CHECK_S)[0]
        said = os.read(0, 1) if 0 in ready else None
        told_to_end = wake in ready and signal.SIGTERM in os.read(wake, 64)
        orphaned = said == b"" or os.getppid() != owner
        if said == KILL:
            server.kill()
            listening = [wake]
        elif said is not None or orphaned or told_to_end:
            _end(server)
    return orphaned


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


# --- for the owner, and for who wants to attach -----------------------------------------------------------------------


def is_locked(folder: str) -> bool:
    """Whether a server, or a keeper about to start one, has the folder."""
    descriptor = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # said aloud: a child forked just now has a copy of the descriptor
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_state(folder: str) -> State | None:
    """What ``server.json`` says; None while there is no server."""
    try:
        with open(os.path.join(folder, STATE), encoding="utf-8") as file:
            state: State = json.load(file)
    except FileNotFoundError:
        return None
    return state


def log_tail(folder: str) -> str:
    """The last lines of the server's log, to end an error message with."""
    try:
        with open(os.path.join(folder, LOG), encoding="utf-8", errors="replace") as file:
            lines = file.read()[-4000:].splitlines()[-12:]
    except OSError:
        return ""
    return "\n".join(["; its log ends with:", *(f"    {line}" for line in lines)])


if __name__ == "__main__":
    sys.exit(main())
