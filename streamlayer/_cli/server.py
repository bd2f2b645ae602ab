"""``streamlayer server``: a real server in the foreground, for trying things out."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from streamlayer._cli import output
from streamlayer._cli.options import examples
from streamlayer.embedded import EmbeddedServerError, Server

EXAMPLES = examples("streamlayer server", "streamlayer server --port 7000 --data-dir ./data")

DEFAULT_PORT = 6379
_LOOK_S = 0.5  # how often to look whether the server is still there


def server(
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="The loopback port to listen on; 0 takes any free one.")
    ] = DEFAULT_PORT,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where the data stays. Without it everything is gone when the server stops."
        ),
    ] = None,
) -> None:
    """Run a server here until Ctrl-C. It listens on this machine only."""
    stop = threading.Event()
    got: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        got.append(number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    with _started(data_dir, port) as running:
        _greet(running.url, data_dir)
        while not stop.wait(_LOOK_S):
            if running.pid is None:
                raise EmbeddedServerError("the server has ended by itself")
        output.console(stderr=True).print("Stopping.")
    if got[0] == signal.SIGINT:
        raise KeyboardInterrupt


def _started(data_dir: Path | None, port: int) -> Server:
    try:
        return Server(data_dir, port=port).start()
    except EmbeddedServerError as error:
        if "already in use" not in str(error):
            raise
        raise EmbeddedServerError(
            f"port {port} is taken: perhaps a Redis runs there, which will do as well. "
            "Otherwise choose another with --port; 0 takes any free one"
        ) from None


def _greet(url: str, data_dir: Path | None) -> None:
    place = f"in {data_dir}" if data_dir is not None else "in a temporary folder, which goes when it stops"
    out = output.console()
    out.print(
        f"[bold green]{url}[/bold green]  listens on this machine only; records are kept {place}. Ctrl-C stops it."
    )
    out.print("\nIn another terminal:")
    if url != f"redis://127.0.0.1:{DEFAULT_PORT}/0":
        out.print(f"  export STREAMLAYER_URL={url}")
    name = output.own_name()
    out.print(f"  echo hello | {name} produce greetings")
    out.print(f"  {name} consume greetings")
    out.file.flush()
