"""Folders that appear whole or not at all, on one file system."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from unisr.paths import sweep
from unisr.seals import flush, seal


@contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """An empty hidden sibling of `final` to write files into; it takes the name `final` when the block ends well.

    Files are sealed (`unisr.seals`) and flushed to disk before the rename. A folder that has the name is renamed away
    first, so that of several writers the last complete one wins and their files never mix. After an exception nothing
    of the block is left; after a kill a hidden folder may stay, which a later call removes.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    for left in final.parent.glob(".*.tmp"):
        sweep(left)
    draft = _hidden(final)
    draft.mkdir()
    try:
        yield draft
        seal(draft)
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
    flush(final.parent)


def _hidden(final: Path) -> Path:
    """A free sibling name that no listing shows."""
    return final.parent / f".{final.name}.{uuid.uuid4().hex[:8]}.tmp"
