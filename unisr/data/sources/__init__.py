"""Where datasets come from: one module per source, one `Source` each."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unisr.data.schema import Dataset
from unisr.errors import UnknownNameError


@dataclass(frozen=True)
class Source:
    """What a reader must know of a dataset, and how it is built."""

    name: str
    title: str
    description: str
    """One line."""
    queries: Literal["constructed", "real"]
    licence: str
    origin: str
    """Where the files come from, or who makes them."""
    build: Callable[[Path | None, int], Dataset]
    """(folder of the raw files, seed) -> dataset; the seed matters to generated sources only."""
    fetch: Callable[[Path | None], Path] | None = None
    """(folder given by the user or None) -> folder of the raw files; None for generated sources."""
    files: tuple[str, ...] = ()
    """Raw files whose hashes the manifest records, where present."""
    paper_counts: Mapping[str, int] | None = None
    """Published counts, with names as `describe` gives them; those that no paper prints are left out."""

    def as_dict(self) -> dict[str, str]:
        """The descriptive fields, for listings."""
        names = ("name", "title", "description", "queries", "licence", "origin")
        return {n: getattr(self, n) for n in names}


SOURCE_MODULES = ("ml_100k", "synthetic", "shaped", "office", "amazon_kindle", "kuaisar", "qilin", "unisar_release")
"""Each has a `SOURCE`, or several `SOURCES` of one format."""


def sources() -> dict[str, Source]:
    """All sources by name."""
    modules = [importlib.import_module(f"unisr.data.sources.{m}") for m in SOURCE_MODULES]
    found = [s for m in modules for s in (m.SOURCES if hasattr(m, "SOURCES") else (m.SOURCE,))]
    return {s.name: s for s in found}


def source(name: str) -> Source:
    """The source called `name` (case does not matter).

    Raises:
        UnknownNameError: no such dataset; near names are listed.
    """
    known = sources()
    folded = {k.lower(): v for k, v in known.items()}
    if str(name).lower() not in folded:
        raise UnknownNameError("dataset", name, known)
    return folded[str(name).lower()]
