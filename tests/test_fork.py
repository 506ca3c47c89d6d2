"""A fork answers, keeps its changes to itself, and neither process outlives the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.processes import alive
from unisr import fork
from unisr.errors import ConfigError
from unisr.fork import ForkError, forked

pytestmark = pytest.mark.skipif(not fork.SAFE, reason="needs Linux")
SEEN: list[str] = []
SCRIPT = """
import os, sys, time
from unisr.fork import forked
{call}
"""


def test_changes_stay_in_the_fork() -> None:
    def call() -> str:
        SEEN.append("here")
        return f"{len(SEEN)} {os.getpid()}"

    count, process = forked(call).split()
    assert (count, SEEN) == ("1", []) and int(process) != os.getpid() and not alive(int(process))


def test_an_error_is_told_in_words() -> None:
    def refuse() -> str:
        raise ConfigError("beta ☹ is no number; give one")

    with pytest.raises(ForkError, match="^beta ☹ is no number; give one$"):
        forked(refuse)
    with pytest.raises(ForkError, match="^ZeroDivisionError: .*by zero$"):
        forked(lambda: str(1 // 0))


@pytest.mark.parametrize(("call", "code"), [("os._exit(3)", 3), ("os.kill(os.getpid(), 9)", -9)])
def test_the_process_ends_as_its_fork_did(call: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(call=f"forked(lambda: {call}); print('still here')")],
                          capture_output=True, text=True)  # fmt: skip
    assert (done.returncode, done.stdout) == (code, "")


def test_the_fork_ends_with_its_process() -> None:
    call = "forked(lambda: print(os.getpid(), flush=True) or time.sleep(600) or '')"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT.format(call=call)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.read()  # Ends when the last process that could write has ended.
    for _ in range(100):
        if not alive(child):
            break
        time.sleep(0.1)
    assert not alive(child)
