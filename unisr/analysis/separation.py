"""How far two labeled clouds of points are apart, in numbers and in the plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy.linalg import subspace_angles
from scipy.stats import gaussian_kde
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_samples
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from unisr.errors import UnisrError
from unisr.evaluation.statistics import bootstrap_interval

Projection = Literal["pca", "umap", "tsne"]
PROJECTIONS: tuple[Projection, ...] = get_args(Projection)
NEIGHBORS = 15
"""Of a point, for t-SNE (its perplexity) and UMAP."""
PARTS = 10
"""Groups of users, each left out once for the interval of an angle."""


def accuracy(points: np.ndarray, labels: np.ndarray, users: np.ndarray, *, folds: int = 5) -> np.ndarray:
    """[n] 0 or 1: whether a logistic regression fitted on other users names the point's label; .5 is chance.

    Coordinates are standardized on the users it is fitted on; ridge penalty of weight 1. Folds hold whole users, so
    that what is particular to a user tells nothing of the label.

    Args:
        points: [n, d]; labels: [n] 0 or 1; users: [n].

    Raises:
        UnisrError: fewer users than folds, or a fold lacks a label among its other users.
    """
    if len(np.unique(users)) < folds:
        raise UnisrError(f"{len(np.unique(users))} users cannot make {folds} folds; take more queries or fewer folds")
    right = np.zeros(len(points))
    for fitted, held in GroupKFold(folds).split(points, labels, users):
        if len(np.unique(labels[fitted])) < 2:
            raise UnisrError("a fold has points of one task only; take more queries or fewer folds")
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
        right[held] = model.fit(points[fitted], labels[fitted]).predict(points[held]) == labels[held]
    return right


def silhouette(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[n] silhouettes in -1 … 1: (b - a)/max(a, b) for mean distances a to the own label's points, b to the other's."""
    return silhouette_samples(points, labels)


def angle(points: np.ndarray, labels: np.ndarray, *, directions: int = 3) -> float:
    """Mean principal angle in degrees (0 … 90) between the two labels' subspaces.

    A subspace is spanned by the first `directions` principal axes of a label's points around their own mean, so the
    angle is about the directions in which the states of a task differ, not about where they lie.

    Raises:
        UnisrError: a label has too few points, or the points too few coordinates.
    """
    axes = [_axes(points[labels == label], directions) for label in (0, 1)]
    return float(np.degrees(subspace_angles(*axes)).mean())


def equal(points: np.ndarray, labels: np.ndarray, users: np.ndarray) -> float:
    """Share of the users with one point of each label whose two points are the same, up to rounding: there, whatever
    gave the points does not see the label. NaN without such a user."""
    own = [{user: x for user, x in zip(users[labels == k], points[labels == k], strict=True)} for k in (0, 1)]
    both = sorted(set(own[0]) & set(own[1]))
    size = np.abs(points).max()
    return float(np.mean([np.abs(own[0][u] - own[1][u]).max() <= 1e-4 * size for u in both])) if both else float("nan")


def measured(
    points: np.ndarray, labels: np.ndarray, users: np.ndarray, *, folds: int = 5, directions: int = 3
) -> pd.DataFrame:
    """Columns measure (accuracy, silhouette, angle, equal), value, low, high (95 %; `equal` has none).

    Intervals: bootstrap over users of their means (the fitted models and distances stay), for the angle the jackknife
    over ten groups of users.
    """
    rows = []
    each = {"accuracy": accuracy(points, labels, users, folds=folds), "silhouette": silhouette(points, labels)}
    for name, values in each.items():
        low, high = bootstrap_interval(pd.Series(values).groupby(users).mean().to_numpy(), resamples=500)
        rows.append({"measure": name, "value": float(values.mean()), "low": float(low), "high": float(high)})
    value = angle(points, labels, directions=directions)
    parts = np.searchsorted(np.unique(users), users) % PARTS
    left = [angle(points[parts != p], labels[parts != p], directions=directions) for p in range(PARTS)]
    error = 1.96 * ((PARTS - 1) / PARTS * np.square(left - np.mean(left)).sum()) ** 0.5
    rows.append({"measure": "angle", "value": value, "low": max(value - error, 0.0), "high": min(value + error, 90.0)})
    same = equal(points, labels, users)
    return pd.DataFrame([*rows, {"measure": "equal", "value": same, "low": same, "high": same}])


