"""Learning rates and the watch for the best epoch."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisr.config import TrainConfig
from unisr.training.schedules import Watch, learning_rate


def rates(steps: int, *, cuts: int = 0, **fields: object) -> list[float]:
    config = TrainConfig(learning_rate=2.0, **fields)
    return [learning_rate(config, step, steps=steps, cuts=cuts) for step in range(steps)]


def test_shapes() -> None:
    assert rates(4) == [2.0] * 4
    assert rates(4, schedule="linear") == pytest.approx([2.0, 1.5, 1.0, 0.5])
    assert rates(4, schedule="cosine")[2] == pytest.approx(1.0)
    assert rates(2, schedule="plateau", cuts=2) == pytest.approx([0.02, 0.02])
    assert rates(2, schedule="constant", cuts=2) == [2.0, 2.0]
    assert rates(6, schedule="linear", warmup_steps=2) == pytest.approx([1.0, 2.0, 2.0, 1.5, 1.0, 0.5])


@settings(max_examples=40, deadline=None)
@given(
    steps=st.integers(1, 60),
    warmup=st.integers(0, 80),
    schedule=st.sampled_from(["constant", "linear", "cosine", "plateau"]),
)
def test_rises_to_the_full_rate_then_never_rises(steps: int, warmup: int, schedule: str) -> None:
    found = rates(steps, schedule=schedule, warmup_steps=warmup)
    assert all(0 < r <= 2.0 for r in found)
    up, down = found[: min(warmup, steps)], found[warmup:]
    assert up == sorted(up) and down == sorted(down, reverse=True)


def test_watch_counts_epochs_without_gain_and_cuts_every_third() -> None:
    watch = Watch()
    gains = [watch.see(e, v) for e, v in enumerate([0.1, 0.2, 0.2, 0.1, 0.0, 0.1, 0.1, 0.1, 0.3], 1)]
    assert gains == [True, True, *[False] * 6, True]
    assert (watch.best, watch.best_epoch, watch.stale, watch.cuts) == (0.3, 9, 0, 2)
