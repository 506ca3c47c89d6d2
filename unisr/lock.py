"""A lock between processes that want to make the same thing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no flock: two processes there may do the same work twice, the last one wins.
    fcntl = None  # type: ignore[assignment]

POLL = 0.5
"""Seconds between two tries."""


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, which names the holder's process id; waits while another process holds it.

    The operating system gives the lock back when its holder ends in whatever way, so a file left by a killed
    process is taken over at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = _acquire(path)
    try:
        os.truncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _acquire(path: Path) -> int:
    told = False
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if _taken(handle, path):
            return handle
        if not told:
            holder = path.read_text() if path.exists() else ""
            print(f"waiting for process {holder or '?'}, which makes {path.stem}", file=sys.stderr)
            told = True
        os.close(handle)
        time.sleep(POLL)


def _taken(handle: int, path: Path) -> bool:
    """Whether the lock is held by this process now, on the file that `path` names (the last holder removes its)."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        return False


def discard(path: Path) -> None:
    """Remove the lock file of a process that was killed when its work was done already; one that is held stays."""
    # Where nothing may be written it can stay: it hinders nobody.
    with suppress(OSError):
        handle = os.open(path, os.O_RDWR)
        try:
            if _taken(handle, path):
                path.unlink()
        finally:
            os.close(handle)


def locked(path: Path) -> bool:
    """Whether another process holds the lock file `path`; always True where there are no locks."""
    if fcntl is None:
        return True
    with path.open("r+b") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
