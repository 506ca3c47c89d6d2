"""The semantic ids of a catalog, as a method's config asks for them."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from unisr.data.corpus import Corpus
from unisr.errors import ConfigError
from unisr.models.base import Tables, required_table
from unisr.models.identifiers.item_ids import ItemIds, atomic
from unisr.models.identifiers.once import fitted_once
from unisr.models.identifiers.residual_kmeans import residual_kmeans
from unisr.models.identifiers.rqvae import RQVAEConfig, fit_rqvae


class IdSettings(Protocol):
    ids: str
    levels: int
    codes: int
    text_encoder: str


def semantic_ids(settings: IdSettings, corpus: Corpus, tables: Tables) -> ItemIds:
    """Ids of `settings.levels` codes made from the items' text vectors, or atomic ones.

    Raises:
        ConfigError: the text vectors are not among the tables, or an unknown kind.
    """
    if settings.ids == "atomic":
        return atomic(corpus.n_items)
    vectors = text_table(corpus, tables).numpy()
    sizes = (settings.codes,) * settings.levels
    if settings.ids == "kmeans":
        return fitted_once(residual_kmeans, vectors, sizes=sizes)[0]
    if settings.ids == "rqvae":
        return fitted_once(fit_rqvae, vectors, config=RQVAEConfig(sizes=sizes)).ids
    raise ConfigError(f"ids {settings.ids!r} are unknown; allowed: kmeans, rqvae, atomic")


def text_table(corpus: Corpus, tables: Tables) -> Tensor:
    """Text vectors of the items, [V + 1, d].

    Raises:
        ConfigError: they are missing or of another catalog.
    """
    return required_table(tables, "texts", "items", rows=corpus.n_items)
