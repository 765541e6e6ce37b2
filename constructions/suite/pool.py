"""Processes of this machine that outlive the loss of one of them, and do not outlive whoever started them."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

__all__ = ["WorkerPool"]


class WorkerPool(Executor):
    """A `ProcessPoolExecutor` of spawned processes.

    When a process dies, for lack of memory perhaps, a ProcessPoolExecutor fails everything that was waiting. Here each of those
    calls is run again, alone in a process of its own; only one that loses this process too raises BrokenProcessPool. Workers ignore
    Ctrl-C, which reaches them with the whole terminal: leaving the `with` block by an exception ends them at once, and so does the
    death of their parent.
    """

    def __init__(self, workers: int) -> None:
        self._stop = multiprocessing.get_context("spawn").Event()
        self._pool = self._processes(workers)
        self._alone = ThreadPoolExecutor(1)

    def _processes(self, workers: int) -> ProcessPoolExecutor:
        spawn = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(workers, spawn, initializer=_watch, initargs=(self._stop,))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        call, outer = functools.partial(fn, *args, **kwargs), Future[Any]()
        try:
            inner = self._pool.submit(call)
        except BrokenProcessPool:
            self._alone.submit(self._again, call, outer)
        else:
            inner.add_done_callback(functools.partial(self._settle, call, outer))
        return outer

    def _settle(self, call: Callable[[], Any], outer: Future[Any], inner: Future[Any]) -> None:
        if inner.cancelled():
            _cancel(outer)
        elif isinstance(inner.exception(), BrokenProcessPool) and not self._stop.is_set():
            self._alone.submit(self._again, call, outer)
        else:
            _pass_on(inner, outer)

    def _again(self, call: Callable[[], Any], outer: Future[Any]) -> None:
        if outer.cancelled() or self._stop.is_set():
            _cancel(outer)
            return
        with self._processes(1) as pool:
            inner = pool.submit(call)
        _pass_on(inner, outer)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.shutdown(wait, cancel_futures=cancel_futures)
        self._alone.shutdown(wait, cancel_futures=cancel_futures)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self.shutdown()
            return
        self._stop.set()
        # waits for them: a worker that is still starting reads from its parent, and would complain about its end
        self.shutdown(cancel_futures=True)


def _cancel(outer: Future[Any]) -> None:
    """For good, so that whoever waits for it hears of it."""
    if outer.cancel():
        outer.set_running_or_notify_cancel()


def _pass_on(inner: Future[Any], outer: Future[Any]) -> None:
    if not outer.set_running_or_notify_cancel():
        return
    error = inner.exception()
    if error is None:
        outer.set_result(inner.result())
    else:
        outer.set_exception(error)


def _watch(stop: Any) -> None:
    """In a worker, before any work: ignore Ctrl-C, and end with the parent or when it says so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_until, args=(stop,), daemon=True).start()


def _until(stop: Any) -> None:
    parent = multiprocessing.parent_process()
    while parent is not None and parent.is_alive():
        if stop.wait(0.5):
            break
    os._exit(1)
