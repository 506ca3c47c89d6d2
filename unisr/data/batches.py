"""What a model receives: `Batch` (one row per query) and `SequenceBatch` (one row per user window).

Histories are left-padded and chronological: the last column is the latest event. All ids are int64.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from unisr.data.schema import TASKS

CATALOG_CHUNK = 1024
"""Items that a model scores at once when it ranks the whole catalog."""


@dataclass
class _Tensors:
    def to(self, device: torch.device | str) -> Self:
        """The same batch with every tensor on `device`."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return type(self)(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in moved.items()})

    def __len__(self) -> int:
        return len(self.user)  # type: ignore[attr-defined]


@dataclass
class Batch(_Tensors):
    """B queries with C candidates each, and the merged history strictly before each query's time.

    user [B]; items, tasks, queries [B, L] (0 where padded, `queries` 0 on recommendation events);
    candidates [B, C]; query [B] (0 for recommendation); task [B] (`Task`);
    labels [B, C] float in training, None in evaluation.
    """

    user: Tensor
    items: Tensor
    tasks: Tensor
    queries: Tensor
    candidates: Tensor
    query: Tensor
    task: Tensor
    labels: Tensor | None = None

    def select(self, rows: Tensor | slice) -> Batch:
        """The rows picked by a boolean mask, index or slice `rows`."""
        picked = {f.name: getattr(self, f.name) for f in fields(self)}
        return Batch(**{k: v[rows] if v is not None else None for k, v in picked.items()})

    def by_task(self) -> list[tuple[str, Tensor]]:
        """The tasks that the batch has, `rec` before `src`, and their rows."""
        found = [(name, (self.task == int(task)).nonzero().squeeze(1)) for name, task in TASKS.items()]
        return [(name, rows) for name, rows in found if len(rows)]


@dataclass
class SequenceBatch(_Tensors):
    """B windows of users' training events for causal encoders trained on all positions in one pass.

    user [B]; items, tasks, queries [B, L] as in `Batch`; targets [B, P] item ids (0 = none);
    states [B, P]: the column of the last event strictly before target p, whose encoder state predicts it
    (-1 where the window holds none, then targets is 0 too). Only recommendation events are targets.
    """

    user: Tensor
    items: Tensor
    tasks: Tensor
    queries: Tensor
    targets: Tensor
    states: Tensor
