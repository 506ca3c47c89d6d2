"""Mutual information I(X; Y) in nats from samples, by estimators that err in different ways.

With p the joint distribution, q the product of the marginals and f a trained critic:

    MINE     E_p[f] - log E_q[e^f]        Donsker-Varadhan; Belghazi et al., Mutual Information Neural Estimation, 2018
    NWJ      1 + E_p[f] - E_q[e^f]        Nguyen, Wainwright and Jordan 2010 (their f is this one + 1)
    InfoNCE  E_p[f(x, y) - log mean_j e^f(x, y_j)]   van den Oord et al. 2018; never above log K, K pairs in the mean
    KSG      k nearest neighbors: Kraskov, Stoegbauer and Grassberger 2004, estimator 1; Ross 2014 where Y is discrete

The first three are lower bounds of I in expectation if, as here, the critic is not trained on the pairs that they are
evaluated on: a critic can learn any finite set of pairs by heart, and then reads information where there is none.
MINE's logarithm of a mean reads a little high on few pairs, NWJ varies most, and all fall short where pairs are few
and the information is large. KSG is no bound: it falls short in many dimensions and learns nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from unisr.analysis.neighbors import kraskov, ross
from unisr.config import Settings
from unisr.errors import UnisrError, UnknownNameError
from unisr.random import generator, seed_from

NEURAL = ("MINE", "NWJ", "InfoNCE")
ESTIMATORS = (*NEURAL, "KSG")
TAILS = (0.025, 0.975)
LEAST = 16
"""Fewest groups of pairs that are split in three."""


class EstimatorSettings(Settings):
    """How critics are trained, pairs are split and intervals are drawn."""

    steps: int = Field(400, ge=1)
    """Upper bound on training steps of a critic."""
    batch: int = Field(256, ge=8)
    """Pairs of a step; all of its mixed pairs stand for q."""
    width: int = Field(64, ge=1)
    learning_rate: float = Field(5e-3, gt=0)
    weight_decay: float = Field(1e-3, ge=0)
    check: int = Field(20, ge=1)
    """Steps between two looks at the validation pairs."""
    patience: int = Field(10, ge=1)
    """Looks without a better validation bound before training stops."""
    decay: float = Field(0.9, ge=0, lt=1)
    """Of the moving average of E_q[e^f] in MINE's gradient."""
    train: float = Field(0.5, gt=0, lt=1)
    validation: float = Field(0.15, gt=0, lt=1)
    """Shares of the groups; the others are held out."""
    neighbors: int = Field(3, ge=1)
    resamples: int = Field(200, ge=2)
    """Bootstrap draws of held-out groups."""


@dataclass(frozen=True)
class Estimate:
    """An estimate of I in nats with its 95 % interval."""

    value: float
    draws: np.ndarray
    """[R] bootstrap draws of `value` over groups of pairs (and over seeds, once `pooled`)."""
    n: int
    """Pairs that the value is a mean over."""
    trained_on: float
    """The same bound on the pairs that the critic was trained on: too high. NaN where nothing is trained."""

    @property
    def low(self) -> float:
        return float(np.quantile(self.draws, TAILS[0]))

    @property
    def high(self) -> float:
        return float(np.quantile(self.draws, TAILS[1]))

    def minus(self, other: Estimate) -> Estimate:
        """The difference of two estimates from the same groups and seeds: draw by draw, so what they share cancels."""
        return Estimate(self.value - other.value, self.draws - other.draws, self.n, self.trained_on - other.trained_on)


def pooled(estimates: Sequence[Estimate]) -> Estimate:
    """The mean over seeds; the draws of all seeds together, so the interval covers splits, weights and pairs."""
    return Estimate(
        value=float(np.mean([e.value for e in estimates])),
        draws=np.concatenate([e.draws for e in estimates]),
        n=estimates[0].n,
        trained_on=float(np.mean([e.trained_on for e in estimates])),
    )


