"""``module:app``: an app found by its name, in the current folder too, as a worker's children and their supervisor do.

The rule: whatever is wrong with the name, or with the module, comes out as one `AppNotFoundError` that says what to do.
"""

from __future__ import annotations

import asyncio
import difflib
import importlib
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Protocol, cast

from streamlayer._async.admin import Admin
from streamlayer._types import Health
from streamlayer.errors import ConfigurationError


class AppNotFoundError(ConfigurationError):
    """``module:app`` names none."""


class Served(Protocol):
    """What is used of an app."""

    @property
    def grace_ms(self) -> int:
        """How long what is in flight may take when it is to end."""
        ...

    def health(self) -> Health:
        """How its consumers are doing: the worst of them."""
        ...

    def members(self) -> Sequence[tuple[str, str]]:
        """Its memberships: group and member id."""
        ...

    def groups(self) -> Collection[str]:
        """The groups that it is in."""
        ...

    def admin(self) -> Admin:
        """An administrator of the server that it uses."""
        ...

    async def serve(self, stop: asyncio.Event, *, grace_ms: int | None = None) -> None:
        """Run its consumers until the event is set."""
        ...


def find_app(target: str) -> Served:
    """The app of that name.

    :raises AppNotFoundError: there is none.
    """
    name, colon, path = target.partition(":")
    if not (name and colon and path):
        hint = f"{name.removesuffix('.py').strip('./').replace('/', '.') or 'shop'}:app"
        msg = f"{target!r} is not module:app, a module and an app in it: perhaps {hint}"
        raise AppNotFoundError(msg)
    module = _module(name)
    found: object = module
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise AppNotFoundError(_without(module, path)) from None
    if not _is_app(found):
        msg = f"{target} is no App but a {type(found).__name__}{_instead(module)}"
        raise AppNotFoundError(msg)
    app = cast("Served", found)
    if not app.groups():
        msg = f"{target} has no handlers: declare one with @{path}.consumer, in a module that {name} imports"
        raise AppNotFoundError(msg)
    return app


def _is_app(found: object) -> bool:
    """Whether it is one. Its type says so: asking the object could run anything, as a proxy does."""
    kind = type(found)
    return all(callable(getattr(kind, name, None)) for name in ("health", "members", "groups", "admin", "serve"))


def _module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise AppNotFoundError(_broken(name, error)) from error
        msg = f"there is no module {error.name!r}: neither in {here} nor where Python looks for installed ones"
        if os.sep in name or name.endswith(".py"):
            msg += "; a module's name has no slashes, and no .py at its end"
        raise AppNotFoundError(msg) from None
    except (Exception, SystemExit) as error:  # whatever a user's module does
        raise AppNotFoundError(_broken(name, error)) from error


def _broken(name: str, error: BaseException) -> str:
    place = extract_tb(error.__traceback__)[-1]
    return f"the module {name!r} cannot be imported: {type(error).__name__}: {error} ({place.filename}:{place.lineno})"


def _without(module: ModuleType, path: str) -> str:
    near = difflib.get_close_matches(path, vars(module), n=1)
    hint = _instead(module) or (f"; did you mean {near[0]}?" if near else "")
    return f"the module {module.__name__!r} has no {path!r}{hint}"


def _instead(module: ModuleType) -> str:
    apps = [name for name, value in vars(module).items() if _is_app(value)]
    return f"; it has {', '.join(f'{module.__name__}:{name}' for name in apps)}" if apps else ""
