"""QEM: the query alone, the control without personalization."""

from __future__ import annotations

from torch import Tensor

from unisr.config import TrainConfig
from unisr.data.batches import Batch
from unisr.models.search.product import PAPER, ProductConfig, ProductSearch
from unisr.registry import Card, register


class QEMConfig(ProductConfig):
    pass


@register
class QEM(ProductSearch):
    """s_c = e_c · Q(q) + b_c, the query embedding model that Ai et al. compare ZAM with."""

    card = Card(
        name="QEM",
        family="search",
        tasks=("src",),
        paper="the non-personalized baseline of Ai, Hill, Vishwanathan and Croft, "
        "A Zero Attention Model for Personalized Product Search, CIKM 2019",
        signals=("current query", "item text"),
        loss="BCE over 1 + 5 uniform negatives; words of the positive item against 5 sampled words each",
        departures=(
            "no history and no user is read, as in the paper",
            "the form is the one of the authors' later code (kepingbi/ProdSearch); the paper's own code is not public",
            "initial tables N(0, .02) instead of N(0, 1); width 64 instead of 128",
            "losses are means over candidates and words (the code: sums)",
        ),
    )
    Config = QEMConfig
    presets = {
        "quick": (TrainConfig(epochs=5, batch_size=128, negatives=5, learning_rate=1e-2, epoch_examples=5000),
                  QEMConfig()),
        "small": (TrainConfig(epochs=12, batch_size=512, negatives=5, learning_rate=5e-3, weight_decay=0.01,
                              schedule="cosine"),
                  QEMConfig()),
        "full": (TrainConfig(epochs=20, batch_size=512, negatives=5, learning_rate=5e-3, weight_decay=0.01,
                             schedule="cosine",
                             patience=10), QEMConfig()),
        "paper": (PAPER, QEMConfig(width=128)),
    }

    def state(self, batch: Batch) -> Tensor:
        return self.queries(batch.query)