def estimate(
    x: np.ndarray, y: np.ndarray, estimator: str, *, groups: np.ndarray | None = None, seed: int = 0,
    settings: EstimatorSettings | None = None,
) -> Estimate:  # fmt: skip
    """I(X; Y) in nats by one of `ESTIMATORS`; coordinates are standardized first, which leaves I as it is.

    Args:
        x: [n, dx] samples.
        y: [n, dy] samples, or [n] integers: a discrete Y.
        groups: [n] integers, by default every pair its own. Pairs of a group (a user's) may depend on each other: they
            fall into the same part of the split, are never mixed, and are drawn together; KSG takes one pair of each.
        seed: of the split, the critic and the draws. Other data with the same groups gets the same split and draws.

    Raises:
        UnknownNameError: no such estimator.
        UnisrError: samples that are not finite or of different lengths, or too few groups.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(2000, 1))
    >>> y = 0.8 * x + 0.6 * rng.normal(size=(2000, 1))  # -log(1 - 0.8^2) / 2 = 0.51 nats
    >>> 0.45 < estimate(x, y, "KSG").value < 0.57
    True
    """
    if estimator not in ESTIMATORS:
        raise UnknownNameError("estimator", estimator, ESTIMATORS)
    settings = settings or EstimatorSettings()
    discrete = np.issubdtype(y.dtype, np.integer) and y.ndim == 1
    code = np.unique(np.arange(len(x)) if groups is None else groups, return_inverse=True)[1]
    if not len(x) == len(y) == len(code) or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise UnisrError(f"{estimator}: {len(x)} x, {len(y)} y, {len(code)} groups; give as many of each, all finite")
    if code.max() + 1 < LEAST:
        raise UnisrError(f"{estimator}: {code.max() + 1} groups of pairs; at least {LEAST} are needed, take more users")
    inputs, outputs = _standardized(x), _standardized(y)
    if estimator in NEURAL:
        return _neural(inputs, outputs, code, estimator, seed, settings)
    return _neighbors(inputs, y if discrete else outputs, code, seed, settings)


def over_seeds(
    x: np.ndarray, y: np.ndarray, estimator: str, seeds: Sequence[int], *, groups: np.ndarray | None = None,
    settings: EstimatorSettings | None = None,
) -> Estimate:  # fmt: skip
    """`estimate` for each of the seeds, `pooled`."""
    return pooled([estimate(x, y, estimator, groups=groups, seed=seed, settings=settings) for seed in seeds])


def as_row(found: Estimate) -> dict[str, float]:
    """Value, low, high, trained_on and n, for a tidy frame."""
    return {"value": found.value, "low": found.low, "high": found.high, "trained_on": found.trained_on, "n": found.n}


def _standardized(values: np.ndarray) -> np.ndarray:
    """[n, d] float64, every column of mean 0 and variance 1 (0 where it is constant)."""
    table = values.reshape(len(values), -1).astype(np.float64)
    table = table - table.mean(0)
    spread = table.std(0)
    return np.divide(table, spread, out=np.zeros_like(table), where=spread > 1e-9)


class Critic(nn.Module):
    """f(x_i, y_j) = g(x_i) · h(y_j), [n, m] from [n, dx] and [m, dy]; 0 before training.

    At 0 every bound is 0, so a critic that finds nothing on the validation pairs stays there.
    """

    def __init__(self, dx: int, dy: int, width: int) -> None:
        super().__init__()
        self.g, self.h = (_perceptron(d, width) for d in (dx, dy))
        nn.init.zeros_(self.h[-1].weight)
        nn.init.zeros_(self.h[-1].bias)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.g(x) @ self.h(y).T


def _perceptron(inputs: int, width: int) -> nn.Sequential:
    layers = [nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)]
    return nn.Sequential(*layers)


def _neural(
    x: np.ndarray, y: np.ndarray, code: np.ndarray, name: str, seed: int, settings: EstimatorSettings
) -> Estimate:
    """Train on one part of the groups, stop by the second, evaluate on the third."""
    parts = _split(code, seed, settings)
    tensors = [(torch.tensor(x[p], dtype=torch.float32), torch.tensor(y[p], dtype=torch.float32)) for p in parts]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_from(seed, "critic"))
        critic = Critic(x.shape[1], y.shape[1], settings.width)
    apart = [code[p][:, None] != code[p] for p in parts]

    def value(part: int, weights: np.ndarray | None = None) -> np.ndarray:
        with torch.inference_mode():
            scores = critic(*tensors[part]).double().numpy()
        return _bound(name, scores, apart[part], np.ones((1, len(scores))) if weights is None else weights)

    _train(critic, *tensors[0], torch.from_numpy(apart[0]), name, lambda: float(value(1)[0]), seed, settings)
    draws = value(2, _weights(code[parts[2]], seed, settings))
    return Estimate(float(value(2)[0]), draws, len(parts[2]), float(value(0)[0]))


def _split(code: np.ndarray, seed: int, settings: EstimatorSettings) -> list[np.ndarray]:
    """Pairs of the training, validation and held-out groups."""
    place = generator(seed, "split").permutation(code.max() + 1) / (code.max() + 1)
    bounds = (settings.train, settings.train + settings.validation)
    return [np.flatnonzero(np.digitize(place, bounds)[code] == part) for part in range(3)]


