"""A method whose score of an item is the probability that a decoder writes the item's id."""

from __future__ import annotations

from torch import Tensor

from unisr.data.batches import Batch
from unisr.models.base import Scorer
from unisr.models.tree_decoder import CodeModel, beam_search, score_candidates, score_catalog
from unisr.models.trie import Trie


class TrieScorer(Scorer):
    """s_c = sum_t log p(z_t(c) | z_<t(c), x), nats, z(c) the id of c in `trie`, x what `read` makes of a row."""

    trie: Trie

    @property
    def writer(self) -> CodeModel:
        """The decoder of the ids."""
        raise NotImplementedError

    def read(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Encoder states [B, S, d] and which are valid, [B, S]."""
        raise NotImplementedError

    def score(self, batch: Batch) -> Tensor:
        """[B, C] log p of the candidates' ids, nats, each exact."""
        return score_candidates(self.writer, self.trie, *self.read(batch), batch.candidates)

    def score_catalog(self, batch: Batch) -> Tensor:
        return score_catalog(self.writer, self.trie, *self.read(batch))

    def generate(self, batch: Batch, k: int, *, width: int = 30) -> tuple[Tensor, Tensor]:
        """The k likeliest items that a beam finds in the catalog, [B, k], and log p of their ids, nats, [B, k]."""
        return beam_search(self.writer, self.trie, *self.read(batch), k=k, width=width)
