"""Stored hyper-parameter searches: one JSON file per method, results/<dataset>/tuning/<method>.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pydantic
from pydantic import Field

from unisr import registry
from unisr.config import Preset, Settings
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
    """All trials of one method on one dataset; stored as results/<dataset>/tuning/<method>.json."""

    method: str
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


def path_of(dataset: str, method: str) -> Path:
    """Where the search of a method is stored."""
    return results_dir() / dataset / "tuning" / f"{method}.json"


def find(dataset: str, method: str) -> Search | None:
    """The stored search, or None.

    Raises:
        StoreError: the file cannot be read.
    """
    path = path_of(dataset, method)
    if not path.exists():
        return None
    try:
        return Search.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, pydantic.ValidationError) as error:
        raise StoreError(f"{path}: no search ({error}); delete the file and tune again") from error


def save(search: Search) -> None:
    """Store the search whole, in place of an older one."""
    with whole_file(path_of(search.dataset, search.method)) as draft:
        draft.write_text(json.dumps(search.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")


def summary(dataset: str) -> pd.DataFrame:
    """One row per searched method: number of trials, chosen trial, its value and the preset's, its settings."""
    rows = []
    for method in registry.methods():
        if (search := find(dataset, method)) and any(trial.value is not None for trial in search.trials):
            chosen, first = search.chosen, search.trials[0]
            settings = {path.split(".")[1].replace("_", " "): value for path, value in chosen.settings.items()}
            rows.append({
                "method": method, "trials": len(search.trials), "chosen trial": chosen.number,
                "validation NDCG@5": chosen.value, "of trial 0": first.value, **settings,
            })
    return pd.DataFrame(rows)
