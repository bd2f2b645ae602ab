"""A worker's child: it learns of its supervisor's end, however that comes."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from streamlayer._worker import child

FOR_EVER_MS = 3_600_000


@pytest.mark.parametrize("unread", [b"", b"a report"])
async def test_the_supervisors_end_is_noticed(unread: bytes) -> None:
    """Also if it dies before it has read the last report: the kernel then says that the pipe was reset."""
    supervisors, own = socket.socketpair()
    stop = asyncio.Event()
    arguments = (own, asyncio.get_running_loop(), stop, FOR_EVER_MS)
    threading.Thread(target=child.end_with_supervisor, args=arguments, daemon=True).start()
    own.send(unread)
    supervisors.close()
    await asyncio.wait_for(stop.wait(), 20)
    own.close()
