"""Evaluation candidates, shared by every method: the positive and 99 negatives drawn once, or the whole catalog."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unisr.config import CandidateKind
from unisr.data.negatives import Sampler, hard_negatives, popularity_weights
from unisr.data.prepare import dataset_hash
from unisr.data.schema import TASKS, Dataset, Split, Task
from unisr.errors import ConfigError, DataError
from unisr.paths import data_dir, whole_file
from unisr.random import generator

N_NEGATIVES = 99
KINDS: tuple[CandidateKind, ...] = get_args(CandidateKind)
EVALUATED = [(split, task) for split in (Split.VALIDATION, Split.TEST) for task in TASKS.values()]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidates:
    """Candidates of every validation and test target of both tasks, n rows in the order of `EVALUATED`."""

    dataset: Dataset
    kind: CandidateKind
    seed: int
    rows: np.ndarray
    """[n] event rows."""
    items: np.ndarray
    """[n, 100] items in shuffled columns."""
    positive: np.ndarray
    """[n] column of the positive."""

    def of(self, split: Split, task: Task | str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rows [n], items [n, 100], positive [n]) of one split and task ('rec', 'src' or `Task`)."""
        task = TASKS[task] if isinstance(task, str) else task
        kept = (self.dataset.column("split")[self.rows] == split) & (self.dataset.column("task")[self.rows] == task)
        return self.rows[kept], self.items[kept], self.positive[kept]

    def digest(self) -> str:
        """64 hexadecimal digits over event rows, items and positive columns."""
        return _digest(self.rows, self.items, self.positive)

    def validate(self) -> Candidates:
        """Check that these are the dataset's targets, each with its positive and unseen distinct negatives.

        Raises:
            DataError: says which rule is broken, and in which row.
        """
        expected = np.concatenate([self.dataset.rows(s, t) for s, t in EVALUATED])
        if not np.array_equal(self.rows, expected) or self.items.shape != (len(expected), N_NEGATIVES + 1):
            raise DataError(f"candidates {self.kind}: not the targets of {self.dataset.name}")
        ordered = np.sort(self.items, axis=1)
        user, item = self.dataset.column("user")[self.rows], self.dataset.column("item")[self.rows]
        negative = np.arange(N_NEGATIVES + 1) != self.positive[:, None]
        seen = Sampler.of(self.dataset, train_only=False).seen(user[:, None], self.items)
        rules = {
            "an item is out of range": (ordered[:, 0] < 1) | (ordered[:, -1] > self.dataset.n_items),
            "an item stands twice": (ordered[:, 1:] == ordered[:, :-1]).any(axis=1),
            "the positive is not at its column": (self.items != item[:, None])[~negative],
            "a negative is an item of the user": (seen & negative).any(axis=1),
        }
        for rule, broken in rules.items():
            if broken.any():
                raise DataError(f"candidates {self.kind}: event row {self.rows[np.argmax(broken)]}: {rule}")
        return self


class Catalog:
    """Full ranking: the candidates of a target are all items the user has no event with in any split, and its own.

    These are the items that uniform negatives are drawn from, so a rank among 100 is a sample of the rank here.
    """

    kind: CandidateKind = "full"

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.rows = np.concatenate([dataset.rows(s, t) for s, t in EVALUATED])
        self._sampler = Sampler.of(dataset, train_only=False)

    def of(self, split: Split, task: Task | str) -> tuple[np.ndarray, CatalogItems, np.ndarray]:
        """(rows [n], items [n, V] made when sliced, positive [n]): item i is column i - 1; no candidate is 0."""
        rows = self.dataset.rows(split, TASKS[task] if isinstance(task, str) else task)
        return rows, CatalogItems(self.dataset, self._sampler, rows), self.dataset.column("item")[rows] - 1

    def digest(self) -> str:
        """64 hexadecimal digits over event rows, the number of items and positive columns."""
        return _digest(self.rows, np.array([self.dataset.n_items]), self.dataset.column("item")[self.rows] - 1)


