"""``module:app`` finds an app in the current folder, and says what is wrong otherwise."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from streamlayer._worker.target import AppNotFoundError, find_app

SHOP = """
import asyncio

class App:
    def health(self): ...
    def members(self): ...
    def groups(self):
        return self.handlers

    handlers = ["billing"]
    def admin(self): ...
    async def serve(self, stop, *, grace_ms=None): ...

class Group:
    app = App()

orders = App()
nothing = None

class Proxy:
    def __getattr__(self, name):
        raise RuntimeError("there is nothing behind it yet")

request = Proxy()
idle = App()
idle.handlers = []
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder, under a name that no other test has."""
    name = f"shop_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return name


def test_found(shop: str) -> None:
    """In a module, and in something in it."""
    assert find_app(f"{shop}:orders").groups() == ["billing"]
    assert find_app(f"{shop}:Group.app").groups() == ["billing"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("order", "has no 'order'; it has SHOP:orders, SHOP:idle"),
        ("Group.ap", "has no 'Group.ap'; it has SHOP:orders, SHOP:idle"),
        ("nothing", "SHOP:nothing is no App but a NoneType; it has SHOP:orders"),
        ("idle", "SHOP:idle has no handlers: declare one with @idle.consumer"),
        ("request", "SHOP:request is no App but a Proxy; it has SHOP:orders"),
        ("App", "SHOP:App is no App but a type"),
    ],
)
def test_no_app(shop: str, path: str, words: str) -> None:
    """What there is instead is named."""
    with pytest.raises(AppNotFoundError) as refused:
        find_app(f"{shop}:{path}")
    assert words.replace("SHOP", shop) in str(refused.value)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("shop", "'shop' is not module:app, a module and an app in it: perhaps shop:app"),
        ("./web/shop.py", "perhaps web.shop:app"),
        (":app", "is not module:app"),
        ("shop:", "is not module:app"),
        ("web/shop.py:app", "a module's name has no slashes, and no .py at its end"),
        ("no_such_module:app", "there is no module 'no_such_module'"),
        ("sys.no_such_module:app", "there is no module 'sys.no_such_module'"),
        (".shop:app", "cannot be imported: TypeError"),
    ],
)
def test_no_module(target: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A form that cannot be, or a name that nobody has."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(AppNotFoundError) as refused:
        find_app(target)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit('enough')", "SystemExit: enough"),
        ("def", "SyntaxError: "),
    ],
)
def test_a_module_that_fails(shop: str, tmp_path: Path, code: str, words: str) -> None:
    """What it raised is told, and where: a module of a user's may do anything."""
    name = f"{shop}_broken"
    (tmp_path / f"{name}.py").write_text(f"\n{code}\n")
    with pytest.raises(AppNotFoundError) as refused:
        find_app(f"{name}:app")
    assert f"the module '{name}' cannot be imported: {words}" in str(refused.value)
    assert "SyntaxError" in words or f"{name}.py:2)" in str(refused.value)
    assert refused.value.__cause__ is not None
