"""Linear algebra of the GEMS optimizer (`unisr.training.gems`): bases of gradients, task weights, rounding."""

from __future__ import annotations

import torch
from torch import Tensor

from unisr.config import SubspaceConfig
from unisr.data.schema import TASKS

OVERSAMPLING, POWER_ITERATIONS = 8, 1
"""Of the randomized SVD."""


def state_numbers(weight: Tensor, settings: SubspaceConfig) -> int:
    """What GEMS keeps for a weight [o, i], (s + 2 l) Σ r_k numbers: a basis [s, r] and two moments [l, r] a space."""
    short, long = sorted(weight.shape)
    ranks = [settings.rank, *[max(1, settings.rank // 2)] * (2 if settings.task_subspaces else 0)]
    return (short + 2 * long) * sum(min(rank, short) for rank in ranks)


def directions(source: Tensor, rank: int, kind: str, random: torch.Generator, *, left: bool = False) -> Tensor:
    """Orthonormal columns [s, rank]: leading right singular vectors of `source` [n, s].

    Args:
        kind: svd, the whole one; randomized, from a sketch (Halko et al., SIAM Review 2011, algorithm 4.4), whose
            numbers are drawn on the CPU so that no device or process has its own; random, any basis of its rows.
        left: take them as left singular vectors of the transpose: the same but for signs, which `keep` of moments
            sees, and so those of galore-torch on the left side.
    """
    if kind == "svd":
        u, _, vh = torch.linalg.svd(source.T if left else source, full_matrices=False)
        return u[:, :rank] if left else vh[:rank].T
    if kind == "random" or rank == 0:
        return torch.linalg.qr(source.T).Q[:, :rank]
    sketch = source.T @ noise((source.shape[0], min(rank + OVERSAMPLING, *source.shape)), source, random)
    for _ in range(POWER_ITERATIONS):
        sketch = source.T @ torch.linalg.qr(source @ torch.linalg.qr(sketch).Q).Q
    span = torch.linalg.qr(sketch).Q
    compact = source @ span
    return span @ torch.linalg.eigh(compact.T @ compact).eigenvectors.flip(1)[:, :rank]


def conflict_weights(*updates: tuple[Tensor, Tensor] | None) -> dict[str, Tensor]:
    """PCGrad's weights (Yu et al., NeurIPS 2020) of the tasks' updates n_k B_k^T of one weight, each (n_k, B_k).

    With b = min(0, Δ_rec · Δ_src) each task loses its part along the other, so that the sum of both has the weights
    1 - b / |Δ_rec|² and 1 - b / |Δ_src|². A task alone, or without update, leaves them at 1.
    """
    if any(update is None for update in updates):
        return {}
    (n1, b1), (n2, b2) = updates
    opposed = ((n1 @ (b1.T @ b2).to(n1.dtype)) * n2).sum().clamp(max=0)
    squares = [(n @ (b.T @ b).to(n.dtype) * n).sum() for n, b in updates]
    return {task: 1 - opposed / sq.clamp(min=1e-30) for task, sq in zip(TASKS, squares, strict=True)}


def rounded(values: Tensor, random: torch.Generator) -> Tensor:
    """fp32 to bf16 at random, right on average.

    Rounded to the nearest, a mean that keeps β2 = .999 of itself would never fall, for bf16 steps are .004 apart.
    """
    low = torch.randint(1 << 16, values.shape, dtype=torch.int32, generator=random).to(values.device)
    return ((values.float().view(torch.int32) + low) & -(1 << 16)).view(torch.float32).bfloat16()


def right(weight: Tensor) -> bool:
    """Whether the basis lies on the side of the inputs (o >= i)."""
    return weight.shape[0] >= weight.shape[1]


def tall(matrix: Tensor, weight: Tensor) -> Tensor:
    """[o, i] to [l, s] and back."""
    return matrix if right(weight) else matrix.T


def computed(weight: Tensor) -> torch.dtype:
    """The type a weight's bases and updates are computed in: its own, fp32 at least."""
    return torch.promote_types(weight.dtype, torch.float32)


def noise(shape: tuple[int, ...], like: Tensor, random: torch.Generator) -> Tensor:
    """Standard normal numbers of the type and on the device of `like`."""
    return torch.randn(shape, generator=random).to(like)
