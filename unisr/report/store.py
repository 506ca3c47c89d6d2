"""The run store: one folder per run, which appears whole or not at all.

    results/runs/<dataset>/<preset>/<method>-s<seed>-<config_id>/
        config.json        the complete config with the versions that enter its id
        environment.json   `Environment`
        metrics.json       means per task, and `Cost`
        losses.parquet     one row per epoch
        per_query.parquet  task, user, event, query, rank, ties, candidates: the artefact that all else follows from
        model.safetensors  trained weights (not of methods without any, and not in the repository)

`save` writes the folder with `whole_folder`, so the last complete writer wins and files of two writers never mix.
`<name>.partial/` beside it belongs to a training in progress and is no run.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from unisr import registry, seals
from unisr.config import PROTOCOL_VERSION, RunConfig
from unisr.errors import StoreError, UnisrError
from unisr.evaluation.metrics import per_query_metrics, summary
from unisr.evaluation.protocol import COLUMNS, SIZE
from unisr.paths import results_dir
from unisr.report.environment import Environment
from unisr.report.folders import whole_folder

NAME = re.compile(r"(?P<method>[^/]+)-s(?P<seed>\d+)-(?P<id>[0-9a-f]{12})")
FILES = ("config.json", "environment.json", "metrics.json", "losses.parquet", "per_query.parquet")
WEIGHTS = "model.safetensors"
REMEDY = "delete the folder, or run again with mode='overwrite'"


class Seconds(BaseModel):
    """Wall-clock seconds."""

    train: float
    evaluate: float
    total: float


class Cost(BaseModel):
    """What a run took; stored in metrics.json beside the means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: Seconds
    peak_memory_mb: float
    """Of the process, or of the accelerator where one is used."""
    epochs: int
    best_epoch: int
    """Epoch whose weights are kept, from 1; 0 for a method that is not trained."""
    parameters: int
    """Trainable numbers."""
    steps: int
    """Optimiser steps."""
    examples: int
    """Training rows seen."""


@dataclass(frozen=True)
class Run:
    """A stored run; its parts are read when first asked for.

    Raises:
        StoreError: a file is missing or damaged (from any property; the message names it).
    """

    folder: Path

    @cached_property
    def config(self) -> RunConfig:
        stored = _json(self.folder / "config.json")
        try:
            config = RunConfig.model_validate(stored["config"])
            version = registry.method(config.method).card.version
        except (KeyError, TypeError, ValidationError, UnisrError) as error:
            raise StoreError(f"{self.folder / 'config.json'}: no config of this version ({error}); {REMEDY}") from error
        made, current = (stored.get("protocol_version"), stored.get("method_version")), (PROTOCOL_VERSION, version)
        if made != current:
            raise StoreError(
                f"{self.folder}: made with protocol version {made[0]}, {config.method} version {made[1]}; "
                f"the code has {current[0]} and {current[1]}; run it again"
            )
        if self.folder.name != folder_of(config).name:
            raise StoreError(
                f"{self.folder / 'config.json'}: edited or moved: by its id it is {folder_of(config).name}; {REMEDY}"
            )
        return config

    @cached_property
    def environment(self) -> Environment:
        try:
            return Environment(**_json(self.folder / "environment.json"))
        except TypeError as error:
            raise StoreError(f"{self.folder / 'environment.json'}: {error}; {REMEDY}") from error

    @cached_property
    def _results(self) -> dict[str, Any]:
        return _json(self.folder / "metrics.json")

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """{task: {metric: mean, "tie_rate": …, "n": …}}"""
        try:
            return self._results["metrics"]
        except (KeyError, TypeError) as error:
            raise StoreError(f"{self.folder / 'metrics.json'}: has no metrics; {REMEDY}") from error

    @cached_property
    def cost(self) -> Cost:
        try:
            return Cost.model_validate({k: v for k, v in self._results.items() if k != "metrics"})
        except (AttributeError, ValidationError) as error:
            raise StoreError(f"{self.folder / 'metrics.json'}: {error}; {REMEDY}") from error

    @cached_property
    def per_query(self) -> pd.DataFrame:
        """The per-query table with a column per metric (see `per_query_metrics`)."""
        return per_query_metrics(_parquet(self.folder / "per_query.parquet"))

    @cached_property
    def losses(self) -> pd.DataFrame:
        """The epoch log."""
        return _parquet(self.folder / "losses.parquet")

    @property
    def checkpoint(self) -> Path | None:
        """The weights' file, if it is there."""
        path = self.folder / WEIGHTS
        return path if path.exists() else None

    def load_weights(self, model: nn.Module) -> None:
        """Copy the stored weights into a model built from `config`."""
        if self.checkpoint is None:
            raise StoreError(f"{self.folder / WEIGHTS}: no weights are stored; train them with mode='overwrite'")
        seals.check(self.folder, [WEIGHTS], REMEDY)
        try:
            load_model(model, self.checkpoint)
        except (RuntimeError, SafetensorError) as error:
            raise StoreError(f"{self.checkpoint}: {error}; {REMEDY}") from error


