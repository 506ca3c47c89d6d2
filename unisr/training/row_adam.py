"""AdamW for tables of many rows, of which a step reads few."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class RowAdamW(torch.optim.AdamW):
    """AdamW, and where a gradient is sparse its update of the rows that the step has read alone.

    m, v and weights of other rows stay as they are: neither decay nor momentum moves a row that is not read (as in
    torch's SparseAdam). Bias correction counts all steps.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step; `closure` is not used."""
        sparse = [(group, p, p.grad) for group in self.param_groups for p in group["params"]
                  if p.grad is not None and p.grad.is_sparse]  # fmt: skip
        for _, parameter, _ in sparse:
            parameter.grad = None
        super().step()
        for group, parameter, gradient in sparse:
            self._rows(group, parameter, gradient.coalesce())

    def _rows(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        (rows,), values, (one, two) = gradient.indices(), gradient.values(), group["betas"]
        mean = state["exp_avg"][rows].lerp_(values, 1 - one)
        square = state["exp_avg_sq"][rows].lerp_(values.square(), 1 - two)
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, square
        scale = (square / (1 - two ** state["step"])).sqrt_().add_(group["eps"])
        update = mean / (1 - one ** state["step"]) / scale
        kept = parameter[rows] * (1 - group["lr"] * group["weight_decay"])
        parameter[rows] = kept.sub_(update, alpha=group["lr"])


def sparse_tables(module: nn.Module, least: int) -> bool:
    """Have the trained tables of at least `least` rows give sparse gradients where they are looked up; are there any?

    Where the whole table is read, as by a softmax over the catalog, its gradient stays dense.
    """
    tables = [part for part in module.modules() if isinstance(part, nn.Embedding)]
    large = [part for part in tables if part.num_embeddings >= least and part.weight.requires_grad]
    for part in large:
        part.sparse = True
    return bool(large)


def clip_norm(parameters: Iterable[Tensor], most: float) -> Tensor:
    """Scale the gradients, sparse ones too, to a joint norm of at most `most`; returns the norm before."""
    values = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
        values.append(parameter.grad._values() if parameter.grad.is_sparse else parameter.grad)
    norm = torch.nn.utils.get_total_norm(values)
    for value in values:
        value.mul_((most / (norm + 1e-6)).clamp(max=1.0))
    return norm
