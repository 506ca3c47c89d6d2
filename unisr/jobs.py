"""Named jobs in processes of one thread each: one starts when those it needs are done; a failure stops nothing else."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from tqdm import tqdm

from unisr.errors import UnisrError
from unisr.progress import silent

HEARTBEAT = 5.0
"""Seconds between two looks at the running jobs."""


@dataclass(frozen=True)
class Job:
    """Something to do with `payload`, after the jobs called `needs` (those that are in the same list)."""

    name: str
    payload: Any
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How one job ended."""

    name: str
    seconds: float
    note: str = ""
    """What it gave, in a few words."""
    error: str = ""

    @property
    def failed(self) -> bool:
        return bool(self.error)

    def __str__(self) -> str:
        state = f"FAILED: {self.error}" if self.failed else self.note
        return f"{self.name:<28} {clock(self.seconds):>8}  {state}"


def run_jobs(jobs: Sequence[Job], work: Callable[[Any], str], *, processes: int) -> list[Outcome]:
    """Outcomes in order of completion, while a bar tells what is running, done and left.

    Args:
        work: a module-level function from a payload to a short note.
        processes: side by side; 1 works in this process in the given order, with its own progress bars.
    """
    if processes == 1:
        return _one_by_one(jobs, work)
    schedule = _Schedule(jobs, work, processes)
    shape = "{desc} {n}/{total} done, {elapsed}{postfix}"
    terminal = sys.stderr.isatty()
    with tqdm(total=len(jobs), desc="runs", disable=silent() or not terminal, bar_format=shape) as bar:
        while schedule.waiting or schedule.running:
            for job in schedule.start():
                if not terminal:
                    bar.write(f"[{len(schedule.outcomes)}/{len(jobs)}] {job.name} started")
            for outcome in schedule.collect():
                bar.write(f"[{len(schedule.outcomes)}/{len(jobs)}] {outcome}")
                bar.update()
            bar.set_postfix_str(schedule.status())
    return schedule.outcomes


def timed(name: str, step: Callable[[], str], *, started: float | None = None) -> Outcome:
    """The outcome of `step()`; whatever it raises becomes the outcome's error."""
    started = time.monotonic() if started is None else started
    try:
        note, error = step(), ""
    except BrokenProcessPool:
        note, error = "", "its process died (out of memory, or killed)"
    except Exception as raised:
        note, error = "", str(raised) if isinstance(raised, UnisrError) else f"{type(raised).__name__}: {raised}"
    return Outcome(name, time.monotonic() - started, note=note, error=error)


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def _one_by_one(jobs: Sequence[Job], work: Callable[[Any], str]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for number, job in enumerate(jobs, start=1):
        outcomes.append(_blocked(job, outcomes) or timed(job.name, lambda job=job: work(job.payload)))
        tqdm.write(f"[{number}/{len(jobs)}] {outcomes[-1]}")
    return outcomes


def _blocked(job: Job, outcomes: Sequence[Outcome]) -> Outcome | None:
    """The outcome of a job that cannot start because one it needs has failed."""
    missing = [o.name for o in outcomes if o.failed and o.name in job.needs]
    return Outcome(job.name, 0.0, error=f"not started: {', '.join(missing)} failed") if missing else None


class _Schedule:
    """Which jobs wait, run and are done. Every job has a fresh process: one that dies takes no other with it, and the
    peak memory that a run measures is its own."""

    def __init__(self, jobs: Sequence[Job], work: Callable[[Any], str], processes: int) -> None:
        self.waiting, self.work, self.processes = list(jobs), work, processes
        self.running: dict[Future[str], _Running] = {}
        self.outcomes: list[Outcome] = []

    def start(self) -> list[Job]:
        """Start what is ready and tell which."""
        started = []
        while len(self.running) < self.processes and (job := self._ready()):
            self.waiting.remove(job)
            process = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_quiet_worker)
            self.running[process.submit(self.work, job.payload)] = _Running(job, process, time.monotonic())
            started.append(job)
        return started

    def collect(self) -> list[Outcome]:
        """Outcomes since the last call; waits up to `HEARTBEAT` for one."""
        before = len(self.outcomes)
        for future in wait(self.running, timeout=HEARTBEAT, return_when=FIRST_COMPLETED).done:
            ended = self.running.pop(future)
            self.outcomes.append(timed(ended.job.name, future.result, started=ended.since))
            ended.process.shutdown(wait=False)
        for job in list(self.waiting):
            if blocked := _blocked(job, self.outcomes):
                self.waiting.remove(job)
                self.outcomes.append(blocked)
        return self.outcomes[before:]

    def status(self) -> str:
        """What is running and for how long, and how many are left."""
        moment = time.monotonic()
        names = [f"{r.job.name} ({clock(moment - r.since)})" for r in self.running.values()]
        return f"running {', '.join(names) or 'nothing'} · {len(self.waiting)} waiting"

    def _ready(self) -> Job | None:
        unfinished = {job.name for job in self.waiting} | {r.job.name for r in self.running.values()}
        return next((job for job in self.waiting if not unfinished.intersection(job.needs)), None)


@dataclass(frozen=True)
class _Running:
    job: Job
    process: ProcessPoolExecutor
    since: float


def _quiet_worker() -> None:
    """One thread a process: processes side by side are faster than threads side by side for models of this size."""
    os.environ.update(OMP_NUM_THREADS="1", UNISR_PROGRESS="0", TOKENIZERS_PARALLELISM="false")
    import torch

    torch.set_num_threads(1)
