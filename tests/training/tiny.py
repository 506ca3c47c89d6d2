"""A tiny scorer and a keyed loader: all that the loop asks of a method.

As a script (`python -m tests.training.tiny FOLDER`) it trains with checkpoints in FOLDER/checkpoints and writes
FOLDER/weights.safetensors and FOLDER/log.json: the process that the resume test kills. It prints the number of each
epoch when its checkpoint is there.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from unisr.config import ModelConfig, TrainConfig
from unisr.data.batches import Batch
from unisr.data.corpus import Corpus
from unisr.models.base import Scorer, build
from unisr.random import generator
from unisr.registry import Card
from unisr.training import TrainLog, train

ITEMS, CANDIDATES = 40, 5


class TinyScorer(Scorer):
    """Dot product of mean history and candidate, with dropout, a norm's buffers and a frozen table."""

    card = Card(name="Tiny", family="joint", tasks=("rec", "src"), paper="none", signals=(), loss="cross-entropy")
    presets = {"quick": (TrainConfig(epochs=2), ModelConfig())}

    def __init__(self, config: ModelConfig, corpus: Corpus | None = None, *, tables: None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        self.items = nn.Embedding(ITEMS + 1, 8)
        self.norm = nn.BatchNorm1d(8)
        self.frozen = nn.Parameter(torch.randn(ITEMS + 1), requires_grad=False)
        self.unused_task = nn.Parameter(torch.zeros(8))

    @property
    def history_length(self) -> tuple[int, int]:
        return (3, 3)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        per_row = F.cross_entropy(self.score(batch), batch.labels.argmax(1), reduction="none")
        masks = {"rec": batch.task == 1, "src": batch.task == 2}
        return {name: per_row[mask].mean() for name, mask in masks.items() if mask.any()}

    def score(self, batch: Batch) -> Tensor:
        state = F.dropout(self.norm(self.items(batch.items).mean(1)), 0.2, self.training) + self.unused_task
        scores = (self.items(batch.candidates) * state.unsqueeze(1)).sum(-1)
        return (scores + self.frozen[batch.candidates]).float()


class TinyLoader:
    """`steps` batches of 16 rows, a pure function of the epoch; the positive's id follows the history's last item."""

    def __init__(self, *, steps: int = 6, pause: float = 0.0) -> None:
        self.steps, self.pause = steps, pause

    def epoch(self, epoch: int) -> Iterator[Batch]:
        rng = generator(0, "tiny", epoch)
        for _ in range(self.steps):
            time.sleep(self.pause)
            yield tiny_batch(rng)


def tiny_batch(rng: np.random.Generator, *, rows: int = 16) -> Batch:
    items = torch.from_numpy(rng.integers(1, ITEMS + 1, (rows, 6)))
    candidates = torch.from_numpy(rng.integers(1, ITEMS + 1, (rows, CANDIDATES)))
    candidates[:, 0] = items[:, -1] % ITEMS + 1
    task = torch.from_numpy(rng.integers(1, 3, rows))
    labels = torch.zeros(rows, CANDIDATES)
    labels[:, 0] = 1
    return Batch(
        user=torch.ones(rows, dtype=torch.long), items=items, tasks=torch.ones_like(items),
        queries=torch.zeros_like(items), candidates=candidates, query=task - 1, task=task, labels=labels,
    )  # fmt: skip


def tiny_scorer(seed: int = 0) -> TinyScorer:
    return build(TinyScorer, ModelConfig(), None, seed=seed)


def tiny_validation(scorer: TinyScorer) -> dict[str, float]:
    """Two numbers that depend on the weights and fluctuate, named as the loop wants them."""
    with torch.no_grad():
        batch = tiny_batch(generator(0, "validation"), rows=64)
        hits = (scorer.score(batch).argmax(1) == 0).float()
    return {f"{name}_NDCG@5": hits[batch.task == task].mean().item() for name, task in (("rec", 1), ("src", 2))}


def train_with_checkpoints(
    folder: Path, *, pause: float, on_epoch: Callable[[dict[str, float]], None] | None = None
) -> tuple[TinyScorer, TrainLog]:
    """Twelve epochs with every part that has a state: dropout, accumulation, plateau schedule, early stopping."""
    scorer = tiny_scorer()
    config = TrainConfig(
        epochs=12, patience=11, learning_rate=0.05, schedule="plateau", warmup_steps=3, accumulation=4, weight_decay=0.1
    )
    threads = torch.get_num_threads()
    # Two, so that the test also sees sums whose order the threads decide; their number itself changes rounding.
    torch.set_num_threads(2)
    try:
        log = train(
            scorer, TinyLoader(pause=pause), config, seed=3, validate=lambda: tiny_validation(scorer),
            checkpoints=folder / "checkpoints", owner="tiny", on_epoch=on_epoch,
        )  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    return scorer, log


def main(folder: Path) -> None:
    scorer, log = train_with_checkpoints(folder, pause=0.02, on_epoch=lambda row: print(row["epoch"], flush=True))
    save_file(scorer.state_dict(), folder / "weights.safetensors")
    (folder / "log.json").write_text(json.dumps(log.rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
