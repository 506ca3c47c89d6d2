"""Random generators keyed by a root seed and names, so that no global seed exists.

Two streams with different keys are independent, and adding a stream never shifts another.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def seed_from(root: int, *keys: str | int) -> int:
    """A 63-bit seed from a root seed and any number of names."""
    text = "\x1f".join([str(root), *map(str, keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(root: int, *keys: str | int) -> np.random.Generator:
    """A numpy generator for the stream `(root, *keys)`."""
    return np.random.default_rng(seed_from(root, *keys))


def torch_generator(root: int, *keys: str | int) -> torch.Generator:
    """A CPU torch generator for the stream `(root, *keys)`."""
    return torch.Generator().manual_seed(seed_from(root, *keys))