def folder_of(config: RunConfig) -> Path:
    """Where the run of this config is stored."""
    name = f"{config.method.replace('/', '_')}-s{config.seed}-{config.config_id}"
    return results_dir() / "runs" / config.dataset / config.preset / name


def find(config: RunConfig) -> Run | None:
    """The stored run of this config, or None.

    Raises:
        StoreError: there is a folder, but it is not a whole run.
    """
    folder = folder_of(config)
    return load(folder) if folder.exists() else None


def load(folder: Path) -> Run:
    """The run in `folder`, after a check of names, files, config and table footers; tables are read later.

    Raises:
        StoreError: names the file that is missing, damaged or not of this run, and the remedy.
    """
    if not NAME.fullmatch(folder.name) or not folder.is_dir():
        raise StoreError(f"{folder}: not a run folder; run folders are named <method>-s<seed>-<config_id>")
    if missing := [name for name in FILES if not (folder / name).exists()]:
        raise StoreError(f"{folder}: lacks {', '.join(missing)}; {REMEDY}")
    run = Run(folder)
    _ = run.config
    seals.check(folder, FILES, REMEDY)
    _ = run.environment, run.metrics, run.cost
    for name, needed in (("losses.parquet", ()), ("per_query.parquet", COLUMNS)):
        with _damage(folder / name):
            columns = pq.read_schema(folder / name).names
        if lacking := set(needed) - set(columns):
            raise StoreError(f"{folder / name}: lacks column(s) {', '.join(sorted(lacking))}; {REMEDY}")
    if run.checkpoint:
        with _damage(run.checkpoint), safe_open(run.checkpoint, "pt"):
            pass
    return run


def runs(dataset: str | None = None, preset: str | None = None, method: str | None = None) -> list[Run]:
    """Stored runs that match, by method (in the registry's order) and seed.

    A folder that is damaged or of another version of the code is left out with a warning that names it.
    """
    order = list(registry.methods())
    found = []
    for folder in sorted((results_dir() / "runs").glob(f"{dataset or '*'}/{preset or '*'}/*")):
        if not NAME.fullmatch(folder.name) or folder.name.startswith("."):
            continue
        try:
            run = load(folder)
        except StoreError as error:
            warnings.warn(f"run left out: {error}", stacklevel=2)
            continue
        if method is None or run.config.method.lower() == method.lower():
            found.append(run)
    return sorted(found, key=lambda run: (order.index(run.config.method), run.config.seed, run.folder.name))


def save(
    config: RunConfig,
    *,
    per_query: pd.DataFrame,
    losses: pd.DataFrame,
    cost: Cost,
    environment: Environment,
    model: nn.Module | None = None,
) -> Run:
    """Store a run whole and return it; an older run of the same config is replaced.

    Args:
        per_query: from `unisr.evaluation.evaluate`; the means in metrics.json are taken from it.
        losses: the epoch log, one row per epoch.
        model: its weights are stored; None stores none.

    Raises:
        StoreError: `per_query` lacks a column or has no row.
    """
    final = folder_of(config)
    if (lacking := set(COLUMNS) - set(per_query)) or per_query.empty:
        raise StoreError(f"{final.name}: the per-query table lacks {', '.join(sorted(lacking)) or 'rows'}")
    with whole_folder(final) as draft:
        versions = {"protocol_version": PROTOCOL_VERSION, "method_version": registry.method(config.method).card.version}
        _write_json(draft / "config.json", versions | {"config": config.model_dump(mode="json")})
        _write_json(draft / "environment.json", asdict(environment))
        _write_json(draft / "metrics.json", {"metrics": summary(per_query)} | cost.model_dump())
        kept = per_query[[column for column in per_query if column in (*COLUMNS, SIZE)]]
        kept.to_parquet(draft / "per_query.parquet", index=False, write_page_checksum=True)
        losses.to_parquet(draft / "losses.parquet", index=False, write_page_checksum=True)
        if model is not None:
            save_model(model, str(draft / WEIGHTS))
    return load(final)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn what a damaged or missing file raises into a StoreError that names it."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); {REMEDY}") from error


def _json(path: Path) -> Any:
    with _damage(path):
        return json.loads(path.read_text(encoding="utf-8"))


def _parquet(path: Path) -> pd.DataFrame:
    with _damage(path):
        return pq.read_table(path, page_checksum_verification=True).to_pandas()
