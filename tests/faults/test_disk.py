"""A full disk, no rights, Ctrl-C, a worker that dies: one message without a traceback, and going on mends all."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.commands import COMMANDS
from tests.faults.forks import ROOT, Ending, Fault, Forks
from tests.faults.trees import check_done, check_left, shown
from tests.processes import LISTED

Undisturbed = Callable[[str], tuple[Path, Ending]]
TIMES = [2, pytest.param(20, marks=pytest.mark.faults)]


def check_told(ending: Ending, *expected: str) -> None:
    """The command says what was wrong, in words."""
    assert "Traceback" not in ending.errors + ending.out, ending.errors
    assert all(text in ending.errors + ending.out for text in expected), ending.errors


def check_goes_on(forks: Forks, command: str, home: Path, undisturbed: Path) -> None:
    """What is left is sound, and the same command without a fault ends as the undisturbed one."""
    check_left(home, undisturbed)
    ending = forks.run(COMMANDS[command], home)
    assert ending.code == 0, ending.errors
    check_done(home, undisturbed)
    shutil.rmtree(home)


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_disk_that_is_full(forks: Forks, undisturbed: Undisturbed, tmp_path: Path, command: str, times: int) -> None:
    """No file may grow beyond a number of bytes drawn from 1 up to the size of the largest."""
    expected, _ = undisturbed(command)
    largest = max(path.stat().st_size for path in shown(expected).values())
    for number in range(times):
        fault = Fault(bytes=int(largest ** random.Random(f"disk {command} {number}").random()))
        ending = forks.run(COMMANDS[command], tmp_path / "home", fault)
        assert ending.code == 1, fault
        check_told(ending, *(["error: ", "ulimit -f", "UNISR_DATA"] if command != "reproduce" else []))
        check_goes_on(forks, command, tmp_path / "home", expected)


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("command", COMMANDS)
def test_an_interrupt(forks: Forks, undisturbed: Undisturbed, tmp_path: Path, command: str, times: int) -> None:
    """Ctrl-C at a change of a file, and at a moment."""
    expected, whole = undisturbed(command)
    for number in range(times):
        rng = random.Random(f"interrupt {command} {number}")
        moment = {"change": rng.randint(1, whole.changes)} if number % 2 else {"seconds": rng.uniform(0, whole.seconds)}
        ending = forks.run(COMMANDS[command], tmp_path / "home", Fault(signal=signal.SIGINT, **moment))
        # Before the command begins, or after its end, there is nothing that could say so.
        assert ending.code == 130 or (not number % 2 and ending.code in (0, -signal.SIGINT, 1)), (moment, ending)
        check_told(ending, *(["interrupted"] if ending.code == 130 else []))
        check_goes_on(forks, command, tmp_path / "home", expected)


@pytest.fixture
def home() -> Iterator[Path]:
    """A home that everyone can reach."""
    parts = [Path(sys.prefix), ROOT, Path(tempfile.gettempdir())]
    if not all(place.stat().st_mode & 0o001 for part in parts for place in (part, *part.parents)):
        pytest.skip("nobody cannot reach the interpreter or the checkout")
    folder = Path(tempfile.mkdtemp(prefix="unisr-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_without_rights(forks: Forks, home: Path, command: str) -> None:
    home.chmod(0o555)
    ending = forks.run(COMMANDS[command], home, Fault(nobody=True))
    assert ending.code == 1 and not list(home.iterdir())
    check_told(ending, "Permission denied", str(home), *(["UNISR_RESULTS"] if command != "reproduce" else []))


@pytest.mark.parametrize("command", ["prepare", "run"])
def test_a_file_in_the_place_of_a_folder(forks: Forks, tmp_path: Path, command: str) -> None:
    (tmp_path / "home").write_text("mine")
    ending = forks.run(COMMANDS[command], tmp_path / "home")
    assert ending.code == 1 and (tmp_path / "home").read_text() == "mine"
    check_told(ending, "a file stands where a folder is needed", str(tmp_path / "home"))


@pytest.mark.parametrize("command", ["prepare", "run"])
def test_what_is_stored_is_read_without_the_right_to_write(
    forks: Forks, undisturbed: Undisturbed, home: Path, command: str
) -> None:
    shutil.copytree(undisturbed(command)[0], home, dirs_exist_ok=True)
    for folder, _, files in os.walk(home):
        Path(folder).chmod(0o555)
        for name in files:
            (Path(folder) / name).chmod(0o444)
    ending = forks.run(COMMANDS[command], home, Fault(nobody=True))
    assert ending.code == 0, ending.errors


@pytest.mark.skipif(not LISTED, reason="needs Linux's list of processes")
@pytest.mark.parametrize("times", [pytest.param(5, marks=pytest.mark.faults)])
def test_a_worker_that_dies(forks: Forks, undisturbed: Undisturbed, tmp_path: Path, times: int) -> None:
    expected, _ = undisturbed("reproduce")
    command = (*COMMANDS["reproduce"][:-1], "2")
    for number in range(times):
        seconds = random.Random(f"worker {number}").uniform(0, 20)
        ending = forks.run(command, tmp_path / "home", Fault(seconds=seconds, worker=True))
        check_told(ending, *(["FAILED", "was ended by signal 9"] if ending.code else []))
        check_goes_on(forks, "reproduce", tmp_path / "home", expected)


def test_three_processes_asked_for_one_run_train_it_once(forks: Forks, tmp_path: Path) -> None:
    endings = forks.together([COMMANDS["run"]] * 3, tmp_path / "home")
    assert [ending.code for ending in endings] == [0, 0, 0], endings
    # What took how long is of the one training: those that waited have reloaded it.
    assert len({ending.out for ending in endings}) == 1
    assert sum("waiting for process" in ending.errors for ending in endings) >= 1
