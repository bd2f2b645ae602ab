"""The crew of the demo: starts its processes, listens to them, and ends them all, however the demo ends."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Self

from streamlayer import StreamlayerError
from streamlayer._cli.demo.processes import Ended, Failed, Ready, Said, Written, work


class Hand:
    """One of the crew: a process, and the pipe to it."""

    def __init__(self, name: str, process: BaseProcess, pipe: Connection) -> None:
        self.name = name
        self.process = process
        self.pipe = pipe

    def tell(self, word: object) -> None:
        """Say something; a process that has ended is found when it is listened to."""
        try:
            self.pipe.send(word)
        except BrokenPipeError:
            return


class HandFailedError(StreamlayerError):
    """One of the demo's processes could not go on."""


class Crew:
    """All hands; ends them on leaving the block."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self.hands: list[Hand] = []
        self._early: list[tuple[Hand, Said]] = []  # said before all were ready

    def __enter__(self) -> Self:
        """Nothing to do yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End who is still there."""
        for hand in self.hands:
            hand.pipe.close()
            hand.process.terminate()
        for hand in self.hands:
            hand.process.join()

    def start(self, name: str, task: Callable[..., Any], *args: Any) -> Hand:
        """Start a process that runs ``task(pipe, *args)``."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=work, args=(task, theirs, *args), name=name, daemon=True)
        with _interrupts_ignored():  # inherited: an early Ctrl-C gives no traceback there
            process.start()
        theirs.close()
        hand = Hand(name, process, ours)
        self.hands.append(hand)
        return hand

    def wait_until_ready(self) -> None:
        """Until each says that it is.

        :raises HandFailedError: one cannot go on.
        """
        unready = list(self.hands)
        while unready:
            for hand, said in self._said(self.hands):
                if isinstance(said, Ready):
                    unready.remove(hand)
                elif isinstance(said, Ended):
                    raise HandFailedError(f"the {hand.name} ended with status {said.status}")
                else:
                    self._early.append((hand, said))

    def listen(self) -> Iterator[tuple[Hand, Said]]:
        """What the hands say, as they say it, until each has said its last word.

        :raises HandFailedError: one cannot go on, or has ended without a last word.
        """
        yield from self._early
        done: list[Hand] = []
        while talking := [hand for hand in self.hands if hand not in done]:
            for hand, said in self._said(talking):
                if isinstance(said, Written | Ended):
                    done.append(hand)
                yield hand, said

    def _said(self, hands: Sequence[Hand]) -> Iterator[tuple[Hand, Said]]:
        """One word of each that has said something."""
        for pipe in wait([hand.pipe for hand in hands]):
            hand = next(hand for hand in hands if hand.pipe is pipe)
            try:
                said: Said = hand.pipe.recv()
            except (EOFError, ConnectionResetError):
                hand.process.join()
                code = hand.process.exitcode
                raise HandFailedError(f"the {hand.name} ended with status {code}") from None
            if isinstance(said, Failed):
                raise HandFailedError(f"the {hand.name} failed: {said.reason}")
            yield hand, said


@contextmanager
def _interrupts_ignored() -> Generator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
