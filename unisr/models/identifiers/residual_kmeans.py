"""Residual k-means: codes of item vectors, level by level, without training a network."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from unisr.errors import ConfigError, DataError
from unisr.models.identifiers.item_ids import ItemIds
from unisr.models.identifiers.sinkhorn import sinkhorn
from unisr.random import seed_from

BALANCE_EPSILON, BALANCE_ROUNDS = 0.01, 10


def residual_kmeans(
    vectors: np.ndarray | Tensor, *, sizes: Sequence[int], seed: int, balance: bool = False
) -> tuple[ItemIds, list[Tensor]]:
    """Ids and codebooks `[K_l, d]` of item vectors [V + 1, d], row 0 of which is ignored.

    r_0 = x; c_l = argmin_k |r_l - e_lk|², e_l the k-means centers of r_l; r_(l+1) = r_l - e_(l, c_l) (GRID's recipe
    for TIGER's ids). With `balance`, items are spread evenly: rounds of Sinkhorn assignment and means of the items
    assigned follow the k-means of each level; codes then need not be the nearest.

    Raises:
        DataError: vectors are not finite [V + 1, d].
        ConfigError: a level has more codes than there are items.
    """
    residual, codes, codebooks = item_rows(vectors, sizes), [], []
    for level, size in enumerate(sizes):
        centers = kmeans_centers(residual, size, seed=seed_from(seed, "residual k-means", level), starts=3)
        if balance:
            code, centers = _balanced(residual, centers)
        else:
            code = torch.cdist(residual, centers).argmin(1)
        codes.append(code)
        codebooks.append(centers)
        residual = residual - centers[code]
    return item_ids(torch.stack(codes, dim=1), sizes), codebooks


def reconstruction_error(vectors: np.ndarray | Tensor, ids: ItemIds, codebooks: Sequence[Tensor]) -> list[float]:
    """Mean of |x - sum of the first l codes|² over mean of |x|², after each level l."""
    residual = item_rows(vectors, ())
    power, errors = residual.square().mean(), []
    for code, codebook in zip(ids.codes[1:].T, codebooks, strict=True):
        residual = residual - codebook[code]
        errors.append(float(residual.square().mean() / power))
    return errors


def kmeans_centers(samples: Tensor, size: int, *, seed: int, starts: int = 1) -> Tensor:
    """Centers `[size, d]` of samples [n, d] after at most 100 iterations, the best of `starts`.

    Raises:
        ConfigError: there are fewer samples than centers.
    """
    if len(samples) < size:
        raise ConfigError(f"k-means: {len(samples)} samples for {size} codes; use fewer codes or larger batches")
    kmeans = KMeans(size, n_init=starts, max_iter=100, random_state=seed % 2**32)
    with warnings.catch_warnings():
        # Fewer different samples than codes leave codes unused, which the report tells.
        warnings.simplefilter("ignore", ConvergenceWarning)
        kmeans.fit(samples.detach().numpy())
    return torch.from_numpy(kmeans.cluster_centers_).to(samples.dtype)


def item_rows(vectors: np.ndarray | Tensor, sizes: Sequence[int]) -> Tensor:
    """The rows `[V, d]` float32 of the items, with checks of the vectors and of the levels made of them."""
    rows = torch.as_tensor(vectors)
    if rows.dim() != 2 or len(rows) < 2 or not rows.is_floating_point() or not rows[1:].isfinite().all():
        raise DataError(f"item vectors: {rows.dtype} {tuple(rows.shape)}; give finite floats [V + 1, d], V >= 1")
    if max(sizes, default=0) >= len(rows) or min(sizes, default=1) < 1:
        raise ConfigError(f"item ids: levels of {tuple(sizes)} codes for {len(rows) - 1} items; use 1 to V codes")
    return rows[1:].float()


def item_ids(codes: Tensor, sizes: Sequence[int]) -> ItemIds:
    """Ids of codes [V, T], with a row of padding put first."""
    return ItemIds(torch.cat([codes.new_full((1, codes.shape[1]), -1), codes]), tuple(sizes))


def _balanced(samples: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [n] of about n / K samples each, and the means [K, d] of those."""
    for _ in range(BALANCE_ROUNDS):
        code = sinkhorn(torch.cdist(samples, centers).square(), epsilon=BALANCE_EPSILON).argmax(-1)
        count = torch.bincount(code, minlength=len(centers))[:, None]
        means = torch.zeros_like(centers).index_add_(0, code, samples) / count.clamp(min=1)
        centers = torch.where(count > 0, means, centers)
    return code, centers
