"""Errors that name the place, the value and the remedy."""

from __future__ import annotations

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
