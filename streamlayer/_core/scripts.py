"""The Lua files, read once: headers checked, includes resolved, named locals written from the header.

A script is plain text in ``_lua``; its header says what it takes and answers, and this loader holds it to that, at
import. ``ARGV[1]`` is always the caller's tag, which the reply repeats.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from typing import Final

_HEADER = ("KEYS", "ARGV", "returns", "errors", "flags", "slot", "cost")
_FLAGS = {"-", "no-writes", "allow-oom"}
_INCLUDE = re.compile(r"^-- @include (\S+)$")


class ScriptError(Exception):
    """A Lua file breaks the rules of its header. Raised at import: it is a mistake of this package, not of a user."""


@dataclass(frozen=True)
class Script:
    """One operation's Lua, in the two forms in which servers take it.

    :ivar name: the file's stem.
    :ivar keys: names of its keys; a last one ending in ``*`` stands for any number.
    :ivar args: names of its arguments, without the tag; a last one ending in ``*`` stands for any number.
    :ivar errors: the words it may refuse with.
    :ivar flags: ``no-writes``, ``allow-oom`` or empty.
    :ivar source: the text without a shebang (fakeredis takes no other).
    :ivar flagged: the text that real servers get, with the flags in a shebang.
    """

    name: str
    keys: tuple[str, ...]
    args: tuple[str, ...]
    errors: frozenset[str]
    flags: str
    source: str
    flagged: str
    sha: str
    flagged_sha: str


def _read(name: str) -> str:
    return resources.files("streamlayer").joinpath("_lua", *f"{name}.lua".split("/")).read_text(encoding="utf-8")


def _expand(name: str, text: str, stack: tuple[str, ...], seen: set[str]) -> str:
    """Replace each include line by the library's text, once, and report a cycle with its path."""
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        include = _INCLUDE.match(line)
        if include is None:
            lines.append(line)
            continue
        library = include[1]
        if library in stack:
            msg = f"{name}.lua:{number}: include cycle: {' -> '.join((*stack, library))}"
            raise ScriptError(msg)
        if library not in seen:
            seen.add(library)
            lines.append(_expand(library, _read(library), (*stack, library), seen))
    return "\n".join(lines)


def _header(name: str, text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in text.splitlines():
        found = re.match(r"^-- (\w+): (.*)$", line)
        if found:
            fields.setdefault(found[1], found[2].strip())
        elif not line.startswith("--"):
            break
    missing = [field for field in (name, *_HEADER) if field not in fields]
    if missing:
        msg = f"{name}.lua: the header lacks {', '.join(missing)}"
        raise ScriptError(msg)
    if fields["flags"] not in _FLAGS:
        msg = f"{name}.lua: flags are one of {sorted(_FLAGS)}, not {fields['flags']!r}"
        raise ScriptError(msg)
    return fields


def _locals(keys: list[str], args: list[str]) -> str:
    """Give KEYS and ARGV the names that the header gives them; ``name:int`` is a number, ``name*`` where more begin."""
    lines = ["local tag = ARGV[1]"]
    lines += [f"local {key} = KEYS[{i}]" for i, key in enumerate(keys, 1) if not key.endswith("*")]
    for i, arg in enumerate(args, 2):
        name, _, kind = arg.partition(":")
        if name.endswith("*"):
            lines.append(f"local {name[:-1]} = {i}")
            continue
        lines.append(f"local {name} = tonumber(ARGV[{i}])" if kind == "int" else f"local {name} = ARGV[{i}]")
    return "\n".join(lines)


def load(name: str, flags: str | None = None) -> Script:
    """Read and check one script.

    :param name: the stem of its file.
    :param flags: others than its header's, for a caller who has it do less.
    :raises ScriptError: the file breaks the rules.
    """
    text = _read(name)
    header = _header(name, text)
    keys, args = header["KEYS"].split(), [arg for arg in header["ARGV"].split() if arg != "-"]
    errors = frozenset(header["errors"].split()) - {"-"}
    body = _expand(name, text, (name,), set())
    used = set(re.findall(r"refuse\('([A-Z_]+)'", body)) | set(re.findall(r"return '([A-Z_]+)'", body))
    if unlisted := used - errors - {"FOREIGN"}:
        msg = f"{name}.lua: the header does not list {', '.join(sorted(unlisted))}"
        raise ScriptError(msg)
    if flags is None:
        flags = "" if header["flags"] == "-" else header["flags"]
    source = f"{_locals(keys, args)}\n{body}\n"
    flagged = f"#!lua{' flags=' + flags if flags else ''}\n{source}"
    return Script(
        name=name,
        keys=tuple(keys),
        args=tuple(arg.partition(":")[0] for arg in args),
        errors=errors,
        flags=flags,
        source=source,
        flagged=flagged,
        sha=hashlib.sha1(source.encode()).hexdigest(),  # noqa: S324 - the server's own name for a script
        flagged_sha=hashlib.sha1(flagged.encode()).hexdigest(),  # noqa: S324 - as above
    )


APPEND: Final = load("append")
FETCH: Final = load("fetch")
PEEK: Final = load("fetch", "no-writes")
"""The same where nothing is armed: it runs where a server refuses writes."""
LIST_OFFSETS: Final = load("list_offsets")
LIST_SEGMENTS: Final = load("list_segments")
TRIM: Final = load("trim")
CREATE_PARTITION: Final = load("create_partition")
DELETE_PARTITION: Final = load("delete_partition")
DESCRIBE_PARTITION: Final = load("describe_partition")
ALTER_PARTITION: Final = load("alter_partition")
FREEZE_PARTITION: Final = load("freeze_partition")
GROW_PARTITION: Final = load("grow_partition")
DELETE_RECORDS: Final = load("delete_records")
REPAIR_PARTITION: Final = load("repair_partition")
CHECK: Final = load("check")
CHECK_RIGHTS: Final = load("check_rights")
REGISTRY: Final = load("registry")
HEARTBEAT: Final = load("heartbeat")
LEAVE: Final = load("leave")
COMMIT: Final = load("commit")
DESCRIBE_GROUP: Final = load("describe_group")
DELETE_GROUP: Final = load("delete_group")

ALL: Final = (
    APPEND,
    FETCH,
    PEEK,
    LIST_OFFSETS,
    LIST_SEGMENTS,
    TRIM,
    CREATE_PARTITION,
    DELETE_PARTITION,
    DESCRIBE_PARTITION,
    ALTER_PARTITION,
    FREEZE_PARTITION,
    GROW_PARTITION,
    DELETE_RECORDS,
    REPAIR_PARTITION,
    CHECK,
    CHECK_RIGHTS,
    REGISTRY,
    HEARTBEAT,
    LEAVE,
    COMMIT,
    DESCRIBE_GROUP,
    DELETE_GROUP,
)
