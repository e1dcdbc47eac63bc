"""Workers that are processes of this machine, forked so that they have the recipe without its being pickled."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pickle
import signal
import sys
import time
import warnings
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, Never

import torch

from gradiometer.trials.dispatch import Dispatcher
from gradiometer.trials.executors import MOST, cores
from gradiometer.trials.worker import Job, Outcome, Stacking, Worker

READY = "ready"

BEGINNING = 30.0
"""Seconds after which a process that has not begun to listen never will: it waits for a lock of a thread it has not."""

PATIENCE = 0.5
"""Seconds in which a process that waits for work ends by itself when its pipe is closed."""

_ends: weakref.WeakSet[Connection] = weakref.WeakSet()
"""This process's ends of all pipes. A fork has them too and closes them: held open there, the pipe of another would not
end with this process."""


class LocalExecutor(Dispatcher):
    """Does jobs in processes of this machine, one thread each.

    They are forked when they are needed, at most one for each job. One that dies is replaced, and its job repeated
    once. Where a fork is not to be had or not safe everything is done in this process.
    """

    def __init__(self, workers: int | None = None, stacking: Stacking = "faster") -> None:
        """``workers``: as many as there are cores, at most eight, if left out."""
        super().__init__(workers or min(MOST, cores()), stacking)
        self._children: dict[int, _Child] = {}
        self._number = 0
        self._end = weakref.finalize(self, _end, self._children, os.getpid())

    def close(self) -> None:
        """Ends the processes; none is left, and no pipe."""
        _end(self._children, os.getpid())
        super().close()

    def _start(self, count: int) -> bool:
        while len(self._children) < count and can_fork():
            try:
                child = _Child(self._live)
            except OSError:
                break
            if self._context:
                child.send(("tell", *self._context))
            self._children[self._number] = child
            self._number += 1
        return bool(self._children)

    def _live(self, connection: Connection, parent: int) -> None:
        """What a child does all its life."""

        def look_up() -> None:
            if os.getppid() != parent:
                os._exit(0)

        torch.set_num_threads(1)
        torch.ones(1, requires_grad=True).sum().backward()  # fails where autograd has threads that a fork has lost
        worker = Worker(self.recipe_of, self.stacking, look_up)
        connection.send(READY)
        while True:
            kind, *given = pickle.loads(connection.recv_bytes())
            if kind == "advance":
                connection.send_bytes(pickle.dumps(worker.advance(*given)))
            else:
                getattr(worker, kind)(*given)

    def _free(self) -> list[int]:
        return [number for number in self._children if number not in self._under_way]

    def _send(self, worker: int, job: Job, deadline: float) -> None:
        self._children[worker].pass_on()
        self._children[worker].send(("advance", job, deadline))

    def _hear(self, seconds: float) -> list[tuple[int, Outcome | str]]:
        ready = wait([child.connection for child in self._children.values()], seconds)
        answers: list[tuple[int, Outcome | str]] = []
        for number, child in list(self._children.items()):
            answer = None
            if child.connection in ready:
                with contextlib.suppress(EOFError, OSError):
                    answer = pickle.loads(child.connection.recv_bytes())
            elif not child.over():  # where it is gone what it has forked may still hold its pipe open
                continue
            if answer is None:
                del self._children[number]
                answer = child.end()
            answers.append((number, answer))
        return answers

    def _abandon(self, worker: int) -> None:
        self._children.pop(worker).end()

    def _pass_on_context(self, context: Any) -> None:
        message = pickle.dumps(("tell", context))
        for number, child in self._children.items():
            child.send(message, later=number in self._under_way)

    def _pass_on_forget(self, arm: tuple[str, ...]) -> None:
        for number, child in self._children.items():
            child.send(("forget", arm), later=number in self._under_way)


class _Child:
    """A forked process and the pipe to it."""

    def __init__(self, live: Callable[[Connection, int], None]) -> None:
        self.connection, there = Pipe()
        _ends.add(self.connection)
        self._later: list[bytes] = []
        self._status: int | None = None
        self.pid = _fork(live, there)
        there.close()
        try:
            began = self.connection.poll(BEGINNING) and self.connection.recv() == READY
        except (EOFError, OSError):
            began = False
        if not began:
            self.end()
            raise OSError("a fork of this process does not work")

    def send(self, message: object, *, later: bool = False) -> None:
        """Sends a message, which a child at work gets when it has ended that: it would not read it before."""
        data = message if isinstance(message, bytes) else pickle.dumps(message)
        if later:
            self._later.append(data)
            return
        with contextlib.suppress(OSError):  # that it is gone is heard of where its answers are
            self.connection.send_bytes(data)

    def pass_on(self) -> None:
        """Sends what was kept for later."""
        messages, self._later = self._later, []
        for message in messages:
            self.send(message)

    def over(self) -> bool:
        """Whether it has ended, by itself or by force."""
        if self._status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else has waited for it
                pid, status = self.pid, 0
            if pid:
                self._status = status
        return self._status is not None

    def end(self, patience: float = 0.0) -> str:
        """Ends it for good and says how it has ended."""
        self.connection.close()
        until = time.monotonic() + patience
        while not self.over() and time.monotonic() < until:
            time.sleep(0.005)
        if not self.over():
            os.kill(self.pid, signal.SIGKILL)
            while not self.over():
                time.sleep(0.001)
        code = os.waitstatus_to_exitcode(self._status or 0)
        if code >= 0:
            return f"its process ended with code {code}"
        return f"its process was killed (signal {-code})" + (": out of memory?" if -code == signal.SIGKILL else "")


def can_fork() -> bool:
    """Whether a fork of this process would work."""
    return (
        hasattr(os, "fork")
        and sys.platform != "darwin"  # its frameworks do not survive one: Python's issue 77906
        and not torch.cuda.is_initialized()  # nor does CUDA
        and not multiprocessing.current_process().daemon  # which must not leave children behind
    )


def _fork(live: Callable[[Connection, int], None], connection: Connection) -> int:
    for stream in (sys.stdout, sys.stderr):  # or what waits in there would be written twice
        with contextlib.suppress(Exception):
            stream.flush()
    parent = os.getpid()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with warnings.catch_warnings():
            # Threads of the parent (a progress bar, OpenMP) are not there in a child, with the locks that they hold.
            # A child neither draws progress nor computes on more than one thread.
            warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _begin(live, connection, parent, mask)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid


def _begin(live: Callable[[Connection, int], None], connection: Connection, parent: int, mask: Any) -> Never:
    """A child, from its first breath to its last."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which knows what to do
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for end in list(_ends):
            end.close()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # nobody types into this process
        gc.freeze()  # what the parent has made is never garbage here, and stays in shared pages
        live(connection, parent)
    except (EOFError, OSError):
        code = 0  # the parent is gone, or has ended this
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


def _end(children: dict[int, _Child], owner: int) -> None:
    """Ends all processes; a fork that has a copy of the executor must not."""
    if os.getpid() != owner:
        return
    gone = list(children.values())
    children.clear()
    for child in gone:
        child.connection.close()
    until = time.monotonic() + PATIENCE
    for child in gone:
        child.end(max(0.0, until - time.monotonic()))
