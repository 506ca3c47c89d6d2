"""Stored hyper-parameter searches: a JSON file per method, and per variant of a study that has searches of its own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field

from unisr import registry
from unisr.config import Preset, Settings, later
from unisr.errors import StoreError, UnisrError
from unisr.paths import results_dir, whole_file

MARGIN = 0.01
"""NDCG@5 by which a trial must beat the preset: about a standard error of the mean over a thousand queries."""


class Trial(Settings):
    """One training of a search."""

    number: int
    settings: dict[str, float]
    value: float | None
    """Best mean validation NDCG@5 over the method's tasks; None if the training failed."""
    epochs: int
    best_epoch: int
    seconds: float
    """Of training and validation."""
    error: str = ""


class Search(Settings):
    """All trials of one method, or of a variant of it, on one dataset; stored at `path_of`."""

    method: str
    variant: str = later("")
    """Of a study of the method; empty for the method itself."""
    method_version: int
    dataset: str
    preset: Preset
    """The preset that trial 0 is and the others change."""
    seed: int
    epochs: int
    """Upper bound on the epochs of a trial."""
    space: dict[str, tuple[float, ...]]
    environment: dict[str, Any] = Field(default_factory=dict)
    trials: tuple[Trial, ...] = ()

    @property
    def chosen(self) -> Trial:
        """The trial with the highest value; the preset's own settings where they come within `MARGIN` of it.

        Raises:
            UnisrError: no trial ended well.
        """
        done = [trial for trial in self.trials if trial.value is not None]
        if not done:
            raise UnisrError(f"tuning {self.method} on {self.dataset}: none of {len(self.trials)} trials ended well")
        best = max(done, key=lambda trial: trial.value)
        return done[0] if done[0].number == 0 and best.value - done[0].value <= MARGIN else best


def path_of(dataset: str, method: str, variant: str = "") -> Path:
    """Where a search is stored: `results/<dataset>/tuning/<method>[, <variant>].json`."""
    return results_dir() / dataset / "tuning" / f"{_name(method, variant)}.json"


def find(dataset: str, method: str, variant: str = "") -> Search | None:
    """The stored search, or None.

    Raises:
        StoreError: the file cannot be read.
    """
    path = path_of(dataset, method, variant)
    if not path.exists():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        digest = stored.pop("sha256", None)
        if digest not in (None, _digest(stored)):
            raise ValueError("it is not what its sha256 says")
        return Search.model_validate(stored)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise StoreError(f"{path}: no search ({error}); delete the file and tune again") from error


def save(search: Search) -> None:
    """Store the search whole, in place of an older one."""
    with whole_file(path_of(search.dataset, search.method, search.variant)) as draft:
        stored = search.model_dump(mode="json")
        draft.write_text(json.dumps({"sha256": _digest(stored), **stored}, indent=2) + "\n", encoding="utf-8")


def _digest(stored: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()


def summary(dataset: str) -> pd.DataFrame:
    """One row per search: number of trials, chosen trial, its value and the preset's, its settings."""
    rows = []
    names = [(method, variant) for method in registry.methods() for variant in ("", *_variants(dataset, method))]
    for method, variant in names:
        if (search := find(dataset, method, variant)) and any(trial.value is not None for trial in search.trials):
            chosen, first = search.chosen, search.trials[0]
            settings = {path.split(".")[1].replace("_", " "): value for path, value in chosen.settings.items()}
            rows.append({
                "method": _name(method, variant), "trials": len(search.trials), "chosen trial": chosen.number,
                "validation NDCG@5": chosen.value, "of trial 0": first.value, **settings,
            })
    return pd.DataFrame(rows)


def _name(method: str, variant: str) -> str:
    return ", ".join(filter(None, (method, variant)))


def _variants(dataset: str, method: str) -> list[str]:
    """Variants of a method that have a search."""
    return sorted(path.stem.split(", ", 1)[1] for path in path_of(dataset, method).parent.glob(f"{method}, *.json"))
