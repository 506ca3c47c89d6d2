"""From a dataset's name to its tables: built once, cached as Arrow files, checked by hash, mapped into memory.

The files are not compressed, so that a loaded table is the file itself: what no one reads takes no memory, and
processes that load the same dataset share it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import feather

from unisr.data import download
from unisr.data.schema import COLUMNS, Dataset, Task
from unisr.data.sources import Source, source
from unisr.errors import DataError
from unisr.lock import discard, exclusive
from unisr.paths import data_dir
from unisr.random import generator
from unisr.seals import SUMS, damaged, file_hash, seal

TABLES_VERSION = 2
"""Raised when the tables a source gives, or their files, change; caches of other versions are rebuilt."""
MANIFEST, WORK = "manifest.json", ".tables-"
log = logging.getLogger(__name__)


def load_dataset(
    name: str, *, max_users: int | None = None, seed: int = 0, folder: Path | str | None = None
) -> Dataset:
    """The dataset called `name`, prepared and cached under `data_dir()/<name>/` when missing.

    One process prepares a dataset, others wait for it. A killed one leaves no tables, and what it leaves is cleared
    away by the next that prepares.

    max_users: keep a keyed sample of users, re-indexed densely, and all items and queries.
    seed: picks that sample, and the world of a generated source; it changes nothing else.
    folder: the source's own files; without it the cache is used, or the files are fetched.

    Raises:
        UnknownNameError: no such dataset; near names are listed.
        DataError: the files cannot be had or break their format; the message says what to do.
    """
    chosen = source(name)
    folder = Path(folder).expanduser() if folder is not None else None
    lock = data_dir() / chosen.name / f"{chosen.name}.lock"
    dataset = _cached(chosen, seed, folder, logging.DEBUG)
    if dataset is not None:
        discard(lock)
    else:
        with exclusive(lock):
            dataset = _cached(chosen, seed, folder) or _prepare(chosen, seed, folder)
    return dataset if max_users is None else sample_users(dataset, max_users, seed=seed)


def sample_users(dataset: Dataset, max_users: int, *, seed: int) -> Dataset:
    """The dataset with at most `max_users` users, drawn by `seed`, numbered 1, 2, … in their old order."""
    if max_users >= dataset.n_users:
        return dataset
    drawn = generator(seed, "users", dataset.name).permutation(dataset.n_users)[:max_users] + 1
    kept = np.r_[0, np.sort(drawn)]
    number = np.zeros(dataset.n_users + 1, dtype=np.int64)
    number[kept] = np.arange(len(kept))
    users = dataset.users.iloc[kept].reset_index(drop=True).assign(user=np.arange(len(kept)))
    events = dataset.events[number[dataset.column("user")] > 0].reset_index(drop=True)
    events["user"] = number[events["user"].to_numpy()]
    return Dataset(dataset.name, users, dataset.items, dataset.queries, events).validate()


def describe(dataset: Dataset) -> dict[str, int]:
    """The counts of the papers' Table 1; Inter-S are search events, Inter-R recommendation events.

    >>> describe(load_dataset("synthetic"))["#User"]
    120
    """
    task = dataset.column("task")
    return {
        "#User": dataset.n_users,
        "#Item": dataset.n_items,
        "#Queries": dataset.n_queries,
        "#Inter-S": int((task == Task.SRC).sum()),
        "#Inter-R": int((task == Task.REC).sum()),
    }


def dataset_hash(dataset: Dataset) -> str:
    """64 hexadecimal digits over the contents of the four tables (not the name)."""
    digest = hashlib.sha256()
    for table, columns in COLUMNS.items():
        frame = getattr(dataset, table)
        for column, kind in columns.items():
            digest.update(f"\x1e{table}.{column}:{len(frame)}\x1e".encode())
            values = frame[column]
            digest.update("\x1f".join(values).encode() if kind == "str" else values.to_numpy("<i8").tobytes())
    return digest.hexdigest()


def _cache_folder(chosen: Source, seed: int) -> Path:
    return data_dir() / chosen.name / ("tables" if chosen.fetch else f"tables-s{seed}")


def _file(folder: Path, table: str) -> Path:
    return folder / f"{table}.arrow"


def _source_hashes(chosen: Source, folder: Path | None) -> dict[str, str]:
    return {f: file_hash(folder / f) for f in chosen.files if folder and (folder / f).is_file()}


def _cached(chosen: Source, seed: int, folder: Path | None, level: int = logging.WARNING) -> Dataset | None:
    """The cached tables; None where there are none, or they are damaged, outdated or of other files."""
    cache = _cache_folder(chosen, seed)
    if not cache.exists():
        return None
    try:
        if damaged(cache, [MANIFEST]):
            raise DataError(f"{MANIFEST} is not what {SUMS} says")
        manifest = json.loads((cache / MANIFEST).read_text())
        if manifest["version"] != TABLES_VERSION:
            raise DataError(f"made by tables version {manifest['version']}, this is {TABLES_VERSION}")
        if folder is not None and manifest["sources"] != _source_hashes(chosen, folder):
            raise DataError(f"made from other files than those in {folder}")
        for table in COLUMNS:
            if file_hash(_file(cache, table)) != manifest["tables"][table]:
                raise DataError(f"{_file(cache, table).name} is not what {MANIFEST} says")
        tables = {t: feather.read_table(_file(cache, t), memory_map=True) for t in COLUMNS}
        # Columns by themselves: joined in one block, as pandas does otherwise, they would be copied.
        frames = {t: table.to_pandas(split_blocks=True) for t, table in tables.items()}
        return Dataset(chosen.name, **frames, filters=tuple((f, c) for f, c in manifest["filters"])).validate()
    except (DataError, OSError, ValueError, KeyError, TypeError) as reason:
        log.log(level, "%s: building again: %s", cache, reason)
        return None


def _prepare(chosen: Source, seed: int, folder: Path | None) -> Dataset:
    """Build the dataset and put its cache in place whole."""
    cache = _cache_folder(chosen, seed)
    for left in cache.parent.glob(f"{WORK}*"):
        shutil.rmtree(left, ignore_errors=True)
    raw = chosen.fetch(folder) if chosen.fetch else None
    dataset = chosen.build(raw, seed)
    work = Path(tempfile.mkdtemp(prefix=WORK, dir=cache.parent))
    try:
        for table in COLUMNS:
            # In one chunk: a column of several would be copied when loaded.
            whole = pa.Table.from_pandas(getattr(dataset, table)).combine_chunks()
            feather.write_feather(whole, _file(work, table), compression="uncompressed", chunksize=max(len(whole), 1))
        manifest = {
            "name": chosen.name,
            "version": TABLES_VERSION,
            "seed": seed,
            "dataset": dataset_hash(dataset),
            "counts": describe(dataset),
            "filters": dataset.filters,
            "sources": _source_hashes(chosen, raw),
            "tables": {t: file_hash(_file(work, t)) for t in COLUMNS},
        }
        (work / MANIFEST).write_text(json.dumps(manifest, indent=1))
        seal(work)
        download.put_in_place(work, cache)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return dataset
