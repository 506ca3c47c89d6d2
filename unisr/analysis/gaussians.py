"""Gaussian pairs, whose mutual information is known, and what the estimators read from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from unisr.analysis.mutual_information import ESTIMATORS, EstimatorSettings, as_row, over_seeds
from unisr.random import generator


def gaussian_pairs(information: float, n: int, dims: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """x and y, [n, dims] each, standard normal and correlated coordinate by coordinate, I(X; Y) = `information` nats.

    I = -dims/2 log(1 - rho²), so rho = sqrt(1 - exp(-2 I / dims)).
    """
    x, noise = generator(seed, "gaussian pairs").normal(size=(2, n, dims))
    rho = np.sqrt(-np.expm1(-2 * information / dims))
    return x, rho * x + np.sqrt(1 - rho**2) * noise


def on_gaussians(
    truths: Sequence[float], *, n: int, dims: int, seeds: Sequence[int] = (0,),
    settings: EstimatorSettings | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Every estimator on Gaussian pairs of known information: truth, estimator, value, low, high, trained_on, n."""
    rows = []
    for truth in truths:
        x, y = gaussian_pairs(truth, n, dims)
        for name in ESTIMATORS:
            found = over_seeds(x, y, name, seeds, settings=settings)
            rows.append({"truth": truth, "estimator": name, **as_row(found)})
    return pd.DataFrame(rows)
