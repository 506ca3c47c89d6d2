"""The interface every method implements."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from unisr.config import ModelConfig, TrainConfig
from unisr.data.batches import CATALOG_CHUNK, Batch, SequenceBatch
from unisr.data.corpus import Corpus
from unisr.data.schema import TASKS
from unisr.errors import ConfigError
from unisr.registry import Card

Tables = dict[str, dict[str, Tensor]]
"""Tables exported by the methods a card requires: {method: {name: tensor}}."""


class Scorer(nn.Module):
    """A method: built from its config and a corpus, trained on batches, asked for scores.

    Subclasses set `card`, `Config`, `presets` and register themselves:

        @register
        class Mine(Scorer):
            card = Card(name="Mine", family="joint", tasks=("rec", "src"), …)
            class Config(ModelConfig): width: int = 64
            presets = {"quick": (TrainConfig(epochs=2), Config()), …}

    A method without trainable parameters is complete when built and is never trained.
    """

    card: ClassVar[Card]
    Config: ClassVar[type[ModelConfig]] = ModelConfig
    presets: ClassVar[dict[str, tuple[TrainConfig, ModelConfig]]]
    feeds_on: ClassVar[Literal["examples", "sequences"]] = "examples"
    """Which batches `losses` takes: `Batch` rows with sampled negatives, or `SequenceBatch` windows."""

    def __init__(self, config: ModelConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__()
        self.config = config
        self.corpus = corpus
        self.tables = tables or {}

    @property
    def history_length(self) -> tuple[int, int]:
        """Latest recommendation and search events a batch must carry, merged by time: L = their sum."""
        raise NotImplementedError

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Called before epoch number `epoch` (from 0) of `epochs`; methods that learn in stages choose theirs here.

        Must be a pure function of its arguments, so that a resumed training goes on in the right stage. What a score
        depends on must stand in a persistent buffer, so that it is stored with the weights.
        """

    def losses(self, batch: Batch | SequenceBatch) -> dict[str, Tensor]:
        """Named scalar terms, weights applied; the loop minimises their sum.

        Terms of one task are named `rec` and `src`; others by what they are (`contrastive`, …).
        """
        raise NotImplementedError

    def score(self, batch: Batch) -> Tensor:
        """[B, C] fp32 logits, higher is better; each depends on its own candidate and row only."""
        raise NotImplementedError

    def score_catalog(self, batch: Batch) -> Tensor:
        """[B, V] scores of all items 1 … V as `score` gives them; `batch.candidates` are not read.

        Scored `CATALOG_CHUNK` at a time, so that memory does not grow with V beyond the result. Methods whose score is
        a dot product override this with one matrix product.
        """
        items = torch.arange(1, self.corpus.n_items + 1, device=batch.user.device)
        chunks = [part.expand(len(batch), -1) for part in items.split(CATALOG_CHUNK)]
        return torch.cat([self.score(replace(batch, candidates=chunk)) for chunk in chunks], dim=1)

    def covered(self) -> dict[str, nn.Linear]:
        """Linear layers by name whose weights `TrainConfig.subspace` trains in subspaces; none by default."""
        return {}

    def export(self) -> dict[str, Tensor]:
        """Tables other methods may read (see `Card.requires`); none by default."""
        return {}

    @property
    def trainable(self) -> bool:
        return any(p.requires_grad for p in self.parameters())

    @property
    def task_ids(self) -> list[int]:
        """`Task` values of the tasks this method is trained and evaluated on."""
        return [int(TASKS[t]) for t in self.card.tasks]


def required_table(tables: Tables, source: str, name: str, *, rows: int | None = None) -> Tensor:
    """Table `name` of `source`; with `rows` [rows + 1, …], row 0 padding.

    Raises:
        ConfigError: it is not among the tables, or of another dataset.
    """
    try:
        table = tables[source][name]
    except KeyError:
        raise ConfigError(f"table {name!r} of {source} is missing; run the method through unisr.run") from None
    if rows is not None and len(table) != rows + 1:
        raise ConfigError(
            f"table {name!r} of {source} has {len(table) - 1} rows, the corpus {rows}: not the same dataset"
        )
    return table


def build(
    method: type[Scorer], config: ModelConfig, corpus: Corpus, *, seed: int, tables: Tables | None = None
) -> Scorer:
    """A freshly initialised method; the same seed gives the same weights, whatever ran before."""
    from unisr.random import seed_from

    with torch.random.fork_rng():
        torch.manual_seed(seed_from(seed, "weights", method.card.name))
        return method(config, corpus, tables=tables)
