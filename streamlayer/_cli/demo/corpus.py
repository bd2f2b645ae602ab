"""What the demo sends: the Python files of the standard library that runs it, line by line.

No server, no process: paths in, lines out.
"""

from __future__ import annotations

import os
import sysconfig
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_LEFT_OUT = {"site-packages", "dist-packages", "__pycache__"}
_OPEN_AT_ONCE = 16  # files whose lines a producer sends by turns, as if as many programs wrote
_LINES_A_TURN = 20


@dataclass(frozen=True)
class SourceFile:
    """One file of the corpus.

    :ivar key: its path within the corpus, with slashes: the key of all its records.
    :ivar lines: how many lines.
    :ivar size: how many bytes.
    """

    key: bytes
    lines: int
    size: int


def standard_library() -> Path:
    """The folder of the running Python's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def collect(root: Path, most_lines: int) -> list[SourceFile]:
    """The ``.py`` files under a folder, in order of path, as many whole ones as fit into ``most_lines``."""
    files: list[SourceFile] = []
    left = most_lines
    for key in sorted(_paths(root)):
        lines = read_lines(root, key)
        if 0 < len(lines) <= left:
            files.append(SourceFile(key, len(lines), sum(map(len, lines))))
            left -= len(lines)
    return files


def _paths(root: Path) -> Iterator[bytes]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        place = Path(folder).relative_to(root)
        yield from (os.fsencode((place / name).as_posix()) for name in names if name.endswith(".py"))


def read_lines(root: Path, key: bytes) -> list[bytes]:
    """A file's lines with their ends: put together they are the file. Nothing if it cannot be read."""
    try:
        content = (root / os.fsdecode(key)).read_bytes()
    except OSError:
        return []
    lines = content.split(b"\n")
    last = lines.pop()
    return [line + b"\n" for line in lines] + ([last] if last else [])


def lines_of(files: Sequence[SourceFile]) -> int:
    """How many lines they have together."""
    return sum(file.lines for file in files)


def share(files: Sequence[SourceFile], parts: int) -> list[list[SourceFile]]:
    """Part the files so that each part has about as many lines."""
    shares: list[list[SourceFile]] = [[] for _ in range(parts)]
    loads = [0] * parts
    for file in files:
        lightest = loads.index(min(loads))
        shares[lightest].append(file)
        loads[lightest] += file.lines
    return shares


def by_turns(root: Path, files: Sequence[SourceFile]) -> Iterator[tuple[bytes, list[bytes]]]:
    """All lines of all files as ``(key, some lines)``: in order within a file, several files mixed with each other."""
    waiting = deque(files)
    open_files: deque[tuple[bytes, deque[list[bytes]]]] = deque()
    while waiting or open_files:
        while waiting and len(open_files) < _OPEN_AT_ONCE:
            key = waiting.popleft().key
            lines = read_lines(root, key)
            turns = deque(lines[i : i + _LINES_A_TURN] for i in range(0, len(lines), _LINES_A_TURN))
            if turns:
                open_files.append((key, turns))
        if not open_files:
            return
        key, turns = open_files.popleft()
        yield key, turns.popleft()
        if turns:
            open_files.append((key, turns))
