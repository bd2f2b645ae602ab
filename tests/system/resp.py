"""Finds where messages of the Redis protocol end (RESP2, RESP3, requests, replies), and nothing else about them."""

from __future__ import annotations


class Splitter:
    """Takes bytes as they come off a socket; gives whole messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add bytes; return the messages that are whole now, each with its own bytes."""
        self._buffer += data
        messages: list[bytes] = []
        start = 0
        while start < len(self._buffer) and (end := message_end(self._buffer, start)) is not None:
            messages.append(bytes(self._buffer[start:end]))
            start = end
        del self._buffer[:start]
        return messages


def message_end(buffer: bytearray, start: int) -> int | None:
    """Return the position after the message that begins at `start`; None if more bytes have to come."""
    line_end = buffer.find(b"\r\n", start)
    if line_end < 0:
        return None
    kind, after = bytes(buffer[start : start + 1]), line_end + 2
    if kind in (b"$", b"!", b"="):  # a length, then as many bytes
        length = int(buffer[start + 1 : line_end])
        end = after if length < 0 else after + length + 2
        return end if end <= len(buffer) else None
    if kind in (b"*", b"~", b">", b"%", b"|"):  # a count, then as many messages
        count = int(buffer[start + 1 : line_end])
        if kind in (b"%", b"|"):
            count *= 2
        if kind == b"|":
            count += 1  # attributes, and the message they belong to
        position: int | None = after
        for _ in range(count):
            if position is None or position >= len(buffer):
                return None
            position = message_end(buffer, position)
        return position
    return after  # one line: a simple string, an error, a number, an inline command


def command_name(command: bytes) -> str:
    """Return the first word of a request, in capitals."""
    if not command.startswith(b"*"):
        return command.split(None, 1)[0].decode().upper() if command.strip() else ""
    return command.split(b"\r\n", 3)[2].decode().upper()
