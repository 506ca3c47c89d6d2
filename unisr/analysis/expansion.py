"""The Taylor expansion in the proof of the GenSR paper's Theorem 4.1, term by term, for the logistic loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import expit

from unisr.random import generator


def expansion(
    samples: Sequence[int], *, dimension: int = 8, repetitions: int = 20, seed: int = 0
) -> pd.DataFrame:
    """Terms of the proof's expansion for the logistic loss: 0 = gradient + Hessian Δ + remainder at the true w.

    The proof drops the gradient and keeps the remainder (Δ ≈ -H⁻¹ R). Data: labels 1 with probability sigmoid(x·w),
    |w| = 1; ŵ by Newton's method.

    Returns:
        columns samples, gradient, remainder (mean lengths), and of Δ = ŵ - w: error (mean length), kept (mean length
        of -H⁻¹ R, which the proof takes for Δ) and dropped (of -H⁻¹ gradient).
    """
    rows = []
    for n in samples:
        rng = generator(seed, "expansion", dimension, n)
        truth = np.eye(dimension)[0]
        x = rng.standard_normal((repetitions, n, dimension))
        y = (rng.random((repetitions, n)) < expit(x @ truth)).astype(float)
        slope, hessian = _logistic(x, y, np.broadcast_to(truth, (repetitions, dimension)))
        delta = _newton(x, y) - truth
        rest = -slope - (hessian @ delta[..., None])[..., 0]
        kept, dropped = (np.linalg.solve(hessian, part[..., None]) for part in (rest, slope))
        terms = {"gradient": slope, "remainder": rest, "error": delta, "kept": kept, "dropped": dropped}
        lengths = {name: float(np.linalg.norm(v.reshape(repetitions, -1), axis=1).mean()) for name, v in terms.items()}
        rows.append({"samples": n, **lengths})
    return pd.DataFrame(rows)


def _logistic(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient [R, d] and Hessian [R, d, d] of the mean logistic loss at w [R, d]."""
    p = expit((x @ w[..., None])[..., 0])
    turned, n = x.swapaxes(1, 2), x.shape[1]
    return (turned @ (p - y)[..., None])[..., 0] / n, (turned * (p * (1 - p))[:, None]) @ x / n


def _newton(x: np.ndarray, y: np.ndarray, *, steps: int = 12) -> np.ndarray:
    w = np.zeros((len(x), x.shape[2]))
    for _ in range(steps):
        slope, hessian = _logistic(x, y, w)
        w = w - np.linalg.solve(hessian, slope[..., None])[..., 0]
    return w
