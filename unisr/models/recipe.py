"""The training of the preset `paper` where neither a method's paper nor its released code prints one that AdamW can
follow."""

from __future__ import annotations

from unisr.config import TrainConfig

LARGE_TABLE = 100_000
"""Rows from which on a table is updated in the rows that a step reads alone: KuaiSAR's 673,415 items, not Kindle's."""


def shared_recipe(**changes: object) -> TrainConfig:
    """Batches of 1,024 positives with 4 negatives each, at most 100 epochs, an early stop after 5 without gain.

    These are of UniSAR's comparison, from which GenSR's has most baselines; learning rate and clipping are this
    suite's choice. UniSAR's L2 term of 1e-5 is decoupled decay here. `changes` are what is printed after all.
    """
    settings = dict(epochs=100, batch_size=1024, negatives=4, learning_rate=1e-3, weight_decay=1e-5, patience=5,
                    sparse_rows=LARGE_TABLE)  # fmt: skip
    return TrainConfig.model_validate({**settings, **changes})
