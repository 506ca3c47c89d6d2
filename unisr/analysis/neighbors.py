"""Local terms of mutual information from nearest neighbors; their mean is the estimate, in nats."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import digamma


def kraskov(x: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
    """[n] terms psi(k) + psi(n) - psi(n_x + 1) - psi(n_y + 1) of x [n, dx] and y [n, dy].

    Their mean is Eq. 8 of Kraskov, Stoegbauer and Grassberger 2004 (estimator 1). n_x and n_y count other points
    strictly nearer than the k-th neighbor in (x, y), in the maximum norm.
    """
    both = np.hstack([x, y])
    radius = cKDTree(both).query(both, k + 1, p=np.inf)[0][:, -1]
    return digamma(k) + digamma(len(x)) - digamma(_within(x, x, radius)) - digamma(_within(y, y, radius))


def ross(x: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """[n] terms psi(k) + psi(n) - psi(N_label) - psi(m) of x [n, dx] and labels [n]; 0 for a label's only point.

    Their mean is the estimator of Ross 2014 for a discrete variable. m counts points, itself too, strictly nearer than
    the k-th neighbor of the same label.
    """
    terms = np.zeros(len(x))
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        if len(own) < 2:
            continue
        near = min(k, len(own) - 1)
        radius = cKDTree(x[own]).query(x[own], near + 1, p=np.inf)[0][:, -1]
        count = _within(x, x[own], radius)
        terms[own] = digamma(near) + digamma(len(x)) - digamma(len(own)) - digamma(count)
    return terms


def _within(points: np.ndarray, centers: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """[n] points strictly nearer to a center than its radius in the maximum norm, the center itself among them."""
    open_radius = np.nextafter(radius, 0)
    return cKDTree(points).query_ball_point(centers, open_radius, p=np.inf, return_length=True)
