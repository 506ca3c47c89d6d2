"""Ids are fitted once per process: training, validation and loading ask for the same ones."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Content = tuple[bytes, tuple[int, ...]]
SEED = 0
"""Of the ids: they are part of the method, the same for all seeds of a run with equal vectors."""


def fitted_once(fit: Callable[..., T], *vectors: np.ndarray, **settings: Hashable) -> T:
    """fit(*vectors, seed=SEED, **settings), kept for equal float32 vectors and settings."""
    return _fitted(fit, tuple((x.tobytes(), x.shape) for x in vectors), tuple(sorted(settings.items())))


@lru_cache(maxsize=8)
def _fitted(fit: Callable[..., T], contents: tuple[Content, ...], settings: tuple[tuple[str, Hashable], ...]) -> T:
    vectors = (np.frombuffer(content, dtype=np.float32).reshape(shape).copy() for content, shape in contents)
    return fit(*vectors, seed=SEED, **dict(settings))
