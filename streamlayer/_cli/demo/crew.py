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
from streamlayer._cli.demo.workers import Ended, Failed, Ready, Said, Written, work


class Worker:
    """One process and the pipe to it."""

    def __init__(self, name: str, process: BaseProcess, pipe: Connection) -> None:
        self.name = name
        self.process = process
        self.pipe = pipe
        self.killed = False

    def kill(self) -> None:
        """End it at once, whatever it is doing."""
        self.killed = True
        self.process.kill()

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
        self._early: list[tuple[Worker, Said]] = []  # said before all were ready

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

    def wait_until_ready(self) -> None:
        """Until each worker says that it is.

        :raises WorkerFailedError: one cannot go on.
        """
        unready = list(self.workers)
        while unready:
            for worker, said in self._said(self.workers):
                if isinstance(said, Ready):
                    unready.remove(worker)
                elif isinstance(said, Ended):
                    raise WorkerFailedError(f"the {worker.name} ended with status {said.status}")
                elif said is not None:
                    self._early.append((worker, said))

    def listen(self) -> Iterator[tuple[Worker, Said]]:
        """What the workers say, as they say it, until each has said its last word; who is started meanwhile counts.

        :raises WorkerFailedError: one cannot go on, or has ended without a last word and was not killed.
        """
        yield from self._early
        done: list[Worker] = []
        while talking := [worker for worker in self.workers if worker not in done]:
            for worker, said in self._said(talking):
                if said is None or isinstance(said, Written | Ended):
                    done.append(worker)
                if said is not None:
                    yield worker, said

    def _said(self, workers: Sequence[Worker]) -> Iterator[tuple[Worker, Said | None]]:
        """One word of each that has said something; ``None`` of one that was killed."""
        for pipe in wait([worker.pipe for worker in workers]):
            worker = next(worker for worker in workers if worker.pipe is pipe)
            try:
                said: Said = worker.pipe.recv()
            except (EOFError, ConnectionResetError):
                worker.process.join()
                if worker.killed:
                    yield worker, None
                    continue
                code = worker.process.exitcode
                raise WorkerFailedError(f"the {worker.name} ended with status {code}") from None
            if isinstance(said, Failed):
                raise WorkerFailedError(f"the {worker.name} failed: {said.reason}")
            yield worker, said


@contextmanager
def _interrupts_ignored() -> Generator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
