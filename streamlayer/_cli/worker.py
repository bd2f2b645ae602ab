"""``streamlayer worker``: the consumers of an app in supervised processes."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Annotated

import typer

from streamlayer._cli.options import DebugOption, Session, examples
from streamlayer._worker.child import set_up_logging
from streamlayer._worker.supervisor import Supervisor
from streamlayer._worker.target import AppNotFoundError, find_app

EXAMPLES = examples("streamlayer worker shop:app", "streamlayer worker shop:app --processes 4 --port 8080")

_LEVELS = ("debug", "info", "warning", "error")


def worker(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="MODULE:APP", help="A module, and the App in it.")],
    processes: Annotated[int, typer.Option("--processes", "-n", min=1, metavar="N", help="How many processes.")] = 1,
    grace_ms: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="MS",
            help="How long handlers may take to finish when it is told to stop; else as the app says.",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, metavar="N", help="Answer /health and /ready on this loopback port; 0: any."),
    ] = None,
    log_level: Annotated[str, typer.Option(metavar="LEVEL", help=f"The least to log: {', '.join(_LEVELS)}.")] = "info",
    debug: DebugOption = False,
) -> None:
    """Run an app's consumers in processes of their own, until SIGTERM or Ctrl-C.

    A process that dies is started again, and its partitions go on with the others meanwhile. When it is told to stop,
    handlers finish, what is done is committed, and the group is left; a second signal ends everything at once.
    """
    session = ctx.obj
    assert isinstance(session, Session)
    if log_level.lower() not in _LEVELS:
        raise typer.BadParameter(f"{log_level!r} is none of {', '.join(_LEVELS)}", param_hint="--log-level")
    if session.namespace is not None:
        raise typer.BadParameter("a worker's namespace is its app's: App(namespace=…)", param_hint="--namespace")
    if session.url is not None:
        os.environ["STREAMLAYER_URL"] = session.url  # for an app that names no server, here and in the processes
    root = logging.getLogger()
    for handler in [*root.handlers]:
        root.removeHandler(handler)  # what the module sets up holds here as in its processes
    try:
        app = find_app(target)
    except AppNotFoundError as error:
        if debug or session.debug:
            raise
        raise typer.BadParameter(str(error), param_hint="MODULE:APP") from None
    level = log_level.upper()
    set_up_logging(level)
    status = asyncio.run(
        Supervisor(
            target,
            app,
            processes=processes,
            grace_ms=app.grace_ms if grace_ms is None else grace_ms,
            port=port,
            level=level,
        ).run()
    )
    if status:
        raise typer.Exit(status)
