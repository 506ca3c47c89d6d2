"""Calls in processes of their own, of one thread: one that dies takes no other with it, the peak memory that a run
measures is its own, and all of them end with this process, however it ends.

Importing all methods takes longer than ranking with many of them, so where forking is safe a process that has imported
them stays for later calls and makes each in a fork of itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial
from importlib import import_module
from typing import Any

from pydantic import validate_call

from unisr import fork, registry
from unisr.background import Background, Done, Event, Failed, Stopped
from unisr.errors import UnisrError

QUIET = {"OMP_NUM_THREADS": "1", "UNISR_PROGRESS": "0", "TOKENIZERS_PARALLELISM": "false",
         "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}  # fmt: skip
"""One thread a process: processes side by side are faster than threads side by side for models of this size. And torch
looks for GPUs without starting CUDA, which no fork could use after that."""


class JobError(UnisrError):
    """What a job's process said when it failed, or how it died."""


class Processes:
    """Starts calls on this machine; leaving the block ends those that still run.

    Args:
        slots: how many calls are wanted side by side; nothing is refused.
        environment: variables for the processes, over those of this one.
    """

    def __init__(self, slots: int = 1, environment: Mapping[str, str] | None = None) -> None:
        self._slots, self._environment = slots, {**(environment or {}), **QUIET}
        self._running: dict[Future[str], Background] = {}
        self._idle: list[Background] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in [*self._running.values(), *self._idle]:
            process.close()

    def slots(self) -> int:
        return self._slots

    def submit(self, function: str, payload: Any) -> Future[str]:
        """Call `function` (`module:name`) with `payload`, a JSON value that is read by its annotation.

        The future raises JobError where the function raised or its process died.
        """
        future: Future[str] = Future()
        process = self._running[future] = self._idle.pop() if self._idle else Background(self._environment)
        try:
            process.start(called, partial(self._settle, future), work=function, payload=payload)
        except OSError as error:
            del self._running[future]
            future.set_exception(JobError(f"no process could be started: {error}"))
        return future

    def _settle(self, future: Future[str], event: Event) -> None:
        if not isinstance(event, Done | Failed | Stopped):
            return
        process = self._running.pop(future)
        if fork.SAFE:
            self._idle.append(process)
        else:
            process.close()
        if isinstance(event, Done):
            future.set_result(event.value)
        else:
            future.set_exception(JobError(event.message if isinstance(event, Failed) else "stopped"))


def called(work: str, payload: Any) -> str:
    """What the function `module:name` gives for a payload; runs in the process of its own."""
    module, name = work.split(":")
    call = partial(validate_call(getattr(import_module(module), name)), payload)
    if not fork.SAFE:
        return call()
    registry.methods()
    return fork.forked(call)
