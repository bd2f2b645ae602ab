"""The loader of the Lua files: it holds each to its header, and says where one breaks the rules."""

from __future__ import annotations

import hashlib

import pytest

from streamlayer._core import scripts
from streamlayer._core.scripts import ScriptError, load
from streamlayer.errors import BY_WORD, WORDS_FOR_THE_CLIENT

HEADER = """\
-- probe: what a script looks like.
-- KEYS: meta others*
-- ARGV: topic_id position:int
-- returns: nothing
-- errors: STALE
-- flags: no-writes
-- slot: one partition's
-- cost: O(1)
"""


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A package of Lua files of the test's own, by name."""
    package: dict[str, str] = {}
    monkeypatch.setattr(scripts, "_read", package.__getitem__)
    return package


def test_a_script_is_its_header_made_code(files: dict[str, str]) -> None:
    """Keys and arguments become locals, the flags a shebang, each form has the server's own name for it."""
    files["probe"] = HEADER + "return { tag }"
    script = load("probe")
    assert (script.keys, script.args, script.errors, script.flags) == (
        ("meta", "others*"),
        ("topic_id", "position"),
        frozenset({"STALE"}),
        "no-writes",
    )
    assert script.source.splitlines()[:4] == [
        "local tag = ARGV[1]",
        "local meta = KEYS[1]",
        "local topic_id = ARGV[2]",
        "local position = tonumber(ARGV[3])",
    ]
    assert script.flagged == "#!lua flags=no-writes\n" + script.source
    assert script.sha == hashlib.sha1(script.source.encode()).hexdigest()
    assert script.flagged_sha == hashlib.sha1(script.flagged.encode()).hexdigest()


def test_without_flags_the_shebang_is_bare(files: dict[str, str]) -> None:
    """A real server must know that the script declares its keys; `-` stands for no flag."""
    files["probe"] = HEADER.replace("no-writes", "-")
    assert load("probe").flagged.startswith("#!lua\n")


@pytest.mark.parametrize("field", ["probe", "KEYS", "ARGV", "returns", "errors", "flags", "slot", "cost"])
def test_a_header_that_lacks_a_field_is_refused(files: dict[str, str], field: str) -> None:
    """The error names the file and what is missing."""
    files["probe"] = "".join(line for line in HEADER.splitlines(True) if not line.startswith(f"-- {field}:"))
    with pytest.raises(ScriptError, match=rf"probe\.lua: the header lacks {field}"):
        load("probe")


def test_a_header_ends_where_code_begins(files: dict[str, str]) -> None:
    """A comment further down is no header."""
    files["probe"] = HEADER.replace("-- cost: O(1)\n", "local x = 1\n-- cost: O(1)\n")
    with pytest.raises(ScriptError, match="lacks cost"):
        load("probe")


def test_unknown_flags_are_refused(files: dict[str, str]) -> None:
    """A flag that servers do not know would fail at load time, on the user's machine."""
    files["probe"] = HEADER.replace("no-writes", "no-write")
    with pytest.raises(ScriptError, match=r"flags are one of .* not 'no-write'"):
        load("probe")


@pytest.mark.parametrize("code", ["return refuse('GAP', '1')", "local function judge() return 'GAP', '0' end"])
def test_a_word_that_the_header_does_not_list_is_refused(files: dict[str, str], code: str) -> None:
    """The header's list of errors is complete, for words that come from libraries too."""
    files["probe"] = HEADER + "-- @include lib/words\n"
    files["lib/words"] = code
    with pytest.raises(ScriptError, match=r"probe\.lua: the header does not list GAP"):
        load("probe")


def test_libraries_are_included_once_and_in_order(files: dict[str, str]) -> None:
    """A library that two others need stands before both, one time."""
    files["probe"] = HEADER + "-- @include lib/a\n-- @include lib/b\nreturn 0"
    files["lib/a"] = "-- @include lib/base\nlocal one"
    files["lib/b"] = "-- @include lib/base\nlocal two"
    files["lib/base"] = "local base"
    source = load("probe").source
    assert source.count("local base") == 1
    assert source.index("local base") < source.index("local one") < source.index("local two")


def test_a_cycle_of_includes_is_reported_with_its_place(files: dict[str, str]) -> None:
    """The error names the file and line that close the circle, and the way round."""
    files["probe"] = HEADER + "-- @include lib/a"
    files["lib/a"] = "-- one\n-- @include lib/b"
    files["lib/b"] = "-- one\n-- two\n-- @include lib/a"
    with pytest.raises(ScriptError, match=r"lib/b\.lua:3: include cycle: probe -> lib/a -> lib/b -> lib/a"):
        load("probe")


@pytest.mark.parametrize("script", scripts.ALL, ids=lambda script: script.name)
def test_the_packages_own_scripts_keep_the_rules_of_fakeredis(script: scripts.Script) -> None:
    """Nothing is used that fakeredis does not have; each error word is one that the client knows."""
    for name in ("struct.", "bit.", "cmsgpack.", "cjson.", "redis.log", "redis.setresp", "redis.sha1hex"):
        assert name not in script.source, name
    assert script.errors <= set(BY_WORD) | WORDS_FOR_THE_CLIENT
    assert script.source.count("redis.call('TIME')") <= 1
