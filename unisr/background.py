"""Work beside the notebook: one function at a time in a process of its own, which tells how it goes and can be stopped.

Why a process and no thread: torch has one random generator per process, and accelerate one state. A training in a
thread would draw its dropout masks from the generator that any cell run meanwhile draws from too (`torch.rand(1)` is
enough), and would be stored as the run of a config that does not give it. In its own process it is the run that
`unisr.run` makes, bit for bit, whatever the notebook does; the kernel stays responsive, and stopping works at any
moment, since `unisr.run` leaves nothing half-written when it is killed and goes on from its last finished epoch.

The two processes speak JSON, a line per request (standard input) and per event (standard output).
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import traceback
import weakref
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from unisr.errors import UnisrError, in_words
from unisr.progress import listening


@dataclass(frozen=True)
class Steps:
    """A loop called `name` has done `done` of `total` steps."""

    name: str
    done: int
    total: int | None


@dataclass(frozen=True)
class Epochs:
    """The training of method `name` ended an epoch; `rows` is its log so far, epochs before a stop included."""

    name: str
    rows: list[dict[str, float]]


@dataclass(frozen=True)
class Done:
    """The function returned `value`."""

    value: Any


@dataclass(frozen=True)
class Failed:
    """The function raised, or its process died; `message` is for the reader."""

    message: str
    trace: str = ""
    """Where it was raised; empty for an error that the message tells how to mend."""


@dataclass(frozen=True)
class Stopped:
    """`Background.stop` ended the function."""


Event = Steps | Epochs | Done | Failed | Stopped
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (Steps, Epochs, Done, Failed)}


class Busy(UnisrError):
    """Something was to be started while another is at work."""


class Background:
    """A process that calls one function at a time.

    It is started by the first call (or `warm`), keeps what it has loaded between calls, takes over this process's
    environment variables and number of torch threads, and ends with this object or this process, whatever it is doing.

    Args:
        environment: variables over those of this process; OMP_NUM_THREADS among them is torch's number of threads too.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[str] | None = None
        self._listener: Callable[[Event], None] | None = None
        self._stopping = False
        self._lock = threading.RLock()
        self._idle = threading.Event()
        self._idle.set()

    @property
    def busy(self) -> bool:
        """Whether a function is at work."""
        return self._listener is not None

    def warm(self) -> None:
        """Start the process, which takes some seconds, before there is work for it."""
        with self._lock:
            if self._process is None or self._stopping or self._process.poll() is not None:
                self._spawn()

    def start(self, function: Callable[..., Any], listener: Callable[[Event], None], **arguments: Any) -> None:
        """Call `function(**arguments)` there and return at once.

        Args:
            function: of a module; what it returns must fit into JSON, and so must `arguments`.
            listener: gets every event, in another thread; the last one is `Done`, `Failed` or `Stopped`. When it gets
                that one, the next function may be started.

        Raises:
            Busy: another function is at work: wait for it, or stop it.
        """
        import torch

        threads = int(self._environment.get("OMP_NUM_THREADS", torch.get_num_threads()))
        request = {"function": f"{function.__module__}:{function.__qualname__}", "arguments": arguments,
                   "threads": threads}  # fmt: skip
        line = json.dumps(request) + "\n"
        with self._lock:
            if self.busy:
                raise Busy("a training or ranking is at work in the background; wait until it is done, or stop it")
            self.warm()
            assert self._process and self._process.stdin
            self._listener = listener
            self._idle.clear()
            try:
                self._process.stdin.write(line)
                self._process.stdin.flush()
            except BrokenPipeError:
                pass  # The process died while it was idle: its reader tells the listener.

    def stop(self) -> None:
        """End what is at work, if anything is, by killing its process; the listener gets `Stopped`."""
        with self._lock:
            if self.busy and self._process is not None:
                self._stopping = True
                self._process.kill()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is at work; whether that came before `timeout` seconds."""
        return self._idle.wait(timeout)

    def close(self) -> None:
        """Stop, and end the process."""
        self.stop()
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._process.wait()

    def _spawn(self) -> None:
        errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), *filter(None, [os.getenv("PYTHONPATH")])])
        # A session of its own: the interrupt of a notebook's cell is not meant for it.
        process = subprocess.Popen(
            [sys.executable, "-m", "unisr.background"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            text=True, encoding="utf-8", start_new_session=True,
            env={**os.environ, **self._environment, "PYTHONPATH": path},
        )  # fmt: skip
        self._process, self._stopping = process, False
        weakref.finalize(self, process.kill)
        threading.Thread(target=_read, args=(weakref.ref(self), process, errors), daemon=True).start()

    def _take(self, event: Event) -> None:
        """Hand an event on; after the last one of a call the listener may start the next."""
        with self._lock:
            listener = self._listener
            last = isinstance(event, Done | Failed | Stopped)
            if last:
                self._listener = None
        if listener is not None:
            try:
                listener(event)
            except Exception:
                # Without this thread no later event would be read.
                traceback.print_exc()
        with self._lock:
            if last and self._listener is None:
                self._idle.set()


def _read(background: weakref.ref[Background], process: subprocess.Popen[str], errors: IO[str]) -> None:
    """Hand on the events of a process until it ends."""
    assert process.stdout
    for line in process.stdout:
        told = json.loads(line)
        if (owner := background()) is not None:
            owner._take(_KINDS[told.pop("event")](**told))
        del owner
    code = process.wait()
    if (owner := background()) is not None and owner._process is process and owner.busy:
        owner._take(Stopped() if owner._stopping else Failed(_obituary(code, errors)))


def _obituary(code: int, errors: IO[str]) -> str:
    errors.seek(0)
    said = " ".join(errors.read().split()[-60:])
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    hint = " (the system ends processes so when memory is short: use fewer users or a smaller model)"
    return f"the background process {how}{hint if code == -9 else ''}; its last words: {said or 'none'}"


def train(config: Mapping[str, Any], mode: str = "reuse") -> str:
    """`unisr.run` of a dumped config; the folder of the stored run."""
    from unisr.config import RunConfig
    from unisr.run import run

    return str(run(RunConfig.model_validate(config), mode=mode).folder)


class _Teller:
    """The listener of the background process: writes events as lines."""

    def __init__(self, out: IO[str]) -> None:
        self.out, self.lock = out, threading.Lock()

    def tell(self, event: Event) -> None:
        line = json.dumps({"event": type(event).__name__, **asdict(event)}) + "\n"
        # tqdm's monitor draws stale bars from a thread of its own.
        with self.lock:
            self.out.write(line)
            self.out.flush()

    def steps(self, name: str, done: int, total: int | None) -> None:
        self.tell(Steps(name, done, total))

    def epochs(self, name: str, rows: list[dict[str, float]]) -> None:
        self.tell(Epochs(name, rows))


def _answer(request: dict[str, Any]) -> Event:
    """Call what is asked for; an error becomes its message."""
    import torch

    torch.set_num_threads(request["threads"])
    module, name = request["function"].split(":")
    try:
        return Done(getattr(importlib.import_module(module), name)(**request["arguments"]))
    except Exception as error:
        return Failed(in_words(error), "" if isinstance(error, UnisrError) else traceback.format_exc())


def main() -> None:
    """The background process: answer requests until standard input ends, then end at once, even in the midst of one."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What libraries print must not mix with the events.
    os.dup2(2, 1)
    teller = _Teller(out)
    requests: list[dict[str, Any]] = []
    ready = threading.Semaphore(0)

    def read() -> None:
        for line in sys.stdin:
            requests.append(json.loads(line))
            ready.release()
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    importlib.import_module("unisr.run")
    while True:
        ready.acquire()
        with listening(teller):
            teller.tell(_answer(requests.pop(0)))


if __name__ == "__main__":
    main()
