"""Learning rates as a function of the optimiser step, and the watch for the best epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from unisr.config import TrainConfig

PLATEAU_EPOCHS = 3
PLATEAU_FACTOR = 0.1


def learning_rate(config: TrainConfig, step: int, *, steps: int, cuts: int = 0) -> float:
    """Rate of optimiser step `step` (0-based) in a training of `steps` steps.

    A linear warm-up reaches the full rate at step `config.warmup_steps - 1`. After it, with `p` in [0, 1] the
    share done of the steps that follow the warm-up: linear `1 - p`; cosine `(1 + cos(pi p)) / 2`; plateau
    `0.1 ** cuts`; constant 1.
    """
    warmup = config.warmup_steps
    done = min(1.0, max(0.0, (step - warmup) / max(1, steps - warmup)))
    factor = {
        "constant": 1.0,
        "linear": 1 - done,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "plateau": PLATEAU_FACTOR**cuts,
    }[config.schedule]
    return config.learning_rate * factor * min(1.0, (step + 1) / max(1, warmup))


@dataclass
class Watch:
    """The best epoch so far by mean validation NDCG@5 of the trained tasks (higher is better).

    `stale` counts epochs since the best one; `flat` too, but starts again after each cut of the plateau schedule.
    """

    best: float = -math.inf
    best_epoch: int = 0
    stale: int = 0
    flat: int = 0
    cuts: int = 0

    def see(self, epoch: int, value: float) -> bool:
        """Take in the value of an epoch (from 1); true where it is the best so far."""
        if value > self.best:
            self.best, self.best_epoch, self.stale, self.flat = value, epoch, 0, 0
            return True
        self.stale, self.flat = self.stale + 1, self.flat + 1
        if self.flat == PLATEAU_EPOCHS:
            self.cuts, self.flat = self.cuts + 1, 0
        return False
