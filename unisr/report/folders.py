"""Folders that appear whole or not at all, on one file system."""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STALE = 3600.0
"""Seconds after which a hidden folder is taken for the remains of a killed process."""


@contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """An empty hidden sibling of `final` to write files into; it takes the name `final` when the block ends well.

    Files are flushed to disk before the rename. A folder that has the name is renamed away first, so that of several
    writers the last complete one wins and their files never mix. After an exception nothing of the block is left; after
    a kill a hidden folder may stay, which a later call removes.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    _sweep(final.parent)
    draft = _hidden(final)
    draft.mkdir()
    try:
        yield draft
        for path in (*draft.iterdir(), draft):
            _flush(path)
        _publish(draft, final)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _publish(draft: Path, final: Path) -> None:
    """Rename `draft` to `final`, putting a folder of that name away first, as often as another writer takes it."""
    while draft.exists():
        old = _hidden(final)
        with suppress(FileNotFoundError):
            os.rename(final, old)
        try:
            os.rename(draft, final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        finally:
            shutil.rmtree(old, ignore_errors=True)
    _flush(final.parent)


def _hidden(final: Path) -> Path:
    """A free sibling name that no listing shows."""
    return final.parent / f".{final.name}.{uuid.uuid4().hex[:8]}.tmp"


def _sweep(parent: Path) -> None:
    """Remove hidden folders left by killed processes."""
    for path in parent.glob(".*.tmp"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > STALE:
                shutil.rmtree(path, ignore_errors=True)


def _flush(path: Path) -> None:
    """Have the file's content, or the folder's entries, on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
