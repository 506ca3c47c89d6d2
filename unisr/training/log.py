"""What a training tells about itself: running means on the device, one row per epoch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from unisr.data.batches import Batch, SequenceBatch
from unisr.errors import UnisrError

FLUSH_STEPS = 50
"""Batches between two transfers to the host: each one waits for the device."""
SHOWN = 8
"""Ids of a batch that an error names."""


@dataclass
class TrainLog:
    """One row per epoch; `best_epoch` (from 1) is the epoch whose weights the scorer has, 0 for none.

    Columns: epoch, loss (the sum that is minimised), loss_<term>, gradient_norm (before clipping), learning_rate
    (of the last step), steps (of the optimiser), examples (rows of batches), seconds and examples_per_second
    (without validation), validation_<metric>, validation_seconds.
    """

    rows: list[dict[str, float]]
    best_epoch: int = 0

    @property
    def seconds(self) -> float:
        """Seconds of training and validation over all epochs, those before an interruption included."""
        return sum(row["seconds"] + row.get("validation_seconds", 0.0) for row in self.rows)

    def total(self, column: str) -> int:
        """The sum of a count over all epochs."""
        return int(sum(row[column] for row in self.rows))

    def frame(self) -> pd.DataFrame:
        """The rows as a table; without rows it has the columns epoch and loss."""
        return pd.DataFrame(self.rows) if self.rows else pd.DataFrame({"epoch": [], "loss": []})


@dataclass
class Meter:
    """Means of the loss terms and of the gradient norm over an epoch, each over the batches that have it."""

    epoch: int
    ids: Callable[[int], str] = lambda step: ""
    """Says which users and items the batch of a step has."""
    examples: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    waiting: list[tuple[int, dict[str, Tensor]]] = field(default_factory=list)

    def add(self, losses: dict[str, Tensor], *, examples: int) -> None:
        """Take the terms of the next batch."""
        self.step += 1
        self.examples += examples
        named = {f"loss_{k}": v.detach() for k, v in losses.items()}
        self.waiting.append((self.step, {"loss": sum(named.values()), **named}))
        if len(self.waiting) >= FLUSH_STEPS:
            self._flush()

    def add_norm(self, norm: Tensor) -> None:
        """Take the gradient norm of the optimiser step that the latest batch ended."""
        self.waiting.append((self.step, {"gradient_norm": norm.detach()}))

    def pool(self, gather: Callable[[list[Any]], list[Any]]) -> None:
        """Take in what the other processes counted; `gather` makes a list of this process's value one of all."""
        self._flush()
        every = gather([(dict(self.sums), dict(self.counts), self.examples)])
        sums, counts, examples = zip(*every, strict=True)
        names = dict.fromkeys(name for own in sums for name in own)
        self.sums.update({name: sum(own.get(name, 0.0) for own in sums) for name in names})
        self.counts.update({name: sum(own.get(name, 0) for own in counts) for name in names})
        self.examples = sum(examples)

    def means(self) -> dict[str, float]:
        """The means by name."""
        self._flush()
        return {name: self.sums[name] / self.counts[name] for name in self.sums}

    def _flush(self) -> None:
        if not self.waiting:
            return
        values = torch.stack([v.float() for _, terms in self.waiting for v in terms.values()]).tolist()
        places = ((step, name) for step, terms in self.waiting for name in terms)
        by_step: dict[int, dict[str, float]] = defaultdict(dict)
        for (step, name), value in zip(places, values, strict=True):
            by_step[step][name] = value
            self.sums[name] += value
            self.counts[name] += 1
        self.waiting.clear()
        for step, terms in by_step.items():
            if not all(map(math.isfinite, terms.values())):
                found = ", ".join(f"{k} = {v:.4g}" for k, v in terms.items())
                raise UnisrError(
                    f"training diverged at epoch {self.epoch}, batch {step}: {found}{self.ids(step)}; lower "
                    "training.learning_rate, or set training.clip_norm and training.warmup_steps"
                )


def ids_of(batch: Batch | SequenceBatch) -> str:
    """Such as " (users 3, 8; items 5, 6, 9)": the first of a batch's users and targets, and how many there are."""
    targets = batch.targets if isinstance(batch, SequenceBatch) else batch.candidates[batch.labels > 0]
    parts = []
    for name, ids in (("users", batch.user), ("items", targets[targets > 0])):
        found = ids.unique().tolist()
        more = f", … {len(found)} in all" if len(found) > SHOWN else ""
        parts.append(f"{name} {', '.join(map(str, found[:SHOWN]))}{more}")
    return f" ({'; '.join(parts)})"