@dataclass(frozen=True)
class CatalogItems:
    """`[n, V]` items of targets, 0 where an item is no candidate; a part is made when it is asked for."""

    dataset: Dataset
    sampler: Sampler
    rows: np.ndarray

    def __getitem__(self, part: slice | np.ndarray) -> np.ndarray:
        rows, items = self.rows[part], np.arange(1, self.dataset.n_items + 1)
        own = self.dataset.column("item")[rows][:, None] == items
        seen = self.sampler.seen(self.dataset.column("user")[rows][:, None], items)
        return np.where(seen & ~own, 0, items)


def load_candidates(dataset: Dataset, kind: CandidateKind = "uniform", seed: int = 0) -> Candidates | Catalog:
    """The stored candidates of a dataset, kind and seed; drawn and stored when missing or damaged.

    kind: 'uniform' over the items the user has no event with in any split; 'popularity': proportional to
    1 + training recommendation events; 'hard': see `hard_negatives`; 'full': all of them (nothing is drawn).

    Raises:
        DataError: a user has fewer than 99 such items.
        ConfigError: unknown kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"candidates: kind {kind!r} is unknown; allowed: {', '.join(KINDS)}")
    if kind == "full":
        return Catalog(dataset)
    fingerprint = dataset_hash(dataset)
    path = data_dir() / dataset.name / "candidates" / f"{kind}-s{seed}-{fingerprint[:12]}.parquet"
    if path.exists():
        try:
            return _read(path, dataset, kind, seed)
        except (DataError, OSError, ValueError, KeyError, IndexError, pa.ArrowException) as reason:
            log.warning("%s: drawing again: %s", path, reason)
    drawn = draw_candidates(dataset, kind, seed).validate()
    _write(path, drawn)
    return drawn


def draw_candidates(dataset: Dataset, kind: CandidateKind, seed: int) -> Candidates:
    """Draw candidates without storing them; each split and task has its own stream."""
    parts = []
    for split, task in EVALUATED:
        rows = dataset.rows(split, task)
        rng = generator(seed, "candidates", kind, dataset.name, split.name, task.name)
        negatives = _negatives(dataset, kind, rows, rng)
        column = rng.integers(0, N_NEGATIVES + 1, len(rows))
        items = np.empty((len(rows), N_NEGATIVES + 1), dtype=np.int64)
        items[np.arange(N_NEGATIVES + 1) != column[:, None]] = negatives.ravel()
        items[np.arange(len(rows)), column] = dataset.column("item")[rows]
        parts.append((rows, items, column))
    rows, items, column = (np.concatenate(p) for p in zip(*parts, strict=True))
    return Candidates(dataset, kind, seed, rows, items, column)


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for values in arrays:
        digest.update(f"\x1e{values.shape}\x1e".encode() + values.astype("<i8").tobytes())
    return digest.hexdigest()


def _negatives(dataset: Dataset, kind: CandidateKind, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`[n, 99]` in random order."""
    weights = popularity_weights(dataset) if kind == "popularity" else None
    sampler = Sampler.of(dataset, train_only=False, weights=weights)
    if kind == "hard":
        return hard_negatives(dataset, rows, N_NEGATIVES, sampler, rng)
    return sampler.sample(rng, dataset.column("user")[rows], N_NEGATIVES, distinct=True)


def _write(path: Path, candidates: Candidates) -> None:
    """Store as parquet (row, positive, items as a fixed-size list), whole or not at all."""
    width = candidates.items.shape[1]
    lists = pa.FixedSizeListArray.from_arrays(pa.array(candidates.items.astype(np.int32).ravel()), width)
    table = pa.table({"row": candidates.rows, "positive": candidates.positive, "items": lists})
    with whole_file(path) as draft:
        pq.write_table(table.replace_schema_metadata({"digest": candidates.digest()}), draft)


def _read(path: Path, dataset: Dataset, kind: CandidateKind, seed: int) -> Candidates:
    table = pq.read_table(path)
    items = table["items"].combine_chunks().flatten().to_numpy().astype(np.int64).reshape(len(table), -1)
    rows, positive = table["row"].to_numpy(), table["positive"].to_numpy()
    found = Candidates(dataset, kind, seed, rows, items, positive).validate()
    if (table.schema.metadata or {}).get(b"digest") != found.digest().encode():
        raise DataError("the candidates are not those that were stored")
    return found
