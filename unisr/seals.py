"""Sealed folders: a file SHA256SUMS with the hash of every other file, as `sha256sum --check SHA256SUMS` reads it.

A parquet file notices most damage by itself, JSON and safetensors files do not: a flipped bit is another number.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path

from unisr.errors import StoreError

SUMS = "SHA256SUMS"


def seal(folder: Path) -> None:
    """Write the sums of the files of `folder`, and have them all on disk."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != SUMS)
    (folder / SUMS).write_text("".join(f"{file_hash(path)}  {path.name}\n" for path in files), encoding="utf-8")
    for path in (*files, folder / SUMS, folder):
        flush(path)


def damaged(folder: Path, names: Collection[str] | None = None) -> list[str]:
    """Those of the files called `names` that are missing or not what the seal says, of all that it lists without names.

    None where there is no seal: folders that older versions wrote have none.
    """
    if not (folder / SUMS).exists():
        return []
    try:
        lines = [line.partition("  ") for line in (folder / SUMS).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        return [SUMS]
    sums = {name: digest for digest, _, name in lines}
    if not sums:
        return [SUMS]
    return [name for name in (names or sums) if not _is_file_with(folder / name, sums.get(name))]


def check(folder: Path, names: Collection[str], remedy: str) -> None:
    """Raise StoreError where one of the files called `names` is `damaged`; the message names it and the remedy."""
    if wrong := damaged(folder, names):
        raise StoreError(f"{folder / wrong[0]}: is not what {SUMS} beside it says; {remedy}")


def _is_file_with(path: Path, digest: str | None) -> bool:
    try:
        return file_hash(path) == digest
    except (OSError, ValueError):
        return False


def file_hash(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Have the file's content, or the folder's entries, on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
