"""Linux's list of processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

LISTED = Path("/proc/self/stat").exists()


def alive(process: int) -> bool:
    """Whether it is there and has not ended; one that has ended may wait for its parent to notice."""
    try:
        return _stat(process)[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def parent(process: int) -> int:
    return int(_stat(process)[1])


def ancestors(process: int) -> Iterator[int]:
    while process := parent(process):
        yield process


def children(process: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if parent(int(folder.name)) == process:
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def _stat(process: int) -> list[str]:
    """State, parent and more; the name before them may hold anything."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
