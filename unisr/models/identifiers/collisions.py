"""Telling items of one id apart by moving them to other codes of the last level."""

from __future__ import annotations

import torch
from torch import Tensor

from unisr.models.identifiers.sinkhorn import sinkhorn


@torch.no_grad()
def separate(codes: Tensor, last: Tensor, codebook: Tensor, *, epsilon: float, rounds: int) -> Tensor:
    """Codes `[V, T]` with fewer items of one id, as GenSAR makes them.

    codes: [V, T] nearest codes. last: [V, d] what the last level quantizes. codebook: [K, d] its codes.

    In each of at most `rounds` rounds, every group of items with one id is assigned to the last level's codes anew,
    by Sinkhorn over the group alone; what still collides at the end is kept. Rounds end early when all ids are
    unique or when none changes. epsilon 0 changes nothing.
    """
    codes = codes.clone()
    for _ in range(rounds if epsilon else 0):
        _, group, counts = codes.unique(dim=0, return_inverse=True, return_counts=True)
        order, starts = group.argsort(stable=True), counts.cumsum(0) - counts
        moved = codes[:, -1].clone()
        for size in counts[counts > 1].unique().tolist():
            # Groups of one size are solved together: rows [G, size] of items.
            rows = order[starts[counts == size][:, None] + torch.arange(size)]
            distances = torch.cdist(last[rows], codebook).square()
            moved[rows] = sinkhorn(distances, epsilon=epsilon).argmax(-1)
        if torch.equal(moved, codes[:, -1]):
            break
        codes[:, -1] = moved
    return codes
