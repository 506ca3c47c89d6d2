"""One warm process, and one undisturbed home of each command, for all tests of a session."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from tests.faults.commands import COMMANDS
from tests.faults.forks import Ending, Forks


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """The process that commands are forked from."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    with Forks() as warm:
        yield warm


@pytest.fixture(scope="session")
def undisturbed(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Ending]]:
    """The home that a command makes where nothing disturbs it, and how it ended."""

    @lru_cache
    def made(name: str) -> tuple[Path, Ending]:
        home = tmp_path_factory.mktemp(name)
        ending = forks.run(COMMANDS[name], home)
        assert ending.code == 0, ending.errors
        return home, ending

    return made
