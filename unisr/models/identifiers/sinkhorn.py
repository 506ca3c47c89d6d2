"""Balanced assignment of samples to codes."""

from __future__ import annotations

import torch
from torch import Tensor

from unisr.errors import ConfigError

SMALLEST_EPSILON = 0.003
"""The largest ratio of two weights, exp(2 / epsilon), must stay a float64."""


@torch.no_grad()
def sinkhorn(distances: Tensor, *, epsilon: float, iterations: int = 50) -> Tensor:
    """Soft assignment Q of n samples to K codes, float64: rows sum to 1, columns to about n / K.

    distances: [..., n, K]; every leading index is a problem of its own.

    Distances are centered and scaled to [-1, 1] by the problem's largest and smallest, d' = (d - mid) / half-range;
    Q = exp(-d' / epsilon), whose rows are scaled to sum 1 and columns to sum n / K in turn, rows last (Sinkhorn and
    Knopp; the form that LC-Rec and GenSAR use). The smaller epsilon, the harder the assignment.

    Raises:
        ConfigError: epsilon is below 0.003, where float64 cannot hold the weights.
    """
    if epsilon < SMALLEST_EPSILON:
        raise ConfigError(f"sinkhorn: epsilon {epsilon} is below {SMALLEST_EPSILON}; weights would overflow")
    distances = distances.double()
    low, high = distances.amin((-2, -1), keepdim=True), distances.amax((-2, -1), keepdim=True)
    # Where all distances are equal, any positive range leaves them so.
    half = ((high - low) / 2).clamp(min=torch.finfo(torch.float64).tiny)
    q = ((low + high) / 2 - distances).div_(half * epsilon).exp_()
    q /= q.sum(-1, keepdim=True)
    for _ in range(iterations):
        # The factor n / K, alike for all columns, goes out with the rows' scale.
        q /= q.sum(-2, keepdim=True)
        q /= q.sum(-1, keepdim=True)
    return q
