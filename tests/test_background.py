"""A function runs in a process of its own: events, errors, stopping, going on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import background_jobs as jobs
from tests.report.stored import CLOCKS
from tests.training.tiny import TinyLoader, tiny_scorer, train_with_checkpoints
from unisr.background import Background, Busy, Done, Epochs, Event, Failed, Steps, Stopped
from unisr.config import TrainConfig
from unisr.progress import listening, progress
from unisr.training import train

LONG = 120.0


class Heard:
    """Keeps events and waits for the one that is wanted."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.news = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self.news:
            self.events.append(event)
            self.news.notify_all()

    def until(self, kind: type[Event]) -> None:
        with self.news:
            assert self.news.wait_for(lambda: any(isinstance(e, kind) for e in self.events), LONG), self.events


@pytest.fixture(scope="module")
def work() -> Iterator[Background]:
    """One process for the module, as starting it takes seconds."""
    os.environ["JOB_HOME"] = "here"
    made = Background()
    yield made
    made.close()
    del os.environ["JOB_HOME"]


def call(work: Background, function: object, **arguments: object) -> list[Event]:
    heard = Heard()
    work.start(function, heard, **arguments)
    assert work.wait(LONG) and not work.busy
    return heard.events


class Listener:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object, object]] = []

    def steps(self, name: str, done: int, total: int | None) -> None:
        self.told.append((name, done, total))

    def epochs(self, name: str, rows: list[dict[str, float]]) -> None:
        self.told.append((name, "epochs", len(rows)))


def test_a_listener_is_told_in_place_of_bars_until_it_is_gone(capfd: pytest.CaptureFixture[str]) -> None:
    listener = Listener()
    with listening(listener):
        train(tiny_scorer(), TinyLoader(), TrainConfig(epochs=2), seed=1)
        with progress(3, "hidden", show=False) as bar:
            bar.update(3)
    count = len(listener.told)
    list(progress([1, 2], "after"))
    assert len(listener.told) == count and capfd.readouterr() == ("", "")
    assert listener.told[0] == ("Tiny", 0, 12) and ("Tiny", "epochs", 1) in listener.told
    assert not any(name in ("hidden", "after") for name, _, _ in listener.told)


def test_a_value_and_its_steps_come_back_from_another_process(work: Background) -> None:
    *steps, done = call(work, jobs.facts, number=7)
    assert isinstance(done, Done) and done.value["number"] == 7 and done.value["process"] != os.getpid()
    assert done.value["threads"] == torch.get_num_threads() and done.value["home"] == "here"
    assert steps[0] == Steps("counting", 0, 3) and steps[-1] == Steps("counting", 3, 3)
    (*_, again) = call(work, jobs.facts, number=8)
    assert again.value["process"] == done.value["process"], "what is loaded is kept between calls"


def test_an_error_that_can_be_mended_is_its_message(work: Background) -> None:
    assert call(work, jobs.refuse) == [Failed("beta -1 is below 0; give a larger one")]


def test_another_error_has_its_kind_and_its_place(work: Background) -> None:
    (failed,) = call(work, jobs.break_down)
    assert isinstance(failed, Failed) and failed.message == "ZeroDivisionError: one by none"
    assert "break_down" in failed.trace


def test_the_next_function_may_be_started_by_the_listener(work: Background) -> None:
    heard = Heard()

    def then(event: Event) -> None:
        if isinstance(event, Failed):
            work.start(jobs.facts, heard, number=1)

    work.start(jobs.refuse, then)
    assert work.wait(LONG)
    assert isinstance(heard.events[-1], Done)


def test_a_listener_that_raises_does_not_end_the_hearing(work: Background, capsys: pytest.CaptureFixture[str]) -> None:
    def deaf(event: Event) -> None:
        raise RuntimeError("deaf")

    work.start(jobs.refuse, deaf)
    assert work.wait(LONG)
    assert "deaf" in capsys.readouterr().err
    assert isinstance(call(work, jobs.facts, number=1)[-1], Done)


def test_stopped_and_started_again_it_goes_on_and_ends_as_undisturbed(work: Background, tmp_path: Path) -> None:
    heard = Heard()
    work.start(jobs.train_tiny, heard, folder=str(tmp_path), pause=0.05)
    with pytest.raises(Busy, match="wait until it is done, or stop it"):
        work.start(jobs.facts, heard, number=1)
    heard.until(Epochs)
    work.stop()
    assert work.wait(LONG)
    assert heard.events[-1] == Stopped() and not any(isinstance(e, Done) for e in heard.events)
    assert list((tmp_path / "checkpoints").glob("epoch-*")) and not (tmp_path / "weights.safetensors").exists()
    work.stop()

    events = call(work, jobs.train_tiny, folder=str(tmp_path), pause=0.0)
    told = [e.rows for e in events if isinstance(e, Epochs)]
    assert [row["epoch"] for row in told[0]] == list(range(1, len(told[0]) + 1)) and len(told[0]) > 1
    scorer, log = train_with_checkpoints(tmp_path / "undisturbed", pause=0.0)
    assert without_clocks(events[-1].value) == without_clocks(told[-1]) == without_clocks(log.rows)
    resumed = load_file(tmp_path / "weights.safetensors")
    assert all(torch.equal(value, resumed[name]) for name, value in scorer.state_dict().items())


def test_a_process_that_dies_is_reported_with_its_last_words(work: Background) -> None:
    (failed,) = call(work, jobs.vanish)
    assert isinstance(failed, Failed) and "exit code 3" in failed.message and "cannot allocate" in failed.message


def test_the_process_ends_with_the_one_that_started_it() -> None:
    """Even at work: its standard input ends when a kernel dies in whatever way."""
    process = subprocess.Popen([sys.executable, "-m", "unisr.background"], stdin=subprocess.PIPE, text=True,
                               stdout=subprocess.PIPE, cwd=Path(__file__).resolve().parents[1])  # fmt: skip
    assert process.stdin
    request = {"function": "tests.background_jobs:sleep", "arguments": {}, "threads": 1}
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    time.sleep(0.2)
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(LONG) == 0


def without_clocks(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in CLOCKS} for row in rows]
