"""CoPPS: TEM with contrastive losses between views of search histories."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from unisr.config import TrainConfig
from unisr.data.batches import Batch
from unisr.data.corpus import Corpus
from unisr.models.base import Tables
from unisr.models.losses import info_nce
from unisr.models.search.product import PAPER
from unisr.models.search.tem import TEM, TEMConfig
from unisr.models.search.views import altered, neighbors, replaced
from unisr.registry import Card, register


class CoPPSConfig(TEMConfig):
    alpha: float = Field(0.1, ge=0)
    """Weight of each of the three contrastive terms; 0 is TEM."""
    temperature: float = Field(0.1, gt=0)
    crop: float = Field(0.6, gt=0, le=1)
    """Share of the events that a cropped view keeps."""
    mask: float = Field(0.3, ge=0, le=1)
    """Share of the events that a masked view hides."""
    reorder: float = Field(0.6, gt=0, le=1)
    """Share of the events that a reordered view puts in another order."""
    replace: float = Field(0.3, ge=0, le=1)
    """Share of the events that the catalog's view replaces by a neighbor."""
    neighbors: int = Field(10, ge=1)
    """Items most alike an item by text, from which its replacement is drawn."""
    altered_rows: int = Field(128, ge=1)
    """Rows of a batch whose altered histories are encoded and contrasted with each other; `users` takes all rows."""


@register
class CoPPS(TEM):
    """TEM's score; its loss and alpha (L_within + L_catalog + L_users), each an InfoNCE between query slots h.

    -log exp(cos(a_i, b_p) / t) / (exp(cos(a_i, b_p) / t) + sum_j exp(cos(a_i, b_j) / t)), the mean over rows i with
    history. Negatives j are the batch's other rows, those of the same user or the same target item left out.
    `within`: a, b two altered histories of the row, p = i. `catalog`: a the history as it is, b with items replaced by
    neighbors in the catalog, p = i. `users`: a and b the histories as they are, p another user's row with the same
    target item; rows without one are left out. All are encoded with the row's query. The first two are taken over the
    first `altered_rows` rows of a batch.
    """

    card = Card(
        name="CoPPS",
        family="search",
        tasks=("src",),
        paper="Dai, Liu, Dou, Wang, Liu, Long and Wen, Contrastive Learning for User Sequence Representation in "
        "Personalized Product Search, KDD 2023",
        signals=("search history", "current query", "item text"),
        loss="BCE over 1 + 5 uniform negatives; words of the positive item against 5 sampled words each; "
        "three InfoNCE terms against the other rows of the batch",
        departures=(
            "only the abstract was at hand and no code is public: the backbone, the form of the three contrasts, their "
            "weights and rates are this suite's; the abstract says that they come from correlations within a sequence, "
            "from a knowledge graph and from correlations between users",
            "the backbone is TEM as it stands here, with its departures; alpha = 0 is TEM",
            "the history is the items clicked in searches, without their queries; `history` = merged adds the items of "
            "recommendation events",
            "within a sequence: two views, each cropped to .6, masked at .3 or reordered over .6 of its events",
            "the catalog stands for the knowledge graph: .3 of the items are replaced by one of the 10 items whose "
            "texts share most words, rare words counting more",
            "between users: the positive is another user's row of the batch with the same target item, drawn at random",
            "the first two are taken over 128 rows of a batch, to spare time",
            "cosine similarity, temperature .1, weight .1 each; other rows of the same user or target are no negatives",
            "contrasted are the states that rank, so the current query is in every view",
        ),
    )
    Config = CoPPSConfig
    presets = {
        "quick": (TrainConfig(epochs=5, batch_size=128, negatives=5, learning_rate=1e-2, epoch_examples=5000),
                  CoPPSConfig(length=10, altered_rows=32)),
        "small": (TrainConfig(epochs=12, batch_size=512, negatives=5, learning_rate=3e-3, schedule="cosine"),
                  CoPPSConfig()),
        "full": (TrainConfig(epochs=20, batch_size=512, negatives=5, learning_rate=3e-3, schedule="cosine",
                             patience=10), CoPPSConfig()),
        # Nothing is published: TEM's settings, and this suite's for the contrasts.
        "paper": (PAPER, CoPPSConfig(width=128, heads=8, inner=512)),
    }

    def __init__(self, config: CoPPSConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        self.hidden = nn.Parameter(torch.randn(config.width) * 0.02)
        """What stands for a masked item."""
        near = torch.from_numpy(neighbors(corpus.item_words, config.neighbors))
        self.register_buffer("near", near, persistent=False)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """TEM's terms and `within`, `catalog` and `users`, with their weight; without weight, TEM's alone."""
        scores, state = self.ranked(batch)
        terms = self.terms(batch, scores)
        if self.config.alpha:
            terms |= {name: self.config.alpha * term for name, term in self._contrasts(batch, state).items()}
        return terms

    def _contrasts(self, batch: Batch, state: Tensor) -> dict[str, Tensor]:
        """The three terms of rows with query slots `state` [B, d], each the mean over the rows that have it."""
        target, seen = batch.candidates[batch.labels > 0], self.seen(batch)
        some = seen.any(1)
        own = (batch.user.unsqueeze(1) == batch.user) & (batch.user > 0)
        alike = target.unsqueeze(1) == target
        itself = torch.arange(len(batch), device=target.device)
        partners = alike & ~own & some & (itself.unsqueeze(1) != itself)
        chance = torch.rand(partners.shape, device=target.device).masked_fill(~partners, -1.0)
        left_out, n = own | alike, min(len(batch), self.config.altered_rows)
        swapped, first, second = self._views(batch.select(itself[:n]), seen[:n])
        few = (itself[:n], left_out[:n, :n], some[:n])
        return {
            "within": self._contrast(first, second, *few),
            "catalog": self._contrast(state[:n], swapped, *few),
            "users": self._contrast(state, state, chance.argmax(1), left_out, some & partners.any(1)),
        }

    def _views(self, batch: Batch, seen: Tensor) -> tuple[Tensor, ...]:
        """Query slots [B, d] of the history with neighbors in it, and of two altered ones."""
        events = [self.items(replaced(batch.items, self.near, self.config.replace))]
        valid = [seen]
        for _ in range(2):
            columns, kept, hidden = altered(
                seen, crop=self.config.crop, mask=self.config.mask, reorder=self.config.reorder
            )
            moved = self.items(batch.items.gather(1, columns))
            events.append(torch.where(hidden.unsqueeze(-1), self.hidden, moved))
            valid.append(kept)
        query = self.queries(batch.query).repeat(3, 1)
        return self.encode(torch.cat(events), torch.cat(valid), query).chunk(3)

    def _contrast(self, a: Tensor, b: Tensor, partner: Tensor, left_out: Tensor, rows: Tensor) -> Tensor:
        """InfoNCE of row i of a with row partner[i] of b [B, d], the mean over `rows` [B]; 0 where there are none."""
        logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / self.config.temperature
        positive = logits.gather(1, partner.unsqueeze(1)).squeeze(1)
        weights = rows / rows.sum().clamp(min=1)
        return info_nce(positive, logits, hits=left_out, weights=weights)
