"""What commands share: the options that say where the server is, and examples for their help."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.markup import escape

UrlOption = Annotated[str | None, typer.Option("--url", metavar="URL", help="The server, as in `streamlayer --url`.")]
NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", metavar="NAME", help="What all keys begin with; by default sl.")
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@dataclass(frozen=True)
class Session:
    """What was said before the command, as in ``streamlayer --url … --debug topics list``."""

    url: str | None = None
    namespace: str | None = None
    debug: bool = False


def session(ctx: typer.Context, url: str | None, namespace: str | None) -> Session:
    """Where the server is: what was said after the command counts first."""
    before = ctx.obj
    assert isinstance(before, Session)
    return Session(url or before.url, namespace or before.namespace, before.debug)


def examples(*commands: str) -> str:
    """The end of a help text. Each example is a paragraph: typer joins the lines of one."""
    return "\n\n".join(["[bold]Examples[/bold]", *(f"[dim]$[/dim] {escape(command)}" for command in commands)])


def pairs(given: Iterable[str], option: str) -> dict[str, str]:
    """``name=value`` options as a mapping.

    :raises typer.BadParameter: one is not of that form, or a name comes twice.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r} is not name=value", param_hint=option)
        if name in found:
            raise typer.BadParameter(f"{name!r} is given twice", param_hint=option)
        found[name] = value
    return found
