"""Altered copies of histories for contrastive methods."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

_ROWS = 256
"""Items compared with the whole catalog at once."""


def altered(seen: Tensor, *, crop: float, mask: float, reorder: float) -> tuple[Tensor, Tensor, Tensor]:
    """One random change per row of histories whose seen [B, L] cells hold events.

    Each row is, with equal chance, cropped to a stretch of the share `crop` of its events, has each event hidden with
    chance `mask`, or has a stretch of the share `reorder` put in random order (CL4SRec's three). Returns
    columns [B, L], valid [B, L] and hidden [B, L]: cell j of the new history is column columns[:, j] of the old one, if
    valid, behind a mask token if hidden. Valid cells stand at the end.
    """
    size = seen.sum(1, keepdim=True)
    place = seen.cumsum(1) - 1
    kind = torch.randint(0, 3, size.shape, device=seen.device)
    # At least one event, so that no view of a history is empty.
    stretch = (torch.where(kind == 0, crop, reorder) * size).ceil()
    start = (torch.rand(size.shape, device=seen.device) * (size - stretch + 1)).floor()
    inside = (place >= start) & (place < start + stretch)
    valid = seen & (inside | (kind != 0))
    hidden = valid & (kind == 1) & (torch.rand(seen.shape, device=seen.device) < mask)
    shuffled = start + stretch * torch.rand(seen.shape, device=seen.device)
    order = torch.where(inside & (kind == 2), shuffled, place.to(shuffled.dtype)).masked_fill(~valid, -1.0)
    columns = order.argsort(dim=1, stable=True)
    return columns, valid.gather(1, columns), hidden.gather(1, columns)


def replaced(items: Tensor, near: Tensor, share: float) -> Tensor:
    """Items [B, L], each with chance `share` replaced by a random one of its neighbors near [V + 1, k] (0 is none)."""
    drawn = near[items, torch.randint(0, near.shape[1], items.shape, device=items.device)]
    chosen = torch.rand(items.shape, device=items.device) < share
    return torch.where(chosen & (drawn > 0), drawn, items)


def neighbors(words: np.ndarray, count: int) -> np.ndarray:
    """The `count` items most alike each item by text, `[V + 1, count]` int64; 0 where fewer share a word.

    Alike is the cosine of the sets of words [V + 1, T] (0 = none), each word weighted by log(V / items with it); of
    equals the lower id comes first.
    """
    item, column = words.nonzero()
    shape = (len(words), int(words.max()) + 1)
    has = sparse.coo_array((np.ones(len(item)), (item, words[item, column])), shape=shape).tocsr()
    has.data[:] = 1.0
    rarity = np.log((len(words) - 1) / np.maximum(has.sum(0), 1))
    vectors = has.multiply(rarity[None, :]).tocsr()
    length = np.sqrt(vectors.multiply(vectors).sum(1))
    vectors = vectors.multiply(1 / np.where(length > 0, length, 1.0)[:, None]).tocsr()
    found = np.zeros((len(words), count), dtype=np.int64)
    for first in range(0, len(words), _ROWS):
        alike = (vectors[first : first + _ROWS] @ vectors.T).toarray()
        alike[np.arange(len(alike)), np.arange(first, first + len(alike))] = 0.0
        # Rounded, so that equals are equal whatever the order of the sum.
        best = np.argsort(-alike.round(9), axis=1, kind="stable")[:, :count]
        kept = np.take_along_axis(alike, best, axis=1) > 0
        found[first : first + len(alike), : best.shape[1]] = np.where(kept, best, 0)
    return found
