"""Hand-made runs for the tests of the store and of the tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
from torch import nn

from unisr.config import RunConfig
from unisr.random import generator
from unisr.report import store
from unisr.report.environment import Environment
from unisr.report.store import Cost, Run, Seconds

COST = Cost(seconds=Seconds(train=2.0, evaluate=0.5, total=3.0), peak_memory_mb=100.0, epochs=3, best_epoch=2,
            parameters=10, steps=30, examples=900)
CLOCKS = ["seconds", "validation_seconds", "examples_per_second"]
"""Columns of the losses that no two trainings share."""


def config(method: str = "Popularity", **settings: object) -> RunConfig:
    return RunConfig.model_validate({"method": method, "dataset": "synthetic", "preset": "quick", **settings})


def environment(**fields: object) -> Environment:
    given = {"device": "cpu", "dataset_hash": "d", "candidates_hash": "c", "counts": {"#User": 50}}
    return Environment(**{**given, **fields})


def ranking(rec: list[float] | np.ndarray, src: list[float] | np.ndarray = ()) -> pd.DataFrame:
    """A per-query table of given ranks; recommendation events are 0, 1, …, search events 1000, 1001, …"""
    parts = []
    for task, rank, start, query in (("rec", rec, 0, 0), ("src", src, 1000, 7)):
        number = np.arange(len(rank))
        parts.append(pd.DataFrame({"task": task, "user": number + 1, "event": number + start, "query": query,
                                   "rank": np.asarray(rank, dtype=float), "ties": np.asarray(rank) % 1 > 0}))
    frame = pd.concat([p for p in parts if len(p)], ignore_index=True)
    return frame.astype({"ties": "int64", "query": "int64"})


def losses(epochs: int = 3) -> pd.DataFrame:
    return pd.DataFrame({"epoch": np.arange(1, epochs + 1), "loss": np.linspace(1, 0.5, epochs)})


def saved(
    rec: list[float] | np.ndarray, src: list[float] | np.ndarray = (), *, model: nn.Module | None = None,
    made: Environment | None = None, method: str = "Popularity", **settings: object,
) -> Run:
    return store.save(config(method, **settings), per_query=ranking(rec, src), losses=losses(), cost=COST,
                      environment=made or environment(), model=model)


def random_ranks(mean: float, n: int = 400, seed: int = 0) -> np.ndarray:
    """Integer ranks of 1…100 that share each query's difficulty between methods of one seed."""
    difficulty = generator(0, "difficulty").random(n)
    noise = generator(seed, "noise", str(mean)).random(n)
    return np.clip(np.ceil(mean * (difficulty + 0.3 * noise)), 1, 100)
