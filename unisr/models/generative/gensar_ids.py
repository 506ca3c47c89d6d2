"""GenSAR's ids: fitted from two tables of vectors, laid out as tokens, and the T5 that writes them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from transformers import T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Stack

from unisr.data.corpus import Corpus
from unisr.errors import ConfigError
from unisr.models.base import Tables
from unisr.models.identifiers import DualConfig, DualIds, fit_dual, text_table

SEED = 0
"""Of the ids: they are part of the method, the same for all seeds of a run with equal vectors."""
Levels = list[tuple[int, int]]
"""First token and number of tokens of each level of an id, [T]."""


class IdWriter:
    """A T5 that writes ids of given levels after a start token, as the trie decoder asks for it."""

    def __init__(self, model: T5ForConditionalGeneration, levels: Levels, start: int) -> None:
        self.model, self.levels, self.first = model, levels, start

    @property
    def decoder(self) -> T5Stack:
        return self.model.get_decoder()

    @property
    def start(self) -> Tensor:
        return self.model.get_input_embeddings().weight[self.first]

    def embed(self, level: int, codes: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(codes + self.levels[level][0])

    def level_logits(self, level: int, hidden: Tensor) -> Tensor:
        first, size = self.levels[level]
        return head_logits(self.model, hidden, slice(first, first + size))


def head_logits(model: T5ForConditionalGeneration, hidden: Tensor, tokens: slice) -> Tensor:
    """fp32 logits of a stretch of the vocabulary after decoder states [..., d]."""
    if model.config.scale_decoder_outputs:
        hidden = hidden * model.config.d_model**-0.5
    return hidden.float() @ model.get_output_embeddings().weight[tokens].float().T


def fitted_ids(settings: DualConfig, corpus: Corpus, tables: Tables) -> DualIds:
    """Ids made of the text vectors and of LightGCN's vectors of the items.

    Raises:
        ConfigError: either table is missing or of another catalog.
    """
    try:
        collaborative = tables["LightGCN"]["item_propagated"]
    except KeyError:
        raise ConfigError("GenSAR needs LightGCN's table 'item_propagated'; run it through unisr.run") from None
    if len(collaborative) != corpus.n_items + 1:
        raise ConfigError(
            f"LightGCN's table has {len(collaborative) - 1} items, the corpus {corpus.n_items}: not the same dataset"
        )
    vectors = [x.detach().float().contiguous().numpy() for x in (text_table(corpus, tables), collaborative)]
    return _made(settings, *((x.tobytes(), x.shape) for x in vectors))


@lru_cache(maxsize=8)
def _made(settings: DualConfig, *vectors: tuple[bytes, tuple[int, int]]) -> DualIds:
    """Training, validation and loading ask for the same ids: fitted once per process."""
    semantic, collaborative = (np.frombuffer(x, dtype=np.float32).reshape(shape).copy() for x, shape in vectors)
    return fit_dual(semantic, collaborative, settings, seed=SEED)


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
