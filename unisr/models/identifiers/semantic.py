"""The semantic ids of a catalog, as a method's config asks for them."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import numpy as np
from torch import Tensor

from unisr.data.corpus import Corpus
from unisr.errors import ConfigError
from unisr.models.identifiers.item_ids import ItemIds, atomic
from unisr.models.identifiers.residual_kmeans import residual_kmeans
from unisr.models.identifiers.rqvae import RQVAEConfig, fit_rqvae

SEED = 0
"""Of the ids: they are part of the method, the same for all seeds of a run."""


class IdSettings(Protocol):
    ids: str
    levels: int
    codes: int
    text_encoder: str


def semantic_ids(settings: IdSettings, corpus: Corpus, tables: dict[str, dict[str, Tensor]]) -> ItemIds:
    """Ids of `settings.levels` codes made from the items' text vectors, or atomic ones.

    Raises:
        ConfigError: the text vectors are not among the tables, or an unknown kind.
    """
    if settings.ids == "atomic":
        return atomic(corpus.n_items)
    vectors = text_table(corpus, tables).numpy()
    return _made(settings.ids, vectors.tobytes(), vectors.shape, (settings.codes,) * settings.levels)


def text_table(corpus: Corpus, tables: dict[str, dict[str, Tensor]]) -> Tensor:
    """Text vectors of the items, [V + 1, d].

    Raises:
        ConfigError: they are missing or of another catalog.
    """
    try:
        vectors = tables["texts"]["items"]
    except KeyError:
        raise ConfigError("no text vectors of the items; run the method through unisr.run") from None
    if len(vectors) != corpus.n_items + 1:
        raise ConfigError(f"text vectors of {len(vectors) - 1} items, corpus {corpus.n_items}: not the same dataset")
    return vectors


@lru_cache(maxsize=8)
def _made(kind: str, content: bytes, shape: tuple[int, int], sizes: tuple[int, ...]) -> ItemIds:
    """The same vectors are asked for by training, validation, loading: fitted once per process."""
    vectors = np.frombuffer(content, dtype=np.float32).reshape(shape).copy()
    if kind == "kmeans":
        return residual_kmeans(vectors, sizes=sizes, seed=SEED)[0]
    if kind == "rqvae":
        return fit_rqvae(vectors, RQVAEConfig(sizes=sizes), seed=SEED).ids
    raise ConfigError(f"ids {kind!r} are unknown; allowed: kmeans, rqvae, atomic")
