"""kill -9 at random points: what is there is whole, and going on gives what an undisturbed command gives."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.commands import COMMANDS
from tests.faults.forks import Ending, Fault, Forks
from tests.faults.trees import check_done, check_left

LONG = pytest.param(50, marks=pytest.mark.faults)


def drawn(command: str, number: int, whole: Ending) -> Fault:
    """A moment of the undisturbed command for even numbers, one of its changes of a file for odd ones."""
    rng = random.Random(f"{command} {number}")
    if number % 2:
        return Fault(change=rng.randint(1, whole.changes))
    return Fault(seconds=rng.uniform(0, whole.seconds))


@pytest.mark.parametrize("kills", [3, LONG])
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_anywhere_it_goes_on_to_the_same_results(
    forks: Forks, undisturbed: Callable[[str], tuple[Path, Ending]], tmp_path: Path, command: str, kills: int
) -> None:
    expected, whole = undisturbed(command)
    killed = number = 0
    while killed < kills:
        home, fault = tmp_path / "home", drawn(command, number, whole)
        ending = forks.run(COMMANDS[command], home, fault)
        # A command that was faster than its moment has not been killed.
        killed += ending.code == -signal.SIGKILL
        try:
            check_left(home, expected)
            ending = forks.run(COMMANDS[command], home)
            assert ending.code == 0, ending.errors
            check_done(home, expected)
        except AssertionError as error:
            raise AssertionError(f"kill {number} ({fault}): {error}") from error
        shutil.rmtree(home)
        number += 1
        assert number < 4 * kills, "too few commands could be killed"
