"""Estimators of mutual information: Gaussians of known information, loops, and scikit-learn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.feature_selection import mutual_info_classif, mutual_info_regression

from unisr.analysis import mutual_information as mi
from unisr.analysis.gaussians import gaussian_pairs, on_gaussians
from unisr.errors import UnisrError, UnknownNameError
from unisr.random import generator

FAST = mi.EstimatorSettings(steps=250, batch=128, width=32)
FEW = mi.EstimatorSettings(steps=20, batch=32, width=8, resamples=20)
TRUTHS = (0.0, 0.5, 1.0, 2.0)
TOLERANCE = {"MINE": (0.1, 0.25), "NWJ": (0.1, 0.25), "InfoNCE": (0.1, 0.1), "KSG": (0.06, 0.0)}
"""Nats: up to 1 nat, and more for every nat of the truth beyond."""


@pytest.fixture(scope="module")
def gaussians() -> pd.DataFrame:
    return on_gaussians(TRUTHS, n=2000, dims=2, settings=FAST).set_index(["estimator", "truth"])


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("name", mi.ESTIMATORS)
def test_gaussians_are_read_within_the_tolerance(gaussians: pd.DataFrame, name: str, truth: float) -> None:
    absolute, relative = TOLERANCE[name]
    row = gaussians.loc[name, truth]
    assert row["value"] == pytest.approx(truth, abs=absolute + relative * max(0.0, truth - 1))
    assert row["low"] <= row["value"] <= row["high"]


@pytest.mark.parametrize("truth", TRUTHS)
def test_mine_is_not_above_the_truth_by_more_than_its_interval(gaussians: pd.DataFrame, truth: float) -> None:
    assert gaussians.loc[("MINE", truth), "low"] <= truth


@pytest.mark.parametrize("name", mi.ESTIMATORS)
def test_independent_data_give_zero(name: str) -> None:
    x, y = gaussian_pairs(0, 800, 2, seed=1)
    found = mi.over_seeds(x, y, name, (0, 1), settings=FEW if name in mi.NEURAL else None)
    assert found.low <= 0.005 and found.high >= -0.005 and abs(found.value) < 0.05


def test_the_gaussian_pairs_have_the_information_they_are_asked_for() -> None:
    x, y = gaussian_pairs(1.3, 200_000, 3)
    rho = np.array([np.corrcoef(x[:, d], y[:, d])[0, 1] for d in range(3)])
    assert -0.5 * np.log(1 - rho**2).sum() == pytest.approx(1.3, abs=0.02)
    assert np.allclose(y.std(0), 1, atol=0.01)


# k nearest neighbors.


def test_neighbors_agree_with_scikit_learn() -> None:
    x, y = gaussian_pairs(0.7, 600, 1)
    found = mi.estimate(x, y, "KSG")
    assert found.value == pytest.approx(mutual_info_regression(x, y[:, 0], n_neighbors=3, random_state=0)[0], abs=1e-6)
    labels = (y[:, 0] > 0.3).astype(int) + (y[:, 0] > 1)
    found = mi.estimate(x, labels, "KSG")
    assert found.value == pytest.approx(mutual_info_classif(x, labels, n_neighbors=3, random_state=0)[0], abs=1e-6)


def test_the_order_of_pairs_does_not_matter_to_neighbors_nor_the_units_to_any() -> None:
    x, y = gaussian_pairs(1, 300, 2)
    order = generator(0, "order").permutation(300)
    assert mi.estimate(x[order], y[order], "KSG").value == pytest.approx(mi.estimate(x, y, "KSG").value, abs=1e-6)
    for name in mi.ESTIMATORS:
        moved = mi.estimate(x * [3, 0.01] + 5, -7 * y, name, settings=FEW)
        sign = mi.estimate(x, -y, name, settings=FEW)
        assert moved.value == pytest.approx(sign.value, abs=1e-4), name


def test_neighbors_take_one_pair_of_each_group() -> None:
    x, y = gaussian_pairs(0, 200, 2)
    twice = mi.estimate(np.tile(x, (2, 1)), np.tile(y, (2, 1)), "KSG", groups=np.tile(np.arange(200), 2))
    assert twice.n == 200 and twice.value == pytest.approx(mi.estimate(x, y, "KSG").value, abs=1e-6)


def test_a_constant_carries_no_information() -> None:
    x, _ = gaussian_pairs(0, 400, 2)
    for name in mi.ESTIMATORS:
        assert abs(mi.estimate(x, np.ones((400, 3)), name, settings=FEW).value) < 0.06


# Bounds.


def by_hand(name: str, f: np.ndarray, code: np.ndarray) -> float:
    """The bound by loops over the pairs as they stand."""
    n = len(f)
    joint = np.mean([f[i, i] for i in range(n)])
    mixed = [[np.exp(f[i, j]) for j in range(n) if code[j] != code[i]] for i in range(n)]
    if name == "InfoNCE":
        return float(np.mean([f[i, i] - np.log(np.mean([np.exp(f[i, i]), *mixed[i]])) for i in range(n)]))
    mean = np.mean([value for row in mixed for value in row])
    return float(joint - np.log(mean) if name == "MINE" else 1 + joint - mean)


@pytest.mark.parametrize("name", mi.NEURAL)
def test_weighted_bounds_are_those_of_repeated_pairs(name: str) -> None:
    rng = generator(0, "bounds")
    f, code = rng.normal(size=(9, 9)), np.array([0, 0, 1, 2, 2, 3, 4, 5, 6])
    weights = np.array([np.ones(9), [2, 2, 1, 0, 0, 1, 3, 1, 1]])
    found = mi._bound(name, f, code[:, None] != code, weights)
    for value, weight in zip(found, weights.astype(int), strict=True):
        again = np.repeat(np.arange(9), weight)
        assert value == pytest.approx(by_hand(name, f[np.ix_(again, again)], code[again]))


@pytest.mark.parametrize("name", mi.NEURAL)
def test_a_step_without_memory_follows_the_gradient_of_the_bound(name: str) -> None:
    f = torch.from_numpy(generator(0, "gradient").normal(size=(6, 6))).requires_grad_()
    apart = ~torch.eye(6, dtype=torch.bool)
    loss, average = mi._loss(name, f, apart, torch.tensor(3.0), 0.0)
    (found,) = torch.autograd.grad(loss, f)
    step = 1e-5
    for i, j in ((0, 0), (2, 4)):
        moved = f.detach().numpy().copy()
        moved[i, j] += step
        change = by_hand(name, moved, np.arange(6)) - by_hand(name, f.detach().numpy(), np.arange(6))
        assert float(found[i, j]) == pytest.approx(-change / step, abs=1e-4)
    if name == "MINE":
        assert float(average) == pytest.approx(float(f.detach()[apart].exp().mean()))


def test_mine_divides_by_the_moving_average() -> None:
    f = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
    loss, average = mi._loss("MINE", f, ~torch.eye(4, dtype=torch.bool), torch.tensor(3.0), 0.5)
    assert float(average) == pytest.approx(2.0)
    loss.backward()
    assert float(f.grad[0, 1]) == pytest.approx(1 / 12 / 2)


def test_infonce_cannot_exceed_the_logarithm_of_its_pairs() -> None:
    x = generator(0, "same").normal(size=(100, 1))
    found = mi.estimate(x, x, "InfoNCE", settings=FAST)
    assert 1 < found.value <= np.log(found.n) and found.high <= np.log(found.n)


# Splits, seeds and errors.


def test_groups_stay_together() -> None:
    code = np.repeat(np.arange(40), 3)
    parts = mi._split(code, 0, mi.EstimatorSettings())
    owners = [set(code[part]) for part in parts]
    assert sum(map(len, parts)) == 120 and not (owners[0] & owners[1] or owners[0] & owners[2] or owners[1] & owners[2])
    assert [len(owner) for owner in owners] == [20, 6, 14]
    weights = mi._weights(code, 0, mi.EstimatorSettings(resamples=50)).reshape(50, 40, 3)
    assert (weights == weights[..., :1]).all() and (weights[..., 0].sum(1) == 40).all()


def test_seeds_decide_and_nothing_else_does() -> None:
    x, y = gaussian_pairs(1, 300, 1)
    first = mi.estimate(x, y, "MINE", settings=FEW)
    torch.manual_seed(123)
    np.random.seed(5)
    again = mi.estimate(x, y, "MINE", settings=FEW)
    assert first.value == again.value and np.array_equal(first.draws, again.draws)
    other = mi.estimate(x, y, "MINE", settings=FEW, seed=1)
    assert other.value != first.value
    both = mi.pooled([first, other])
    assert both.value == pytest.approx((first.value + other.value) / 2)
    assert both.low <= min(first.low, other.low) + 0.1 and len(both.draws) == 2 * FEW.resamples


def test_what_two_estimates_share_cancels_in_their_difference() -> None:
    x, y = gaussian_pairs(1, 600, 1)
    noise = generator(0, "more noise").normal(size=y.shape)
    clear, blurred = (mi.estimate(x, target, "KSG") for target in (y, y + 0.1 * noise))
    apart = clear.minus(blurred)
    assert apart.value == pytest.approx(clear.value - blurred.value) and apart.low <= apart.value <= apart.high
    alone = np.hypot(clear.high - clear.low, blurred.high - blurred.low)
    assert apart.high - apart.low < alone


def test_bad_samples_are_refused() -> None:
    x, y = gaussian_pairs(1, 40, 1)
    with pytest.raises(UnknownNameError, match="did you mean MINE"):
        mi.estimate(x, y, "MINED")
    with pytest.raises(UnisrError, match="40 x, 39 y"):
        mi.estimate(x, y[1:], "KSG")
    with pytest.raises(UnisrError, match="finite"):
        mi.estimate(np.where(x > 0, np.nan, x), y, "KSG")
    with pytest.raises(UnisrError, match="4 groups"):
        mi.estimate(x, y, "NWJ", groups=np.arange(40) % 4)
