"""Stored runs grouped into what one page section or README block shows: a dataset, a preset, a kind of candidates."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from unisr import registry
from unisr.config import PRESETS, RunConfig
from unisr.data.candidates import KINDS
from unisr.data.schema import TASK_TITLES
from unisr.errors import StoreError, UnisrError
from unisr.paths import results_dir
from unisr.report import store, tables
from unisr.report.settings import DATA


@dataclass
class Group:
    """The runs of one dataset, preset and kind of candidates, and their comparison per task."""

    dataset: str
    preset: str
    candidates: str
    runs: list[store.Run]
    """Runs with the preset's own settings."""
    others: list[store.Run]
    """Runs with changed settings: listed, not in the tables."""
    comparisons: dict[str, pd.DataFrame] = field(default_factory=dict)
    """Task name -> tidy frame of `unisr.report.tables.comparison`."""
    problem: str = ""
    """Why there is no table."""

    @property
    def folder(self) -> Path:
        return results_dir() / self.dataset / self.preset

    @property
    def title(self) -> str:
        return f"{self.dataset} · {self.preset}" + ("" if self.usual else f" · {self.candidates} candidates")

    @property
    def key(self) -> str:
        """Anchor of this group on the pages of the report."""
        return anchor(self.title)

    @property
    def usual(self) -> bool:
        """Whether the candidates are those of the papers."""
        return self.candidates == KINDS[0]

    def file(self, stem: str) -> str:
        """File name for a table or figure of this group, without its ending."""
        return stem if self.usual else f"{stem}_{self.candidates}"

    @property
    def tidy(self) -> pd.DataFrame:
        """Comparisons of all tasks with the methods' families, for the figures."""
        families = {name: m.card.family for name, m in registry.methods().items()}
        frame = pd.concat(self.comparisons.values(), ignore_index=True)
        return frame.assign(family=frame["method"].map(families))

    @property
    def notebooks(self) -> list[Path]:
        """Executed notebooks, without those that failed; listed once, with the usual candidates."""
        if not self.usual:
            return []
        return sorted(p for p in (self.folder / "notebooks").glob("*.ipynb") if ".failed" not in p.name)


def anchor(title: str) -> str:
    """A title as an anchor: letters, digits and dashes."""
    return re.sub(r"\W+", "-", title)


def groups() -> tuple[list[Group], list[str]]:
    """All stored runs, by dataset, the fullest preset first; and why other run folders were left out, a line each."""
    stored: dict[tuple[str, str, str], list[store.Run]] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        runs = store.runs()
    left_out = [str(warning.message) for warning in caught]
    for run in runs:
        config = run.config
        try:
            _ = run.losses, run.per_query
        except StoreError as error:
            left_out.append(f"run left out: {error}")
            continue
        stored.setdefault((config.dataset, config.preset, config.candidates), []).append(run)
    order = sorted(stored, key=lambda key: (key[0], -PRESETS.index(key[1]), KINDS.index(key[2])))
    found = [group(*key, stored[key]) for key in order]
    return found, left_out


def group(dataset: str, preset: str, candidates: str, runs: list[store.Run]) -> Group:
    """The group of `runs`, which are of this kind; if they cannot be compared, `problem` says why."""
    own = [run for run in runs if has_preset_settings(run)]
    made = Group(dataset, preset, candidates, own, [run for run in runs if run not in own])
    try:
        tasks = [task for task in TASK_TITLES if any(task in run.metrics for run in own)]
        made.comparisons = {task: tables.comparison(own, task) for task in tasks}
    except UnisrError as error:
        made.problem = str(error)
    return made


def has_preset_settings(run: store.Run) -> bool:
    """Whether nothing but the seed and the candidates was changed from the method's preset."""
    config = run.config
    preset = RunConfig(**config.model_dump(include=set(DATA)))
    return preset.config_id == config.config_id
