"""A tiny scorer with weights that GEMS covers. As a script, one of two processes that train it together:
`torchrun … -m tests.training.covered FILE PASSES`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.training.tiny import ITEMS, TinyLoader, tiny_batch
from unisr.config import ModelConfig, TrainConfig
from unisr.data.batches import Batch
from unisr.models.base import Scorer, build
from unisr.random import generator, torch_generator
from unisr.registry import Card
from unisr.training import train


class CoveredScorer(Scorer):
    """An MLP between the last item and candidates; its three linear layers are square, tall and wide."""

    card = Card(name="Covered", family="joint", tasks=("rec", "src"), paper="none", signals=(), loss="cross-entropy")
    presets = {"quick": (TrainConfig(epochs=2), ModelConfig())}

    def __init__(self, config: ModelConfig, corpus: None = None, *, tables: None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        self.items = nn.Embedding(ITEMS + 1, 8)
        self.square, self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.lm, self.general = nn.Identity(), torch.zeros(4, 4, dtype=torch.long)
        self.dropout = 0.0

    @property
    def history_length(self) -> tuple[int, int]:
        return (3, 3)

    def covered(self) -> dict[str, nn.Linear]:
        return {"square": self.square, "up": self.up, "down": self.down}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        per_row = F.cross_entropy(self.score(batch), batch.labels.argmax(1), reduction="none")
        return {name: per_row[rows].mean() for name, rows in batch.by_task()}

    def score(self, batch: Batch) -> Tensor:
        state = self.items(batch.items[:, -1]) + 0.1 * (batch.query > 0).float().unsqueeze(1)
        hidden = F.dropout(F.silu(self.up(self.square(state))), self.dropout, self.training)
        return (self.items(batch.candidates) * self.down(hidden).unsqueeze(1)).sum(-1)


class Uneven(TinyLoader):
    """Batches of unlike counts; every third has no search row."""

    def epoch(self, epoch: int) -> Iterator[Batch]:
        rng = generator(0, "uneven", epoch)
        for place in range(self.steps):
            batch = tiny_batch(rng, rows=16)
            yield batch.select(batch.task == 1) if place % 3 == 0 else batch


def covered_scorer() -> CoveredScorer:
    return build(CoveredScorer, ModelConfig(), None, seed=0)


def random_projectors(lm: nn.Module, layers: dict[str, nn.Linear], blocks: Tensor, settings: object) -> dict:
    """In place of those of a language model: a null space of half the inputs (or outputs), by name."""
    found = {}
    for place, (name, layer) in enumerate(layers.items()):
        width = layer.in_features if settings.side == "input" else layer.out_features
        noise = torch.randn(width, width // 2, generator=torch_generator(0, "projector", place))
        basis = torch.linalg.qr(noise).Q
        found[name] = basis @ basis.T
    return found


def together(passes: str, **settings: object) -> TrainConfig:
    """The training that two processes share."""
    subspace = {"rank": 4, "gap": 2, "basis": "randomized", "task_weights": "shares", "passes": passes}
    return TrainConfig(epochs=2, learning_rate=0.02, weight_decay=0.1, clip_norm=0.5, subspace=subspace, **settings)


def main(file: Path, passes: str) -> None:
    scorer = covered_scorer()
    train(scorer, Uneven(steps=6), together(passes), seed=0)
    save_file(scorer.state_dict(), f"{file}.{torch.distributed.get_rank()}")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
