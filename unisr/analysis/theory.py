"""Theorem 4.1 of the GenSR paper by simulation: two linear Gaussian tasks, one parameter vector or one for each.

Data of task t in {rec, src}: X [N, d] ~ N(0, I), y = X w_t + e, e ~ N(0, noise² I); |w_t| = 1 and the cosine of w_rec
and w_src is `similarity`. Choices where the proof is vague:

- the loss is squared (the model above Eq. 15 is a regression), so the theorem's expansion holds with remainder 0; what
  the remainder is for the Yes/No loss of footnote 7 is measured by `unisr.analysis.expansion`;
- discriminative: one vector of d for the losses of both tasks (`shared`). Generative: a vector of d per task, which the
  prompt chooses (`blocks`); or, with as many parameters as the shared vector has, half of its coordinates for each task
  (`subspaces`). Each by least squares, of least length where the data leave a choice;
- the error is measured from w_t, for which both are meant (`error`), and from the minimizer of the estimator's own
  expected loss, the proof's "respective true parameters" (`own`). The proof does not say that these differ;
- X has mean 0 and covariance I and there is no b*: only noise relative to the signal matters.

Everything is computed from the Gram matrices X'X and products X'e: estimates are exact functions of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field
from sklearn.feature_selection import mutual_info_regression

from unisr.config import Settings
from unisr.evaluation.statistics import bootstrap_interval
from unisr.random import generator

Estimator = Literal["shared", "blocks", "subspaces"]
ESTIMATORS: tuple[Estimator, ...] = ("shared", "blocks", "subspaces")
SIMILARITIES = (-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
MEASURES = ("error", "own", "hessian", "printed", "squared", "label")


class Setting(Settings):
    """One point of the simulation."""

    dimension: int = Field(16, ge=2)
    """d, the entries of X and of w_t."""
    samples: int = Field(50, ge=1)
    """N, of each task."""
    noise: float = Field(1.0, gt=0)
    """Standard deviation of e; the signal's is 1."""
    similarity: float = Field(0.5, ge=-1, le=1)
    """Cosine of w_rec and w_src."""
    repetitions: int = Field(100, ge=2)
    seed: int = Field(0, ge=0)


