"""The crew of the demo: starts its workers, listens to them, and ends them all, however the demo ends."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Self

from streamlayer import StreamlayerError
from streamlayer._cli.demo.workers import Failed, Progress, Said, work


class Worker:
    """One process and the pipe to it."""

    def __init__(self, name: str, process: BaseProcess, pipe: Connection) -> None:
        self.name = name
        self.process = process
        self.pipe = pipe

    def tell(self, word: object) -> None:
        """Say something; a worker that has ended is found when it is listened to."""
        try:
            self.pipe.send(word)
        except BrokenPipeError:
            return


class WorkerFailedError(StreamlayerError):
    """One of the demo's processes could not go on."""


class Crew:
    """All workers; ends them all on leaving the block."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self.workers: list[Worker] = []

    def __enter__(self) -> Self:
        """Nothing to do yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End who is still there."""
        for worker in self.workers:
            worker.pipe.close()
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join()

    def start(self, name: str, task: Callable[..., Any], *args: Any) -> Worker:
        """Start a process that runs ``task(pipe, *args)``."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=work, args=(task, theirs, *args), name=name, daemon=True)
        with _interrupts_ignored():  # inherited: an early Ctrl-C gives no traceback there
            process.start()
        theirs.close()
        worker = Worker(name, process, ours)
        self.workers.append(worker)
        return worker

    def listen(self, workers: Sequence[Worker]) -> Iterator[tuple[Worker, Said]]:
        """What these workers say, as they say it, until each has said its last word.

        :raises WorkerFailedError: one cannot go on, or has ended without a last word.
        """
        open_pipes = {id(worker.pipe): worker for worker in workers}
        while open_pipes:
            for pipe in wait([worker.pipe for worker in open_pipes.values()]):
                worker = open_pipes[id(pipe)]
                try:
                    said: Said = worker.pipe.recv()
                except EOFError:
                    worker.process.join()
                    code = worker.process.exitcode
                    raise WorkerFailedError(f"the {worker.name} ended with status {code}") from None
                if isinstance(said, Failed):
                    raise WorkerFailedError(f"the {worker.name} failed: {said.reason}")
                if not isinstance(said, Progress):
                    del open_pipes[id(pipe)]
                yield worker, said


@contextmanager
def _interrupts_ignored() -> Generator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
