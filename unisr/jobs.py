"""Named jobs, each in a process of its own with one thread: one starts when those it needs are done; a failure stops
nothing else. The processes are on this machine, or on those of a Dask cluster (`unisr.cluster`)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic_core import to_jsonable_python
from tqdm import tqdm

from unisr.errors import in_words
from unisr.job_process import Processes
from unisr.progress import silent

HEARTBEAT = 5.0
"""Seconds between two looks at the running jobs."""


@dataclass(frozen=True)
class Job:
    """Something to do with `payload`, after the jobs called `needs` (those that are in the same list)."""

    name: str
    payload: Any
    """What pydantic can write as JSON, and read back by the annotation of the function that gets it."""
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


class Hosts(Protocol):
    """Where jobs run."""

    def slots(self) -> int:
        """How many jobs there is room for, side by side."""

    def submit(self, function: str, payload: Any) -> Future[str]:
        """Call `module:name` with a JSON value in a process of its own; the future gives its note or raises."""


def run_jobs(
    jobs: Sequence[Job], work: Callable[[Any], str], *, processes: int, cluster: str | None = None
) -> list[Outcome]:
    """Outcomes in order of completion, while a bar tells what is running, done and left.

    Args:
        work: a module-level function from a payload to a short note.
        processes: side by side on this machine; 1 works in this process in the given order, with its own bars.
        cluster: address of a Dask scheduler, whose workers run the jobs in place of this machine.

    Raises:
        ClusterError: nobody answers at `cluster`, or its workers cannot stand in for this machine.
    """
    if not jobs:
        return []
    if cluster is None and processes == 1:
        return _one_by_one(jobs, work)
    with _hosts(processes, cluster) as hosts:
        return _side_by_side(_Schedule(jobs, work, hosts), len(jobs))


def timed(name: str, step: Callable[[], str], *, started: float | None = None) -> Outcome:
    """The outcome of `step()`; whatever it raises becomes the outcome's error."""
    started = time.monotonic() if started is None else started
    try:
        note, error = step(), ""
    except Exception as raised:
        note, error = "", in_words(raised)
    return Outcome(name, time.monotonic() - started, note=note, error=error)


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def _hosts(processes: int, cluster: str | None) -> AbstractContextManager[Hosts]:
    if cluster is None:
        return Processes(processes)
    # Its package is needed by those who have a cluster only.
    from unisr.cluster import connect

    return connect(cluster)


def _one_by_one(jobs: Sequence[Job], work: Callable[[Any], str]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for number, job in enumerate(jobs, start=1):
        outcomes.append(_blocked(job, outcomes) or timed(job.name, lambda job=job: work(job.payload)))
        tqdm.write(f"[{number}/{len(jobs)}] {outcomes[-1]}")
    return outcomes


def _side_by_side(schedule: _Schedule, total: int) -> list[Outcome]:
    terminal = sys.stderr.isatty()
    shape = "{desc} {n}/{total} done, {elapsed}{postfix}"
    with tqdm(total=total, desc="runs", disable=silent() or not terminal, bar_format=shape) as bar:
        while schedule.waiting or schedule.running:
            for job in schedule.start():
                if not terminal:
                    bar.write(f"[{len(schedule.outcomes)}/{total}] {job.name} started")
            for outcome in schedule.collect():
                bar.write(f"[{len(schedule.outcomes)}/{total}] {outcome}")
                bar.update()
            bar.set_postfix_str(schedule.status())
    return schedule.outcomes


def _blocked(job: Job, outcomes: Sequence[Outcome]) -> Outcome | None:
    """The outcome of a job that cannot start because one it needs has failed."""
    missing = [o.name for o in outcomes if o.failed and o.name in job.needs]
    return Outcome(job.name, 0.0, error=f"not started: {', '.join(missing)} failed") if missing else None


class _Schedule:
    """Which jobs wait, run and are done."""

    def __init__(self, jobs: Sequence[Job], work: Callable[[Any], str], hosts: Hosts) -> None:
        self.waiting, self.hosts, self.function = list(jobs), hosts, f"{work.__module__}:{work.__qualname__}"
        self.running: dict[Future[str], _Running] = {}
        self.outcomes: list[Outcome] = []

    def start(self) -> list[Job]:
        """Start what is ready and tell which."""
        started = []
        # Without room anywhere, one job waits there for a place.
        room = max(1, self.hosts.slots())
        while len(self.running) < room and (job := self._ready()):
            self.waiting.remove(job)
            future = self.hosts.submit(self.function, to_jsonable_python(job.payload))
            self.running[future] = _Running(job, time.monotonic())
            started.append(job)
        return started

    def collect(self) -> list[Outcome]:
        """Outcomes since the last call; waits up to `HEARTBEAT` for one."""
        before = len(self.outcomes)
        for future in wait(self.running, timeout=HEARTBEAT, return_when=FIRST_COMPLETED).done:
            ended = self.running.pop(future)
            self.outcomes.append(timed(ended.job.name, future.result, started=ended.since))
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
    since: float
