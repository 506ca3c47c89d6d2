"""Commands of unisr in forks of one warm process, where each can be killed, interrupted or starved at a chosen point.

A fork starts at once, where a process of its own would import torch for seconds; and a point can be told exactly: the
n-th change of a file that the command's Python code makes (an audit hook counts them), or a moment.

`python -m tests.faults.forks` is the warm process: it reads a request and writes the endings, a line of JSON each.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.processes import children

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65_534
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree")
MOST_SECONDS = 300.0
WARM = ("unisr.reproduce", "unisr.run", "unisr.tuning", "unisr.data.counts", "pyarrow.feather", "pyarrow.parquet")


@dataclass(frozen=True)
class Fault:
    """What is done to a command: `signal` to its process group after `seconds`, or to the `worker` that it started
    last, or to itself at file change `change` (from 1); files of at most `bytes` bytes; the rights of nobody."""

    signal: int = signal.SIGKILL
    seconds: float | None = None
    worker: bool = False
    change: int | None = None
    bytes: int | None = None
    nobody: bool = False


@dataclass(frozen=True)
class Ending:
    """How a command ended: exit code, or minus the signal; what it wrote; seconds; file changes begun."""

    code: int
    out: str
    errors: str
    seconds: float
    changes: int


@dataclass
class Forks:
    """The warm process; use it in a `with` block."""

    process: subprocess.Popen[str] = field(init=False)

    def __enter__(self) -> Forks:
        environment = os.environ | {"UNISR_PROGRESS": "0", "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1",
                                    "TOKENIZERS_PARALLELISM": "false", "UNISR_DEVICE": "cpu"}  # fmt: skip
        command = [sys.executable, "-m", "tests.faults.forks"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def together(self, commands: Sequence[Sequence[str]], home: Path, fault: Fault | None = None) -> list[Ending]:
        """Start `unisr COMMAND` for each of the commands at once, with data and results under `home`."""
        request = {"commands": list(map(list, commands)), "home": str(home), "fault": asdict(fault or Fault())}
        print(json.dumps(request), file=self.process.stdin, flush=True)
        assert self.process.stdout
        return [Ending(**ending) for ending in json.loads(self.process.stdout.readline())]

    def run(self, command: Sequence[str], home: Path, fault: Fault | None = None) -> Ending:
        """The ending of one command."""
        return self.together([command], home, fault)[0]


def changes_a_file(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an audit event is the beginning of a change of a file or folder."""
    if event == "open":
        return isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event in CHANGES


def _watch(fault: Fault, counter: mmap.mmap) -> None:
    """Count changes of files, and end the process at the one asked for."""
    seen = [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if changes_a_file(event, arguments):
            seen[0] += 1
            counter[:8] = seen[0].to_bytes(8)
            if seen[0] == fault.change:
                os.kill(os.getpid(), fault.signal)

    sys.addaudithook(hook)


def _command(arguments: list[str], home: str, fault: Fault, counter: mmap.mmap) -> int:
    """The exit code of the command, as Python would end it."""
    from unisr.cli import app

    os.environ.update(UNISR_DATA=f"{home}/data", UNISR_RESULTS=f"{home}/results")
    if fault.bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.bytes, fault.bytes))
    if fault.nobody and os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    _watch(fault, counter)
    sys.argv = ["unisr", *arguments]
    try:
        # Outside of the command an interrupt ends the process without a word.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        app(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return 0


class _Fork:
    """A command at work."""

    def __init__(self, arguments: list[str], home: str, fault: Fault) -> None:
        self.fault, self.counter, pipes = fault, mmap.mmap(-1, 8), [os.pipe(), os.pipe()]
        self.ending: Ending | None = None
        self.texts, self.started, self.struck = [b"", b""], time.monotonic(), fault.seconds is None
        self.process = os.fork()
        if not self.process:
            os.setpgid(0, 0)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            for number, (_, write) in enumerate(pipes, start=1):
                os.dup2(write, number)
            code = _command(arguments, home, fault, self.counter)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        # On both sides, so that there is a group to strike at any moment.
        os.setpgid(self.process, self.process)
        self.reads = [read for read, _ in pipes]
        for read, write in pipes:
            os.close(write)
            os.set_blocking(read, False)

    def poll(self) -> bool:
        """Strike when it is time; whether the command has ended."""
        lasted = time.monotonic() - self.started
        if not self.struck and lasted >= (self.fault.seconds or 0):
            self._strike()
        if lasted > MOST_SECONDS:
            os.killpg(self.process, signal.SIGKILL)
        ended, status = os.waitpid(self.process, os.WNOHANG)
        self.texts = [text + _available(read) for text, read in zip(self.texts, self.reads, strict=True)]
        if not ended:
            return False
        for read in self.reads:
            os.close(read)
        out, errors = (text.decode(errors="replace") for text in self.texts)
        changes = int.from_bytes(self.counter[:8])
        self.ending = Ending(os.waitstatus_to_exitcode(status), out, errors, lasted, changes)
        return True

    def _strike(self) -> None:
        if not self.fault.worker:
            self.struck = True
            os.killpg(self.process, self.fault.signal)
        elif workers := children(self.process):
            self.struck = True
            os.kill(max(workers), self.fault.signal)


def _ended(request: dict[str, Any]) -> list[Ending]:
    forks = [_Fork(arguments, request["home"], Fault(**request["fault"])) for arguments in request["commands"]]
    working = list(forks)
    while working:
        time.sleep(0.001)
        working = [fork for fork in working if not fork.poll()]
    return [fork.ending for fork in forks if fork.ending]


def _available(read: int) -> bytes:
    try:
        return os.read(read, 1 << 20)
    except BlockingIOError:
        return b""


def main() -> None:
    from unisr import registry

    for name in WARM:
        importlib.import_module(name)
    registry.methods()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        print(json.dumps([asdict(ending) for ending in _ended(json.loads(line))]), flush=True)


if __name__ == "__main__":
    main()