@dataclass(frozen=True)
class Draw:
    """Data of R repetitions, for any noise and similarity.

    grams [R, 2, d, d] (X'X of both tasks, of `samples` rows); noise [R, 2, d] (X'e for e of variance 1); axes
    [R, 2, d], orthonormal: w_rec is the first.
    """

    samples: int
    grams: np.ndarray
    noise: np.ndarray
    axes: np.ndarray

    @cached_property
    def inverses(self) -> dict[Estimator, np.ndarray]:
        """Pseudo-inverses of each estimator's Gram matrices, [R, 2, d, d]."""
        masks = _halves(self.grams.shape[-1])
        pooled = np.broadcast_to(_inverse(self.grams.sum(1))[:, None], self.grams.shape)
        return {"shared": pooled, "blocks": _inverse(self.grams),
                "subspaces": _inverse(self.grams * masks[:, :, None] * masks[:, None, :])}  # fmt: skip

    @cached_property
    def hessians(self) -> dict[Estimator, np.ndarray]:
        """Spectral norm of the inverse Hessian of the mean loss, of the worse task, [R]."""
        ends = {}
        for name in ESTIMATORS:
            d, rows = self.grams.shape[-1], self.samples * (2 if name == "shared" else 1)
            free = rows < (d - d // 2 if name == "subspaces" else d)
            # The pseudo-inverse has eigenvalue 0 on coordinates that an estimator does not have.
            top = np.linalg.eigvalsh(self.inverses[name])[..., -1].max(-1)
            ends[name] = np.full(len(top), np.inf) if free else rows * top
        return ends

    def weights(self, similarity: float) -> np.ndarray:
        """w_rec and w_src, [R, 2, d]."""
        turned = similarity * self.axes[:, 0] + (1 - similarity**2) ** 0.5 * self.axes[:, 1]
        return np.stack([self.axes[:, 0], turned], axis=1)


@lru_cache(maxsize=16)
def draw(dimension: int, samples: int, repetitions: int, seed: int = 0) -> Draw:
    """Standard normal data of both tasks; kept, so that another noise or similarity costs no new draw."""
    rng = generator(seed, "theorem", dimension, samples)
    axes = np.linalg.qr(rng.standard_normal((repetitions, dimension, 2)))[0].swapaxes(1, 2)
    grams = np.empty((repetitions, 2, dimension, dimension))
    noise = np.empty((repetitions, 2, dimension))
    for place in np.ndindex(repetitions, 2):
        x = rng.standard_normal((samples, dimension))
        grams[place], noise[place] = x.T @ x, x.T @ rng.standard_normal(samples)
    return Draw(samples, grams, noise, axes)


def estimates(setting: Setting) -> dict[Estimator, np.ndarray]:
    """Least-squares parameters of both tasks by every estimator, each [R, 2, d]."""
    data = draw(setting.dimension, setting.samples, setting.repetitions, setting.seed)
    masks = _halves(setting.dimension)
    moments = _times(data.grams, data.weights(setting.similarity)) + setting.noise * data.noise  # X'y
    pooled = np.broadcast_to(moments.sum(1, keepdims=True), moments.shape)
    sides = {"shared": pooled, "blocks": moments, "subspaces": moments * masks}
    return {name: _times(data.inverses[name], sides[name]) for name in ESTIMATORS}


def simulate(setting: Setting) -> pd.DataFrame:
    """One row per estimator and repetition.

    Returns:
        columns estimator, repetition and
        - error: |ŵ_t - w_t|², the mean of both tasks;
        - own: the same from the minimizer of the estimator's own expected loss (for `shared` the mean of both w_t);
        - hessian: spectral norm of the inverse Hessian of the mean loss (infinite where the data leave a choice);
        - printed, squared: I(X; ŵX + e) in nats, the sum of both tasks, with |ŵ| as Eq. 15 prints and with |ŵ|²;
        - label: I(ŵX; Y) in nats, what the noiseless prediction tells of the label, the sum of both tasks.
    """
    data = draw(setting.dimension, setting.samples, setting.repetitions, setting.seed)
    truth, masks = data.weights(setting.similarity), _halves(setting.dimension)
    mean = np.broadcast_to(truth.mean(1, keepdims=True), truth.shape)
    targets = {"shared": mean, "blocks": truth, "subspaces": truth * masks}
    parts = []
    for name, found in estimates(setting).items():
        length = np.linalg.norm(found, axis=-1)
        parts.append({
            "estimator": name, "repetition": np.arange(setting.repetitions),
            "error": _squares(found - truth), "own": _squares(found - targets[name]),
            "hessian": data.hessians[name],
            "printed": information(length, setting.noise, squared=False).sum(-1),
            "squared": information(length, setting.noise).sum(-1),
            "label": _label(found, truth, setting.noise).sum(-1),
        })  # fmt: skip
    return pd.concat(map(pd.DataFrame, parts), ignore_index=True)


def information(length: np.ndarray | float, noise: float, *, squared: bool = True) -> np.ndarray:
    """I(X; wX + e) in nats of a w of that length, X ~ N(0, I), e ~ N(0, noise²): ½ ln(1 + |w|²/noise²).

    `squared=False` is Eq. 15 as printed, ½ ln(1 + w/noise²): it changes with the unit of w, and has no value for a
    negative w below -noise² (NaN).
    """
    ratio = np.asarray(length, dtype=float) ** (2 if squared else 1) / noise**2
    return 0.5 * np.log1p(np.where(ratio > -1, ratio, np.nan))


def measured_information(length: float, noise: float, *, count: int = 5000, seed: int = 0) -> float:
    """The same from `count` samples alone, by nearest neighbors (Kraskov et al. 2004; 3 of them), nats."""
    rng = generator(seed, "channel", str(length), str(noise))
    signal = length * rng.standard_normal(count)
    y = signal + noise * rng.standard_normal(count)
    return float(mutual_info_regression(signal[:, None], y, random_state=0)[0])


def expected_error(setting: Setting, estimator: Literal["shared", "blocks"]) -> float:
    """E |ŵ_t - w_t|² over data, exactly; NaN where the expectation is not finite.

    blocks: noise² d / (N - d - 1), the trace of the inverse Wishart mean. shared, with n = 2 N and U the matrix-Beta
    share of one task in the pooled Gram matrix G: |w_rec - w_src|² E tr(U G U G⁻¹)/d + noise² d / (n - d - 1).
    """
    d, own, noise = setting.dimension, setting.samples, setting.noise**2
    n = own if estimator == "blocks" else 2 * own
    if n <= d + 1:
        return float("nan")
    bias = 0.0 if estimator == "blocks" else 2 * (1 - setting.similarity) * _pull(d, own)
    return bias + noise * d / (n - d - 1)


def break_even(dimension: int, samples: int, noise: float) -> float:
    """The similarity above which one shared vector has the smaller expected error; NaN for N <= d + 1, less than -1
    where sharing is better for any tasks."""
    d, own = dimension, samples
    if own <= d + 1:
        return float("nan")
    saved = noise**2 * d * (1 / (own - d - 1) - 1 / (2 * own - d - 1))
    return 1 - saved / (2 * _pull(d, own))


def contrast(frame: pd.DataFrame, estimator: Estimator = "blocks") -> pd.DataFrame:
    """`estimator` minus `shared` in the same repetitions.

    Returns:
        columns measure, shared and estimator (their means), value (mean difference), low, high (95 % bootstrap over
        repetitions; NaN where a Hessian has no inverse).
    """
    wide = {name: rows[list(MEASURES)].to_numpy() for name, rows in frame.groupby("estimator")}
    with np.errstate(invalid="ignore"):
        difference = wide[estimator] - wide["shared"]
    finite = np.isfinite(difference).all(0)
    ends = np.full((2, len(MEASURES)), np.nan)
    ends[:, finite] = bootstrap_interval(difference[:, finite], resamples=500)
    return pd.DataFrame({
        "measure": MEASURES, "shared": wide["shared"].mean(0), "estimator": wide[estimator].mean(0),
        "value": difference.mean(0), "low": ends[0], "high": ends[1],
    })  # fmt: skip


def means(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns estimator, measure, value, low, high: means over repetitions, and 1.96 standard errors around them.

    Args:
        frame: from `simulate`.
    """
    parts = []
    for name, rows in frame.groupby("estimator", sort=False):
        values = rows[["error", "own", "printed", "squared", "label"]]
        mean, error = values.mean().to_numpy(), 1.96 * values.sem().to_numpy()
        parts.append(pd.DataFrame({"estimator": name, "measure": values.columns, "value": mean,
                                   "low": mean - error, "high": mean + error}))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def sweep(setting: Setting, similarities: Sequence[float]) -> pd.DataFrame:
    """`means` at other similarities of the same data: a further column similarity."""
    at = {float(c): setting.model_copy(update={"similarity": float(c)}) for c in similarities}
    return pd.concat([means(simulate(one)).assign(similarity=c) for c, one in at.items()], ignore_index=True)


def grid(
    *, dimensions: Sequence[int] = (4, 12, 36), samples: Sequence[int] = (15, 45, 135, 405),
    noises: Sequence[float] = (0.3, 1.0, 3.0), similarities: Sequence[float] = SIMILARITIES,
    repetitions: int = 100, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """`contrast` of `blocks` at every combination, with further columns dimension, samples, noise, similarity."""
    parts = []
    for d, n, noise, similarity in product(dimensions, samples, noises, similarities):
        place = {"dimension": d, "samples": n, "noise": noise, "similarity": float(similarity)}
        found = simulate(Setting(**place, repetitions=repetitions, seed=seed))
        parts.append(contrast(found).assign(**place))
    return pd.concat(parts, ignore_index=True)


def _pull(d: int, own: int) -> float:
    """E tr(U G U G⁻¹)/d for G ~ Wishart(2 N) and U ~ matrix Beta(N/2, N/2) independent of it; ¼ for many samples.

    U is invariant under rotation, so E U_ij U_kl = a δ_ij δ_kl + b (δ_ik δ_jl + δ_il δ_jk); a and b follow from the
    second moments of G^½ U G^½ ~ Wishart(N).
    """
    n = 2 * own
    square, trace = n**2 * d**2 + 2 * n * d, n * d * (n + d + 1)  # E (tr G)², E tr G²
    right = [own**2 * d**2 + 2 * own * d, own * d * (own + d + 1)]
    a, b = np.linalg.solve([[square, 2 * trace], [trace, square + trace]], right)
    return float(a + b + b * (n * d - 2) / (n - d - 1))


def _halves(d: int) -> np.ndarray:
    """[2, d]: the coordinates that each task may use where one vector is divided."""
    first = np.arange(d) < d // 2
    return np.stack([first, ~first]).astype(float)


def _inverse(grams: np.ndarray) -> np.ndarray:
    return np.linalg.pinv(grams, rcond=1e-10, hermitian=True)


def _times(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return (matrices @ vectors[..., None])[..., 0]


def _squares(difference: np.ndarray) -> np.ndarray:
    """[R, 2, d] -> [R], squared length, mean of the tasks."""
    return np.square(difference).sum(-1).mean(-1)


def _label(found: np.ndarray, truth: np.ndarray, noise: float) -> np.ndarray:
    """I(ŵX; Y) = -½ ln(1 - r²) by the correlation r of ŵX and Y, [R, 2]; 1 - r² from what of ŵ is across w."""
    along = (found * truth).sum(-1, keepdims=True)
    across = np.square(found - along * truth).sum(-1)
    power = np.maximum(np.square(found).sum(-1), np.finfo(float).tiny)
    return -0.5 * np.log(np.minimum((across / power + noise**2) / (1 + noise**2), 1.0))
