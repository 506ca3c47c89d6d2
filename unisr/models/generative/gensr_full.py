"""GenSR-full: GenSR's full-ranking variant, which writes the item instead of judging a candidate."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from unisr.config import TrainConfig
from unisr.data.batches import Batch
from unisr.data.corpus import Corpus
from unisr.data.schema import TASKS
from unisr.models.backbone import BackboneConfig
from unisr.models.base import Tables
from unisr.models.item_tokens import ItemTokens
from unisr.models.joint.gensr import Encoded, GenSR, GenSRConfig, Part, join_parts
from unisr.models.prompts import Segments
from unisr.registry import Card, TaskName, register

WORDING: dict[TaskName, Segments] = {
    "rec": ("recommend . history by taste :", "by content :", "", "", "the next item :"),
    "src": ("is searched . history by taste :", "by content :", "", "", "the item :"),
}
"""GenSR's concise wording without the candidate."""


class GenSRFullConfig(GenSRConfig):
    """GenSR's settings; without a candidate there is nothing to filter by, so the sequences stand in the prompt."""

    filter: str = Field("none", pattern="^none$")
    slots: str = Field("sequence", pattern="^sequence$")
    noise: float = Field(0.1, gt=0)
    """Spread of the initial item vectors about the mean token vector, as a share of the spread of token vectors."""


@register
class GenSRFull(ItemTokens, GenSR):
    """log p(i | H_u, q): a softmax over one token per item after both views of the history and the query (section 6.3).

    The prompt is Eq. 9 without the candidate's two slots; the soft filter, which needs a candidate, is left out, the
    contrastive term (Eq. 10) stays.
    """

    card = Card(
        name="GenSR-full",
        family="generative",
        tasks=("rec", "src"),
        paper="Zhao et al., Unifying Search and Recommendation with Dual-View Representation Learning "
        "in a Generative Paradigm, 2025, section 6.3",
        signals=("rec history", "search history", "current query", "item text", "cf table"),
        loss="softmax cross-entropy over all items + beta x contrastive (Eq. 10); no sampled negatives",
        departures=(
            "no code is public: prompt, initialization and schedule are our choice",
            "backbone offline: a small T5 built from a config, trained from scratch, in place of flan-t5-base",
            "softmax over the items alone, one token each with a bias (the paper: ids of length 1 typically, beams "
            "constrained to items); every item is scored exactly, without beams",
            "C_u and S_u enter Eq. 10 as means over the history, C_u through the slot projection",
        ),
        requires=("LightGCN",),
    )
    Config = GenSRFullConfig

    def __init__(self, config: GenSRFullConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        self.add_item_tokens(noise=config.noise)

    def wording(self) -> dict[TaskName, Segments]:
        return WORDING

    def prompt_texts(self) -> list[str]:
        return [segment for segments in WORDING.values() for segment in segments]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`rec` + `src`: -log p of the positive over the catalog, averaged over the batch; beta x Eq. 10."""
        encoded = self._encoded(batch)
        positives = (batch.candidates * (batch.labels > 0)).amax(1)
        logits = self.catalog_logits(self.backbone.answers(*self._prompt(batch, encoded)))
        nll = F.cross_entropy(logits, positives - 1, reduction="none")
        terms = {name: (nll * (batch.task == int(task))).mean() for name, task in TASKS.items()}
        if self.aligned:
            terms["contrastive"] = self.config.beta * self._alignment(batch, encoded, {})
        return terms

    def score(self, batch: Batch) -> Tensor:
        return self.logits(self.states(batch), batch.candidates)

    def score_catalog(self, batch: Batch) -> Tensor:
        return self.catalog_logits(self.states(batch))

    def states(self, batch: Batch) -> Tensor:
        """Answer states `[B, d]`."""
        return self.backbone.answers(*self._prompt(batch, self._encoded(batch)))

    def _encoded(self, batch: Batch) -> Encoded:
        return self.views((batch.items * (batch.tasks > 0))[:, -self.config.history :])

    def _prompt(self, batch: Batch, encoded: Encoded) -> Part:
        sequences = self._sequences(encoded)
        text = [self._segment(k, batch.task) for k in (0, 1, 4)]
        return join_parts([self._query(batch), text[0], *sequences["cf"], text[1], *sequences["semantic"], text[2]])


def _training(epochs: int, examples: int, **changes: float) -> TrainConfig:
    settings = dict(epochs=epochs, epoch_examples=examples, batch_size=128, negatives=1, learning_rate=3e-3,
                    schedule="linear", warmup_steps=100, clip_norm=1.0, patience=epochs, validation_users=300,
                    evaluation_batch=64)  # fmt: skip
    return TrainConfig.model_validate({**settings, **changes})


GenSRFull.presets = {
    "quick": (_training(3, 3000, warmup_steps=10, validation_users=50), GenSRFullConfig(history=5)),
    "small": (_training(8, 15_000), GenSRFullConfig(history=10)),
    "full": (_training(20, 25_000, validation_users=400), GenSRFullConfig()),
    # Nothing is released of full ranking: GenSR's settings.
    "paper": (GenSR.presets["paper"][0].model_copy(update={"negatives": 1}),
              GenSRFullConfig(backbone=BackboneConfig(name="google/flan-t5-base"))),
}
