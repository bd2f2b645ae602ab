"""``python -m streamlayer._cli``: the command where its script is not on the PATH."""

from __future__ import annotations

from streamlayer._cli import main

if __name__ == "__main__":  # spawned processes import this file too
    main()