def _train(
    critic: Critic, x: Tensor, y: Tensor, apart: Tensor, name: str, validate: Callable[[], float], seed: int,
    settings: EstimatorSettings,
) -> None:  # fmt: skip
    """Leaves the critic with the weights that were best on the validation pairs."""
    decay, rate = settings.weight_decay, settings.learning_rate
    optimizer = torch.optim.AdamW(critic.parameters(), rate, weight_decay=decay, fused=True)
    stream, average = generator(seed, "batches"), torch.tensor(1.0)
    best, kept, since = 0.0, {k: v.clone() for k, v in critic.state_dict().items()}, 0
    for step in range(1, settings.steps + 1):
        rows = torch.from_numpy(stream.permutation(len(x))[: settings.batch])
        loss, average = _loss(name, critic(x[rows], y[rows]), apart[rows][:, rows], average, settings.decay)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(critic.parameters(), 1.0)
        optimizer.step()
        if step % settings.check == 0:
            found = validate()
            better, since = found > best, since + 1
            if better:
                best, kept, since = found, {k: v.clone() for k, v in critic.state_dict().items()}, 0
            if since >= settings.patience:
                break
    critic.load_state_dict(kept)


def _loss(name: str, f: Tensor, apart: Tensor, average: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """What a step minimizes for the critic's values f [B, B], and the moving average of E_q[e^f].

    MINE: the gradient of log E_q[e^f] is that of E_q[e^f] over E_q[e^f]; the denominator is the moving average, because
    the batch's own mean there biases the gradient (Belghazi et al. 2018, section 3.2).
    """
    joint = f.diagonal()
    mixed = f.masked_fill(~apart, -torch.inf)
    if name == "InfoNCE":
        every = torch.where(torch.eye(len(f), dtype=torch.bool), f, mixed)
        return (every.logsumexp(1) - joint).mean(), average
    mean = mixed.exp().sum() / apart.sum()
    if name == "NWJ":
        return mean - joint.mean(), average
    average = decay * average + (1 - decay) * mean.detach()
    return mean / average - joint.mean(), average


def _bound(name: str, f: np.ndarray, apart: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[R] values of a bound for critic values f [n, n], where the pair of row i counts weights[:, i] times.

    Mixed pairs (x_i, y_j) are those of different groups, `apart` [n, n].
    """
    joint = weights @ f.diagonal() / weights.sum(1)
    if name == "InfoNCE":
        top = f.max(1)
        others = weights @ (np.exp(f - top[:, None]) * apart).T
        mean = (np.exp(f.diagonal() - top) + others) / (1 + weights @ apart.T)
        return joint - ((np.log(mean) + top) * weights).sum(1) / weights.sum(1)
    top = f.max()
    mixed = ((weights @ (np.exp(f - top) * apart)) * weights).sum(1) / ((weights @ apart) * weights).sum(1)
    return joint - np.log(mixed) - top if name == "MINE" else 1 + joint - mixed * np.exp(top)


def _weights(code: np.ndarray, seed: int, settings: EstimatorSettings) -> np.ndarray:
    """[R, n] how often each pair counts in each draw of whole groups with replacement."""
    members, place = np.unique(code, return_inverse=True)
    share = np.full(len(members), 1 / len(members))
    counts = generator(seed, "draws").multinomial(len(members), share, size=settings.resamples)
    return counts[:, place].astype(np.float64)


def _neighbors(x: np.ndarray, y: np.ndarray, code: np.ndarray, seed: int, settings: EstimatorSettings) -> Estimate:
    """The mean of local terms, and its draws over points (the terms are taken as independent, their bias as none)."""
    order = generator(seed, "one of each group").permutation(len(code))
    kept = np.sort(order[np.unique(code[order], return_index=True)[1]])
    # Ties have no nearest neighbor; this noise is far below any distance that matters.
    x = x[kept] + 1e-10 * generator(seed, "jitter x").normal(size=(len(kept), x.shape[1]))
    if y.ndim == 1:
        local = ross(x, y[kept], settings.neighbors)
    else:
        noise = 1e-10 * generator(seed, "jitter y").normal(size=(len(kept), y.shape[1]))
        local = kraskov(x, y[kept] + noise, settings.neighbors)
    weights = _weights(np.arange(len(kept)), seed, settings)
    return Estimate(float(local.mean()), weights @ local / len(kept), len(kept), float("nan"))
