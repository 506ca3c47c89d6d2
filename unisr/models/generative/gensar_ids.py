"""GenSAR's ids: fitted from two tables of vectors, and laid out as tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from unisr.data.corpus import Corpus
from unisr.models.base import Tables, required_table
from unisr.models.id_writer import Levels
from unisr.models.identifiers import DualConfig, DualIds, fit_dual, fitted_once, text_table


def fitted_ids(settings: DualConfig, corpus: Corpus, tables: Tables) -> DualIds:
    """Ids made of the text vectors and of LightGCN's vectors of the items.

    Raises:
        ConfigError: either table is missing or of another catalog.
    """
    collaborative = required_table(tables, "LightGCN", "item_propagated", rows=corpus.n_items)
    vectors = (x.detach().float().contiguous().numpy() for x in (text_table(corpus, tables), collaborative))
    return fitted_once(fit_dual, *vectors, config=settings)


def id_levels(ids: DualIds, first: int, shared: int) -> tuple[dict[str, Levels], int]:
    """Levels of either id from token `first` on, and the number of tokens in all; shared levels are the same tokens."""
    alike = ids.rec.levels if torch.equal(ids.rec.codes, ids.src.codes) else shared
    levels: dict[str, Levels] = {}
    for kind in ("rec", "src"):
        levels[kind] = list(levels["rec"][:alike]) if kind == "src" else []
        for size in getattr(ids, kind).sizes[len(levels[kind]) :]:
            levels[kind].append((first, size))
            first += size
    return levels, first


def id_tokens(codes: Tensor, levels: Levels) -> Tensor:
    """Tokens [V + 1, T] of codes [V + 1, T], row 0 all 0."""
    return torch.where(codes < 0, 0, codes + torch.tensor([first for first, _ in levels]))
