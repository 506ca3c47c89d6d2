"""Item ids as codes, one per level: checked, counted, turned into tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from unisr.errors import ConfigError, DataError
from unisr.models.textual_ids import id_tokens, textual_ids


class LevelUsage(NamedTuple):
    """How the items of a catalog spread over the codes of one level."""

    used: int
    """Codes that some item has."""
    share: float
    """used / size"""
    perplexity: float
    """exp(H), H = -sum_k p_k log p_k in nats: the number of codes, were they all equally common."""


@dataclass(frozen=True, eq=False)
class ItemIds:
    """The id of each of V items: a code per level.

    Raises:
        DataError: a code is out of its level's range, an item has no code or a gap, or padding has one.
        ConfigError: `sizes` does not fit the number of levels.
    """

    codes: Tensor
    """[V + 1, T] int64; row 0 is padding, all -1; -1 follows the end of an id shorter than T."""
    sizes: tuple[int, ...]
    """[T] codes a level has."""

    def __post_init__(self) -> None:
        codes, sizes = self.codes, self.sizes
        if codes.dtype != torch.long or codes.dim() != 2 or len(codes) < 2:
            raise DataError(f"item ids: codes are {codes.dtype} {tuple(codes.shape)}; give int64 [V + 1, T], V >= 1")
        if len(sizes) != codes.shape[1] or min(sizes, default=0) < 1:
            raise ConfigError(f"item ids: sizes {sizes} for {codes.shape[1]} levels; give a positive size per level")
        if (codes[0] != -1).any():
            raise DataError(f"item ids: row 0 is {codes[0].tolist()}; it is padding and must be -1")
        wrong = {
            "is out of range": ((codes < -1) | (codes >= torch.tensor(sizes))).any(1),
            "is empty": codes[:, 0] == -1,
            "goes on after its end": ((codes[:, :-1] == -1) & (codes[:, 1:] != -1)).any(1),
        }
        for what, rows in wrong.items():
            if rows[1:].any():
                item = int(rows[1:].long().argmax()) + 1
                raise DataError(f"item ids: the id of item {item}, {codes[item].tolist()}, {what} (sizes {sizes})")

    @property
    def n_items(self) -> int:
        return len(self.codes) - 1

    @property
    def levels(self) -> int:
        return len(self.sizes)

    def tokens(self, first: int = 1) -> Tensor:
        """Tokens `[V + 1, T]`: level l's code k is first + sum(sizes[:l]) + k; 0 where there is no code."""
        if first < 1:
            raise ConfigError(f"item ids: first token {first}; give at least 1, as 0 is padding")
        offsets = first + torch.tensor((0, *self.sizes[:-1])).cumsum(0)
        return torch.where(self.codes < 0, 0, self.codes + offsets)

    def usage(self) -> tuple[LevelUsage, ...]:
        """Use of the codes, one entry per level."""
        counts = [torch.bincount(c[c >= 0], minlength=k) for c, k in zip(self.codes.T, self.sizes, strict=True)]
        return tuple(
            LevelUsage(int((n > 0).sum()), float((n > 0).double().mean()), float(_entropy(n).exp())) for n in counts
        )

    def collision_rate(self, levels: int | None = None) -> float:
        """1 - different ids / V, of the ids' first `levels` codes (None: all of them)."""
        return 1.0 - len(self.codes[1:, :levels].unique(dim=0)) / self.n_items

    def shared(self) -> int:
        """Items whose id another item has too."""
        _, counts = self.codes[1:].unique(dim=0, return_counts=True)
        return int(counts[counts > 1].sum())

    def with_counter(self) -> ItemIds:
        """TIGER's last level, which counts the items of one id from 0 in the order of their numbers.

        Its size is the largest such count. Ids that are unique stay as they are.

        Raises:
            ConfigError: ids are shared and differ in length, so that a last level has no one place.
        """
        if not self.shared():
            return self
        if (self.codes[1:] < 0).any():
            raise ConfigError("item ids: a counter needs ids of one length; lengthen the shorter ones")
        _, group, counts = self.codes[1:].unique(dim=0, return_inverse=True, return_counts=True)
        order = group.argsort(stable=True)
        starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
        number = torch.full((len(self.codes), 1), -1)
        number[order + 1, 0] = torch.arange(self.n_items) - starts
        return ItemIds(torch.cat([self.codes, number], dim=1), (*self.sizes, int(counts.max())))

    def report(self, errors: Sequence[float] | None = None, **labels: str) -> pd.DataFrame:
        """One row per level (from 1): size, used, share, perplexity, collision_rate of the codes so far.

        errors: relative reconstruction error after each level, as `error`; NaN where there are none.
        labels: columns of one value, put first.
        """
        frame = pd.DataFrame(self.usage())
        frame.insert(0, "level", range(1, self.levels + 1))
        frame.insert(1, "size", self.sizes)
        frame["collision_rate"] = [self.collision_rate(level) for level in frame["level"]]
        frame["error"] = float("nan") if errors is None else list(errors)
        for place, (name, value) in enumerate(labels.items()):
            frame.insert(place, name, value)
        return frame


def atomic(n_items: int) -> ItemIds:
    """Ids of one level: item i has code i - 1 of V."""
    return ItemIds(torch.arange(-1, n_items)[:, None], (n_items,))


def textual(texts: Sequence[str], *, least: int = 3, most: int = 5) -> ItemIds:
    """Telling words of each item's text (see `textual_ids`), then the end, code 0, which every id closes with.

    The W words of all ids are codes 1 … W, the same at every level, so that every level has W + 1 codes.
    """
    vocabulary = {"<pad>": 0, "</s>": 1}
    codes = id_tokens(textual_ids(texts, least=least, most=most), vocabulary, end=1) - 1
    return ItemIds(codes, (len(vocabulary) - 1,) * codes.shape[1])


def _entropy(counts: Tensor) -> Tensor:
    """Entropy in nats of counts `[K]`."""
    share = counts.double() / counts.sum()
    return -torch.special.xlogy(share, share).sum()
