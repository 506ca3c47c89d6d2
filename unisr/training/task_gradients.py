"""The gradients of one step by task, as the GEMS optimizer (`unisr.training.gems`) takes them from its parameters."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor

from unisr.config import SubspaceConfig
from unisr.data.schema import TASKS

SHARED = "shared"
SHARES = {"loss": 0.4, "norm": 0.4, "count": 0.2}
"""The released heuristic of task weights: what each share counts."""


class TaskGradients:
    """Gradients of the tasks' mean losses over covered weights, and what makes the shared gradient of all others.

    Of parameters that are not covered only the running sum of n_k g_k is held, so that memory beyond that of plain
    training is one copy of the covered gradients (two with three passes).
    """

    def __init__(self, settings: SubspaceConfig, covered: Collection[Tensor]) -> None:
        self.settings, self.covered = settings, covered
        self.taken: dict[str, dict[Tensor, Tensor]] = {}
        self.sums: dict[Tensor, Tensor] = {}
        self.measured: dict[str, dict[str, float]] = {}
        self.counts: dict[str, float] = {}

    def take(self, parameters: Iterable[Tensor], task: str, count: float, loss: float | Tensor) -> None:
        """See `GEMS.take`."""
        if task in self.counts or task not in (*TASKS, SHARED) or count <= 0:
            raise ValueError(f"take({task!r}, {count}): each of rec, src and shared once a step, and with rows")
        found = [p for p in parameters if p.grad is not None]
        if self.settings.task_weights == "shares" and task != SHARED:
            norm = torch.stack([p.grad.norm() for p in found]).norm()
            self.measured[task] = {"loss": float(loss), "norm": float(norm), "count": count}
        own = self.taken[task] = {}
        for p in found:
            if p in self.covered or task == SHARED:
                own[p] = p.grad
            elif self.settings.passes == "counted":
                self.sums[p] = self.sums[p].add_(p.grad, alpha=count) if p in self.sums else p.grad.mul_(count)
            p.grad = None
        self.counts[task] = count

    def shared(self, p: Tensor) -> Tensor | None:
        """The gradient of the mean loss over all rows; None where no loss reached the parameter."""
        if SHARED in self.taken:
            return self.taken[SHARED].get(p)
        if self.settings.passes == "three" and self.counts:
            raise ValueError("passes='three': take the gradient of all rows as 'shared' before the step")
        total = sum(self.counts.values())
        if p in self.sums:
            return self.sums[p] / total
        mean = None
        for task, taken in self.taken.items():
            if p in taken:
                share = self.counts[task] / total
                mean = taken[p] * share if mean is None else mean.add_(taken[p], alpha=share)
        return mean

    def of(self, weight: Tensor) -> dict[str, Tensor]:
        """The gradients of a covered weight by space; `shared` first, absent tasks left out."""
        mean = self.shared(weight)
        found = {} if mean is None else {SHARED: mean}
        if self.settings.task_subspaces:
            found |= {task: self.taken[task][weight] for task in TASKS if weight in self.taken.get(task, {})}
        return found

    def scale(self, factor: Tensor) -> None:
        """Multiply all by `factor`."""
        for held in (*self.taken.values(), self.sums):
            for gradient in held.values():
                gradient.mul_(factor)

    def shares(self) -> dict[str, float]:
        """Weights of the tasks that add up to 1 (released): .4 loss share + .4 norm share + .2 count share."""
        if self.settings.task_weights != "shares":
            return dict.fromkeys(TASKS, 1.0)
        totals = {k: sum(m[k] for m in self.measured.values()) or 1.0 for k in SHARES}
        scores = {t: sum(a * m[k] / totals[k] for k, a in SHARES.items()) for t, m in self.measured.items()}
        return {task: scores.get(task, 0.0) / (sum(scores.values()) or 1.0) for task in TASKS}
