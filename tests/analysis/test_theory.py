"""The simulated Theorem 4.1 against closed forms, loops and scikit-learn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pydantic
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

from unisr.analysis import expansion, theory
from unisr.analysis.theory import Setting


def changed(setting: Setting, **fields: object) -> Setting:
    return setting.model_copy(update=fields)


SMALL = Setting(dimension=5, samples=14, noise=0.8, similarity=0.3, repetitions=6)


def rows_of(setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """The data of `draw` again, before they became Gram matrices: x [R, 2, N, d] and e [R, 2, N]."""
    from unisr.random import generator

    rng = generator(setting.seed, "theorem", setting.dimension, setting.samples)
    rng.standard_normal((setting.repetitions, setting.dimension, 2))
    shape = (setting.repetitions, 2, setting.samples)
    x, e = np.empty((*shape, setting.dimension)), np.empty(shape)
    for place in np.ndindex(*shape[:2]):
        x[place] = rng.standard_normal((setting.samples, setting.dimension))
        e[place] = rng.standard_normal(setting.samples)
    return x, e


def test_estimators_are_least_squares_on_the_rows() -> None:
    data = theory.draw(5, 14, 6)
    truth, (x, e) = data.weights(0.3), rows_of(SMALL)
    y = (x @ truth[..., None])[..., 0] + 0.8 * e
    found = theory.estimates(SMALL)
    for r in range(6):
        pooled = LinearRegression(fit_intercept=False).fit(x[r].reshape(-1, 5), y[r].ravel()).coef_
        assert found["shared"][r] == pytest.approx(np.stack([pooled, pooled]))
        for task, kept in enumerate([slice(0, 2), slice(2, 5)]):
            own = LinearRegression(fit_intercept=False).fit(x[r, task], y[r, task])
            assert found["blocks"][r, task] == pytest.approx(own.coef_)
            half = LinearRegression(fit_intercept=False).fit(x[r, task][:, kept], y[r, task]).coef_
            expected = np.zeros(5)
            expected[kept] = half
            assert found["subspaces"][r, task] == pytest.approx(expected)


def test_weights_have_length_one_and_the_similarity() -> None:
    truth = theory.draw(5, 14, 6).weights(-0.4)
    assert np.linalg.norm(truth, axis=-1) == pytest.approx(np.ones((6, 2)))
    assert (truth[:, 0] * truth[:, 1]).sum(-1) == pytest.approx(np.full(6, -0.4))


@pytest.mark.parametrize("similarity", [-1.0, 0.2, 1.0])
def test_mean_errors_agree_with_the_exact_expectations(similarity: float) -> None:
    setting = Setting(dimension=6, samples=20, similarity=similarity, repetitions=3000)
    means = theory.means(theory.simulate(setting))
    errors = means[means["measure"] == "error"].set_index("estimator")
    for name in ("shared", "blocks"):
        margin = 1.5 * (errors.loc[name, "high"] - errors.loc[name, "low"])
        assert errors.loc[name, "value"] == pytest.approx(theory.expected_error(setting, name), abs=margin)


def test_error_given_the_inputs_is_the_least_squares_covariance() -> None:
    """Over draws of the noise alone, E |ŵ - w|² = noise² tr (X'X)⁻¹."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((9, 4))
    inverse = np.linalg.inv(x.T @ x)
    errors = inverse @ x.T @ (0.5 * rng.standard_normal((9, 4000)))
    assert np.square(errors).sum(0).mean() == pytest.approx(0.25 * np.trace(inverse), rel=0.08)
    average = np.mean([np.trace(np.linalg.inv(g)) for g in theory.draw(4, 20, 3000).grams[:, 0]])
    assert theory.expected_error(Setting(dimension=4, samples=20, noise=0.5), "blocks") == pytest.approx(
        0.25 * average, rel=0.05
    )


def test_break_even_is_where_the_expected_errors_meet() -> None:
    edge = theory.break_even(6, 20, 0.7)
    setting = Setting(dimension=6, samples=20, noise=0.7, similarity=edge)
    assert theory.expected_error(setting, "shared") == pytest.approx(theory.expected_error(setting, "blocks"))
    assert theory.break_even(6, 7, 0.7) != theory.break_even(6, 7, 0.7)
    assert theory.break_even(6, 20, 0.3) > edge > theory.break_even(6, 20, 3.0)


def test_sharing_is_better_for_equal_tasks_and_worse_for_opposite_ones() -> None:
    for similarity, better in ((1.0, "shared"), (-1.0, "blocks")):
        setting = Setting(dimension=6, samples=60, noise=0.5, similarity=similarity, repetitions=50)
        error = theory.simulate(setting).pivot(index="repetition", columns="estimator", values="error")
        other = {"shared": "blocks", "blocks": "shared"}[better]
        assert (error[better] < error[other]).mean() > 0.95


def test_without_noise_a_vector_per_task_is_exact() -> None:
    frame = theory.simulate(changed(SMALL, noise=1e-9)).set_index("estimator")
    assert frame.loc["blocks", "error"].max() < 1e-15 < frame.loc["shared", "error"].min()


def test_own_error_is_from_the_mean_of_both_tasks_for_the_shared_vector() -> None:
    found = theory.estimates(SMALL)["shared"][:, 0]
    target = theory.draw(5, 14, 6).weights(0.3).mean(1)
    own = theory.simulate(SMALL).set_index("estimator").loc["shared", "own"]
    assert own.to_numpy() == pytest.approx(np.square(found - target).sum(-1))


def test_the_shared_inverse_hessian_is_never_the_larger() -> None:
    """Weyl: the least eigenvalue of a sum is at least the sum of the least ones; and that of the rows' mean."""
    frame = theory.simulate(SMALL).pivot(index="repetition", columns="estimator", values="hessian")
    assert (frame["shared"] <= frame["blocks"]).all()
    gram = theory.draw(5, 14, 6).grams[0].sum(0)
    assert frame["shared"][0] == pytest.approx(1 / np.linalg.eigvalsh(gram / 28)[0])
    few = theory.simulate(changed(SMALL, samples=3))
    assert np.isinf(few.loc[few["estimator"] == "blocks", "hessian"]).all()


@pytest.mark.parametrize(("length", "noise"), [(0.0, 1.0), (1.0, 1.0), (2.0, 0.5)])
def test_information_with_the_square_is_what_samples_give(length: float, noise: float) -> None:
    assert theory.information(length, noise) == pytest.approx(theory.measured_information(length, noise), abs=0.06)


def test_information_is_the_mean_log_ratio_of_densities() -> None:
    rng = np.random.default_rng(0)
    signal, e = 1.5 * rng.standard_normal(200_000), 0.8 * rng.standard_normal(200_000)
    y, total = signal + e, 1.5**2 + 0.8**2
    ratio = -0.5 * np.square(e / 0.8) + 0.5 * np.square(y) / total + 0.5 * np.log(total / 0.8**2)
    assert theory.information(1.5, 0.8) == pytest.approx(ratio.mean(), abs=0.01)


def test_printed_information_differs_and_needs_a_positive_w() -> None:
    assert theory.information(1.0, 0.7, squared=False) == pytest.approx(theory.information(1.0, 0.7))
    assert theory.information(4.0, 1.0, squared=False) == pytest.approx(0.5 * np.log(5))
    assert np.isnan(theory.information(-2.0, 1.0, squared=False))
    assert theory.information(-2.0, 1.0) == theory.information(2.0, 1.0)


def test_label_information_knows_the_direction_only_and_never_exceeds_the_bound() -> None:
    bound = 2 * float(theory.information(1.0, SMALL.noise))
    frame = theory.simulate(SMALL)
    assert (frame["label"] <= bound).all()
    exact = theory.simulate(changed(SMALL, noise=1e-6)).set_index("estimator")
    assert exact.loc["blocks", "label"].to_numpy() == pytest.approx(2 * float(theory.information(1.0, 1e-6)), rel=0.05)


def test_contrast_is_paired_and_signed() -> None:
    frame = pd.DataFrame({"estimator": ["shared"] * 3 + ["blocks"] * 3, "repetition": [0, 1, 2] * 2})
    for name in theory.MEASURES:
        frame[name] = [1.0, 2.0, 9.0, 1.5, 2.5, 9.5]
    row = theory.contrast(frame.assign(hessian=np.inf)).set_index("measure").loc
    assert row["error"][["value", "low", "high"]].tolist() == pytest.approx([0.5, 0.5, 0.5])
    assert np.isnan(row["hessian"]["low"])


def test_a_setting_without_a_repetition_more_than_one_is_refused() -> None:
    for field, value in (("repetitions", 1), ("noise", 0.0), ("similarity", 1.1), ("dimension", 1)):
        with pytest.raises(pydantic.ValidationError, match=field):
            Setting(**{field: value})


def test_grid_has_every_combination() -> None:
    table = theory.grid(dimensions=[3], samples=[5, 9], noises=[1.0], similarities=[0.0, 1.0], repetitions=4)
    assert len(table) == 4 * len(theory.MEASURES)
    assert set(zip(table["samples"], table["similarity"], strict=True)) == {(5, 0.0), (5, 1.0), (9, 0.0), (9, 1.0)}


def test_expansion_terms_add_up_and_newton_finds_the_maximum() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 150, 3))
    y = (rng.random((1, 150)) < 0.5).astype(float)
    reference = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(x[0], y[0]).coef_[0]
    assert expansion._newton(x, y)[0] == pytest.approx(reference, abs=1e-5)
    table = expansion.expansion([100, 400], repetitions=5)
    assert (table["kept"] + table["dropped"] >= table["error"]).all()
    assert table["remainder"].iloc[1] < table["remainder"].iloc[0] < table["gradient"].iloc[0]
