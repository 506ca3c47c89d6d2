"""Jobs run after what they need; failures and dying processes are told and stop nothing else."""

from __future__ import annotations

import os

import pytest

from unisr.errors import ConfigError
from unisr.jobs import Job, clock, run_jobs


def work(payload: str) -> str:
    if payload == "raise":
        raise ConfigError("set it to 1")
    if payload == "die":
        os._exit(3)
    return f"did {payload}"


JOBS = [
    Job("reader", "r", ("table",)),
    Job("table", "t"),
    Job("bad", "raise"),
    Job("after bad", "x", ("bad",)),
    Job("z", "z"),
]


@pytest.mark.parametrize("processes", [1, 2])
def test_failures_stop_only_what_needs_them(processes: int) -> None:
    jobs = JOBS if processes == 2 else sorted(JOBS, key=lambda j: bool(j.needs))
    outcomes = {o.name: o for o in run_jobs(jobs, work, processes=processes)}
    assert {n: o.error for n, o in outcomes.items() if o.failed} == {
        "bad": "set it to 1", "after bad": "not started: bad failed"
    }
    assert list(outcomes).index("table") < list(outcomes).index("reader")
    assert outcomes["z"].note == "did z"


def test_a_dying_process_takes_no_other_job_with_it() -> None:
    jobs = [Job("dies", "die"), Job("beside", "b"), Job("after", "a", ("dies",)), *(Job(n, n) for n in "123")]
    outcomes = {o.name: o for o in run_jobs(jobs, work, processes=2)}
    assert "process died" in outcomes["dies"].error
    assert [n for n, o in outcomes.items() if o.failed] == ["dies", "after"]
    assert len(outcomes) == len(jobs)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61.9, "1:01"), (3600, "1:00:00")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
