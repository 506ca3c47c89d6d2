"""Jobs run after what they need; failures and dying processes are told and stop nothing else."""

from __future__ import annotations

import errno
import os
import time

import pytest

from unisr.errors import ConfigError
from unisr.job_process import JobError, Processes
from unisr.jobs import Job, clock, run_jobs


def work(payload: str) -> str:
    if payload == "raise":
        raise ConfigError("set it to 1")
    if payload == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "results")
    if payload == "die":
        os._exit(3)
    if payload == "sleep":
        time.sleep(600)
    return f"did {payload}"


JOBS = [Job("reader", "r", ("table",)), Job("bad", "raise"), Job("table", "t"), Job("after bad", "x", ("bad",))]


def test_failures_stop_only_what_needs_them() -> None:
    outcomes = {o.name: o for o in run_jobs(JOBS, work, processes=1)}
    assert outcomes["bad"].error == "set it to 1"
    assert outcomes["after bad"].error == "not started: bad failed"
    assert outcomes["table"].note == "did t"


def test_a_full_disk_is_told_with_its_remedy() -> None:
    outcome = run_jobs([Job("fills", "full")], work, processes=1)[0]
    assert "results: No space left on device; " in outcome.error
    assert "goes on from what is stored" in outcome.error


def test_processes_keep_the_order_and_one_that_dies_takes_no_other_with_it() -> None:
    """Every job is a process that imports torch, so there are few of them."""
    jobs = [JOBS[0], Job("dies", "die"), JOBS[2], Job("after", "a", ("dies",))]
    outcomes = {o.name: o for o in run_jobs(jobs, work, processes=2)}
    assert "process ended with exit code 3" in outcomes["dies"].error
    assert outcomes["after"].error == "not started: dies failed"
    assert list(outcomes).index("table") < list(outcomes).index("reader")
    assert [o.note for o in outcomes.values() if not o.failed] == ["did t", "did r"]


def test_what_still_runs_ends_with_the_block() -> None:
    with Processes() as here:
        future = here.submit(f"{__name__}:work", "sleep")
    with pytest.raises(JobError, match="stopped"):
        future.result(timeout=60)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61.9, "1:01"), (3600, "1:00:00")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
