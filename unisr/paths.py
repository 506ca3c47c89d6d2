"""Where the project keeps its data and results.

`UNISR_HOME` overrides the root; without it the root is the checkout that holds this package
(the folder with `pyproject.toml`), or the working directory for an installed package.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from uuid import uuid4

STALE = 3600.0
"""Seconds after which a draft is taken for what a killed process left."""


def home() -> Path:
    """The project's root folder."""
    if override := os.environ.get("UNISR_HOME"):
        return Path(override).expanduser().resolve()
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "pyproject.toml").exists() else Path.cwd()


def data_dir() -> Path:
    """Prepared tables and downloads (`UNISR_DATA` overrides); never committed."""
    override = os.environ.get("UNISR_DATA")
    return Path(override).expanduser().resolve() if override else home() / "data"


def results_dir() -> Path:
    """Run folders, tables, figures and the report (`UNISR_RESULTS` overrides)."""
    override = os.environ.get("UNISR_RESULTS")
    return Path(override).expanduser().resolve() if override else home() / "results"


def paper_dir() -> Path:
    """The papers' printed numbers, one csv per table."""
    return Path(__file__).resolve().parent.parent / "results" / "paper"


def notebooks_dir() -> Path:
    """The source notebooks."""
    return Path(__file__).resolve().parent.parent / "notebooks"


def sweep(draft: Path) -> None:
    """Remove a draft, file or folder, that is older than `STALE`."""
    with suppress(FileNotFoundError):
        if time.time() - draft.stat().st_mtime > STALE:
            shutil.rmtree(draft, ignore_errors=True) if draft.is_dir() else draft.unlink()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A draft beside `path` to write into; it takes the place of `path` at the end, or is gone after an error.

    After a kill it may stay, which a later call for the same file removes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{escape(path.stem[:32])}-????????{path.suffix}"):
        sweep(left)
    draft = path.with_name(f".{path.stem[:32]}-{uuid4().hex[:8]}{path.suffix}")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
