"""The root of the command line: its commands, the global options, and what becomes of errors.

The rule: a user's mistake, a server that is away, a closed pipe and Ctrl-C end here, in one line or none, with an exit
status; a traceback is shown for a bug of ours, or when ``--debug`` asks for it.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from streamlayer import StreamlayerError, __version__
from streamlayer._cli import consume, demo, dlq, doctor, groups, produce, server, topics, worker
from streamlayer._cli.options import DebugOption, NamespaceOption, Session, examples
from streamlayer.errors import ServerUnavailableError

INTERRUPTED = 130  # what shells say of a command that Ctrl-C ended
CLOSED_PIPE = 141  # and of one whose reader went away


class Root(TyperGroup):
    """The group that all commands run in."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; turn what it raises into a line on stderr and an exit status."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            _leave_quietly()
            raise typer.Exit(CLOSED_PIPE) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except (StreamlayerError, OSError, ValueError, TypeError) as error:
            session = ctx.obj
            if isinstance(session, Session) and session.debug:
                raise
            _say(error)
            raise typer.Exit(1) from None
        return result


app = typer.Typer(
    cls=Root,
    name="streamlayer",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "streamlayer demo",
        "streamlayer server --data-dir ./data",
        "streamlayer topics create orders --partitions 8",
        "streamlayer produce orders --file orders.txt",
        "streamlayer consume orders --from beginning",
        "streamlayer worker shop:app --processes 4",
        "streamlayer lag billing",
        "streamlayer doctor",
    ),
)
app.add_typer(topics.app, name="topics")
app.add_typer(groups.app, name="groups")
app.add_typer(dlq.app, name="dlq")
app.command("lag", epilog=groups.LAG_EXAMPLES)(groups.lag)
app.command("produce", epilog=produce.EXAMPLES)(produce.produce)
app.command("consume", epilog=consume.EXAMPLES)(consume.consume)
app.command("worker", epilog=worker.EXAMPLES)(worker.worker)
app.command("server", epilog=server.EXAMPLES)(server.server)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor)
app.command("demo", epilog=demo.EXAMPLES)(demo.demo)


def _version(wanted: bool) -> None:
    if wanted:
        redis_py = metadata.version("redis")
        print(f"streamlayer {__version__} (Python {platform.python_version()}, redis-py {redis_py})")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(envvar="STREAMLAYER_URL", metavar="URL", help="The server; by default redis://localhost:6379/0."),
    ] = None,
    namespace: NamespaceOption = None,
    debug: DebugOption = False,
    version: Annotated[  # noqa: ARG001 - its callback does it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Kafka's log on the Redis you already run: topics, records, consumer groups, and a server to try it with."""
    logging.basicConfig(format="warning: %(message)s", level=logging.WARNING)
    ctx.obj = Session(url, namespace, debug)


def _say(error: Exception) -> None:
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    lines = [f"error: {text}", *getattr(error, "__notes__", [])]
    if isinstance(error, ServerUnavailableError):
        lines.append("`streamlayer server` starts a server here; --url or STREAMLAYER_URL names another one.")
    if not isinstance(error, (StreamlayerError, OSError)):
        lines.append(f"({type(error).__name__}; --debug before the command shows where it comes from)")
    print(*lines, sep="\n", file=sys.stderr)


def _leave_quietly() -> None:
    # What is left in the buffer would be written at exit, and fail again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
