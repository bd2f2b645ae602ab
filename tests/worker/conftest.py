"""What the workers' tests ask for besides: a real server of their own."""

from __future__ import annotations

from tests.shell.conftest import any_client, any_server, own_server

__all__ = ["any_client", "any_server", "own_server"]
