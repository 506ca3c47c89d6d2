"""One of two processes that train together: `torchrun … -m tests.training.pair FOLDER EPOCHS`."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import torch.distributed

from tests.training.tiny import TinyLoader, tiny_scorer, tiny_validation
from unisr.config import TrainConfig
from unisr.training import train


def main(folder: Path, epochs: int) -> None:
    scorer = tiny_scorer()
    config = TrainConfig(epochs=epochs, learning_rate=0.05, accumulation=2)
    log = train(
        scorer, TinyLoader(steps=7), config, seed=0, validate=lambda: tiny_validation(scorer), checkpoints=folder,
    )  # fmt: skip
    assert [row["examples"] for row in log.rows] == [6 * 16] * epochs, "of 7 batches each process takes 3"
    # One write, so that the lines of two processes do not mix.
    sys.stdout.write(f"weights {hashlib.sha256(scorer.items.weight.detach().numpy().tobytes()).hexdigest()}\n")
    sys.stdout.flush()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
