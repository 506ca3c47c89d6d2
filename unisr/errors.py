"""Errors that name the place, the value and the remedy."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from difflib import get_close_matches


class UnisrError(Exception):
    """Base of every error a user can cause and mend: the message says what to do."""


class UnknownNameError(UnisrError):
    """A name that is in no registry; the message lists the near ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        folded = {k.lower(): k for k in known}
        near = [folded[k] for k in get_close_matches(str(name).lower(), folded, n=3, cutoff=0.5)]
        hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known)}"
        super().__init__(f"unknown {kind} {name!r}; {hint}")


class DataError(UnisrError):
    """A source file, table or id that breaks the schema."""


class ConfigError(UnisrError):
    """A setting outside what is allowed."""


class StoreError(UnisrError):
    """A run folder that is missing, incomplete or not what its id says."""


ELSEWHERE = "set UNISR_DATA and UNISR_RESULTS to folders elsewhere"
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), f"free space, or {ELSEWHERE}"),
    errno.EFBIG: f"lift the limit on file sizes (ulimit -f), or {ELSEWHERE}",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), f"get the right to read and write there, or {ELSEWHERE}"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), f"a file stands where a folder is needed: move it, or {ELSEWHERE}"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "too many files are open: use fewer --jobs, or lift ulimit -n"),
}
"""What to do about an error of the system, by its number."""
NO_MEMORY = re.compile(r"can't allocate memory|out of memory|not enough memory|bad_alloc|failed to allocate", re.I)


def in_words(error: BaseException) -> str:
    """One line for a user: an error of the suite as it stands, one that `told` knows with its remedy, else its type."""
    own = str(error) if isinstance(error, UnisrError) else told(error)
    return own or f"{type(error).__name__}: {error}"


def told(error: BaseException) -> str | None:
    """Message of an error of the system that a user can mend: disk, rights, memory; None for any other error."""
    if out_of_memory(error):
        return (
            "out of memory; lower training.batch_size or training.evaluation_batch (--set), keep fewer --max-users, "
            "or use fewer --jobs"
        )
    text, number, place = str(error), getattr(error, "errno", None), getattr(error, "filename", None)
    if type(error).__name__ == "SafetensorError" and (found := re.search(r"([^:]+) \(os error (\d+)\)", text)):
        number, text = int(found[2]), found[1].strip()
    elif not isinstance(error, OSError) or number in (None, errno.EPIPE):
        return None
    remedy = REMEDIES.get(number, f"see that it is there and can be read and written, or {ELSEWHERE}")
    place, reason = place or "a file under UNISR_DATA or UNISR_RESULTS", getattr(error, "strerror", None) or text
    return f"{place}: {reason}; {remedy}. The same command goes on from what is stored"


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, of the machine or of a GPU."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(NO_MEMORY.search(str(error))))
