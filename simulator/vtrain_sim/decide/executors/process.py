"""A process that calls a function with one task after the other, and the end of it that gives the tasks."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from multiprocessing.connection import Connection, Pipe
from typing import Any

# Modules are found where they are found here. The user's script is not run again, as those of `multiprocessing` do.
_START = f"import sys; sys.path[:] = sys.argv[2:]; from {__name__} import serve; serve(int(sys.argv[1]))"


class Elsewhere(Exception):
    """Where in another process an exception was raised: the cause of that exception here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class WorkerProcess:
    """A process that runs tasks. work: the pickled function. What it prints goes to stderr."""

    def __init__(self, work: bytes) -> None:
        self.connection, theirs = Pipe()
        with theirs, _interrupts_held():
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, str(theirs.fileno()), *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=[theirs.fileno()],
            )
        self._send(work)

    def give(self, task: object) -> None:
        """Have a task run; what it gives is taken once, by `take`."""
        self._send(pickle.dumps(task))

    def take(self) -> Any:
        """The answer to the task. Raises what the function raised, and `EOFError` if the process died."""
        try:
            answer, error, where = pickle.loads(self.connection.recv_bytes())
        except OSError:
            raise EOFError from None
        if error is not None:
            raise error from Elsewhere(where)
        return answer

    def end(self) -> str:
        """End the process, if it has not ended; says how it did."""
        self._process.kill()
        code = self._process.wait()
        self.connection.close()
        return f"its process was ended by signal {-code}" if code < 0 else f"its process left with exit code {code}"

    def _send(self, data: bytes) -> None:
        # That the process died is found by taking its answer.
        with suppress(OSError):
            self.connection.send_bytes(data)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C goes to all processes of a terminal: those started meanwhile never see it, this one ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve(descriptor: int) -> None:
    """The life of a worker process: its connection is this descriptor. It ends when the other end does."""
    connection = Connection(descriptor)
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, inbox), daemon=True).start()
    work = inbox.get()
    while True:
        connection.send_bytes(_answered(work, inbox.get()))


def _receive(connection: Connection, inbox: queue.SimpleQueue[bytes]) -> None:
    """Hand on what comes; when what started this process is gone, so is the process, in the middle of its task."""
    with suppress(EOFError, OSError):
        while True:
            inbox.put(connection.recv_bytes())
    os._exit(1)


@lru_cache(maxsize=1)
def loaded(work: bytes) -> Callable[[Any], Any]:
    """A function that was pickled. What it holds, as a projector its estimates, serves all tasks of a process."""
    function: Callable[[Any], Any] = pickle.loads(work)
    return function


def _answered(work: bytes, task: bytes) -> bytes:
    """The pickled answer, or the exception and where it was raised."""
    try:
        return pickle.dumps((loaded(work)(pickle.loads(task)), None, ""))
    except Exception as error:
        where = traceback.format_exc()
        try:
            pickled = pickle.dumps((None, error, where))
            pickle.loads(pickled)
        except Exception:  # not every exception can be pickled
            return pickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error}"), where))
        return pickled