def shuffled(
    points: np.ndarray, labels: np.ndarray, users: np.ndarray, rng: np.random.Generator, *, times: int = 5,
    folds: int = 5, directions: int = 3,
) -> pd.DataFrame:  # fmt: skip
    """`measured` of the same points with permuted labels: the mean, the lowest and the highest of `times` draws."""
    draws = []
    for _ in range(times):
        other = rng.permutation(labels)
        right = accuracy(points, other, users, folds=folds)
        draws.append((right.mean(), silhouette(points, other).mean(), angle(points, other, directions=directions)))
    table = pd.DataFrame(draws, columns=["accuracy", "silhouette", "angle"])
    ends = {"value": table.mean(), "low": table.min(), "high": table.max()}
    return pd.DataFrame(ends).rename_axis("measure").reset_index()


def halves(
    points: np.ndarray, labels: np.ndarray, rng: np.random.Generator, *, times: int = 5, directions: int = 3
) -> pd.DataFrame:
    """The angle between two random halves of the points of one label, what sampling alone gives; both labels' mean.

    Columns as of `shuffled`. Halves have half as many points as labels have, so this floor is rather high.
    """
    draws = []
    for _ in range(times):
        own = [points[labels == label] for label in (0, 1)]
        draws.append(np.mean([angle(x, rng.permutation(np.arange(len(x)) % 2), directions=directions) for x in own]))
    ends = {"value": np.mean(draws), "low": np.min(draws), "high": np.max(draws)}
    return pd.DataFrame([{"measure": "angle", **ends}])


def plane(points: np.ndarray, projection: Projection, *, seed: int = 0) -> np.ndarray:
    """[n, d] -> [n, 2] by PCA, UMAP or t-SNE (Euclidean distance, 15 neighbors), each axis with mean 0, deviation 1.

    Points that are all equal stay in the origin.
    """
    points = np.asarray(points, dtype=np.float32)
    if np.ptp(points, axis=0).max() <= 1e-6 * np.abs(points).max():
        return np.zeros((len(points), 2))
    near = min(NEIGHBORS, (len(points) - 1) // 3)
    if projection == "pca":
        places = PCA(2, random_state=seed).fit_transform(points)
    elif projection == "tsne":
        places = TSNE(2, perplexity=near, init="pca", random_state=seed).fit_transform(points)
    else:
        places = umap(points, neighbors=near, seed=seed)
    return (places - places.mean(0)) / np.maximum(places.std(0), 1e-12)


def umap(points: np.ndarray, *, neighbors: int, seed: int, metric: str = "euclidean") -> np.ndarray:
    """[n, d] -> [n, 2] by UMAP on one thread; the same seed gives the same places."""
    # Imported here because compiling it takes seconds.
    from umap import UMAP

    # numba sets OpenMP's threads for all libraries when it starts; they get back what they had.
    with threadpool_limits(1):
        return UMAP(n_neighbors=neighbors, metric=metric, random_state=seed, n_jobs=1).fit_transform(points)


def density(places: np.ndarray, x: Sequence[float], y: Sequence[float]) -> np.ndarray:
    """[len(y), len(x)] Gaussian kernel density (Scott's bandwidth) of places [n, 2] on the grid of x and y."""
    at = np.stack(np.meshgrid(x, y)).reshape(2, -1)
    return gaussian_kde(places.T)(at).reshape(len(y), len(x))


def _axes(points: np.ndarray, directions: int) -> np.ndarray:
    """[d, k] first principal axes."""
    if min(len(points) - 1, points.shape[1]) < directions:
        raise UnisrError(f"{len(points)} points of {points.shape[1]} coordinates have no {directions} directions; "
                         "take more queries or fewer directions")  # fmt: skip
    return np.linalg.svd(points - points.mean(0), full_matrices=False)[2][:directions].T
