"""The command ``streamlayer``. This file needs the standard library only, so that it can say which extra is missing."""

from __future__ import annotations

import sys

_EXTRAS = ("typer", "rich")


def main() -> None:
    """Run the command line and exit with its status: 0 done, 1 an error, 2 wrong usage, 130 interrupted."""
    try:
        from streamlayer._cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRAS:
            raise
        sys.exit("error: the command line needs two more packages: pip install 'streamlayer[cli]'")
    app(prog_name="streamlayer")
