"""Gradient aggregation: one update direction from the gradients of both tasks (`TrainConfig.aggregator`).

With g1, g2 the gradients of the terms `rec` and `src` over the shared parameters, those that both terms reach at this
step, the update is w1 g1 + w2 g2. All weights come from torchjd and from the Gram matrix G (G_ij = g_i · g_j) alone:

    pcgrad  g_i minus its projection on the other where G_12 < 0, summed (Yu et al., NeurIPS 2020)
    cagrad  g0 + (c |g0| / |g_w|) g_w, g0 the mean, c = .5, without rescaling (Liu et al., NeurIPS 2021)
    mgda    the shortest vector between g1 and g2 (Sener and Koltun, NeurIPS 2018), gradients not normalized
    nash    w > 0 with G w = 1 / w, without the cap on the norm (Navon et al., ICML 2022)

Scale: pcgrad sums, cagrad and mgda average, nash adds unit vectors times a constant. Each result is brought to the
norm of g1 + g2, so that they differ in direction alone and share the learning rate and the clipping of `sum`. Given up
is the short step that MGDA and PCGrad make where tasks oppose; a result that vanishes stays as it is.

Parameters of one task get its gradient, other terms (contrastive, …) are added as they are; clipping and decoupled
decay come after. Loss weights inside the terms hold; the direction of Nash alone does not depend on them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from unisr.config import TrainConfig
from unisr.data.schema import TASKS
from unisr.errors import ConfigError
from unisr.models.base import Scorer

CAGRAD_RADIUS = 0.5
"""c of CAGrad, LibMTL's default."""
VANISHED = 1e-6
"""A result shorter than this share of |g1| + |g2| is not brought to any norm."""


def task_gradients(losses: dict[str, Tensor], parameters: Sequence[Tensor]) -> dict[str, list[Tensor | None]]:
    """Gradients of the terms `rec` and `src`, as far as they are there; None where a term does not reach."""
    terms = {task: losses[task] for task in TASKS if task in losses and losses[task].requires_grad}
    last = list(terms)[-1:]
    return {
        task: list(torch.autograd.grad(term, parameters, retain_graph=[task] != last, allow_unused=True))
        for task, term in terms.items()
    }


def gram(vectors: Sequence[Tensor | None]) -> Tensor:
    """[k, k] inner products of k tensors of one shape, fp64 on CPU; None counts as zero, and all None give zeros."""
    some = next((v for v in vectors if v is not None), torch.zeros(1))
    flat = torch.stack([torch.zeros_like(some) if v is None else v for v in vectors]).reshape(len(vectors), -1).double()
    return (flat @ flat.T).cpu()


class Weights:
    """Weights [2] of two gradients from their Gram matrix [2, 2] (fp64).

    A task without gradient, or numbers that are not finite, give (1, 1): the plain sum. Nash-MTL starts its solver at
    the weights of the step before; `reset` forgets them. Torch's generator is left as it was.

    >>> opposed = torch.tensor([[1.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)
    >>> Weights("pcgrad")(opposed).tolist()  # each gives up what opposes the other: 1 - cos
    [1.5, 1.5]
    """

    def __init__(self, aggregator: str) -> None:
        from torchjd import aggregation

        self._nash = aggregator == "nash"
        self._weighting = {
            "pcgrad": aggregation.PCGradWeighting,
            "cagrad": lambda: aggregation.CAGradWeighting(c=CAGRAD_RADIUS),
            "mgda": aggregation.MGDAWeighting,
            "nash": lambda: aggregation.NashMTL(n_tasks=2, max_norm=0.0).weighting,
        }[aggregator]()

    def __call__(self, matrix: Tensor) -> Tensor:
        plain = matrix.new_ones(2)
        if not matrix.isfinite().all() or matrix.diagonal().min() <= 0:
            return plain
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # cvxpy warns that the problem is not of the kind it compiles once.
            warnings.simplefilter("ignore")
            weights = self._bargained(matrix) if self._nash else self._weighting(matrix)
        return weights if weights.isfinite().all() else plain

    def _bargained(self, matrix: Tensor) -> Tensor:
        """Nash-MTL of the unit gradients, divided by the norms: the same solution, for it does not know scales, but
        the solver fails silently where norms differ a hundredfold."""
        norms = matrix.diagonal().sqrt()
        return self._weighting(_root(matrix / (norms[:, None] * norms))) / norms

    def reset(self) -> None:
        """Forget earlier steps."""
        if self._nash:
            self._weighting.reset()


def _root(matrix: Tensor) -> Tensor:
    """R [2, 2] with R R^T = `matrix`: two vectors of the plane with the lengths and the angle of the gradients."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt()


def rescaled(weights: Tensor, matrix: Tensor) -> Tensor:
    """`weights` [2] times what brings the norm of w1 g1 + w2 g2 to that of g1 + g2; as they are where it vanishes."""
    norm, plain = (float((w @ matrix @ w).clamp(min=0).sqrt()) for w in (weights, torch.ones_like(weights)))
    vanished = norm <= VANISHED * float(matrix.diagonal().sqrt().sum())
    return weights if vanished else weights * (plain / norm)


class Aggregation:
    """Collects the gradients of an optimizer step batch by batch and writes the aggregated ones into `.grad`.

    Raises:
        ConfigError: the method is not joint, the run trains one task, or several processes train together.
    """

    def __init__(self, scorer: Scorer, config: TrainConfig, *, processes: int = 1) -> None:
        tasks = set(config.tasks or scorer.card.tasks)
        if tasks != set(TASKS) or scorer.feeds_on != "examples":
            raise ConfigError(f"training.aggregator={config.aggregator!r} needs both tasks in one batch, "
                              f"{scorer.card.name} is trained on {', '.join(sorted(tasks))}; use 'sum'")  # fmt: skip
        if processes > 1:
            raise ConfigError(f"training.aggregator={config.aggregator!r} works in one process, there are {processes}; "
                              "use 'sum', or start without accelerate launch")  # fmt: skip
        self.weights = Weights(config.aggregator)
        self.parameters = [p for p in scorer.parameters() if p.requires_grad]
        self._sums: dict[str, list[Tensor | None]] = {}

    def start_epoch(self) -> None:
        """Forget the solver's state, which no checkpoint holds: a resumed training goes on as an undisturbed one."""
        self.weights.reset()

    def add(self, losses: dict[str, Tensor], *, share: float) -> None:
        """Take the gradients of a batch's terms times `share`; those of other terms go straight into `.grad`."""
        others = [term for name, term in losses.items() if name not in TASKS and term.requires_grad]
        if others:
            (sum(others) * share).backward(retain_graph=True)
        scaled = {task: losses[task] * share for task in TASKS if task in losses}
        for task, found in task_gradients(scaled, self.parameters).items():
            before = self._sums.get(task, [None] * len(found))
            self._sums[task] = [_plus(a, b) for a, b in zip(before, found, strict=True)]

    def apply(self) -> None:
        """Add the aggregate of what was taken to `.grad`."""
        nothing = [None] * len(self.parameters)
        pairs = list(zip(*(self._sums.get(task, nothing) for task in TASKS), strict=True))
        grams = [gram(pair) for pair in pairs]
        shared = [bool(matrix.diagonal().min() > 0) for matrix in grams]
        if any(shared):
            matrix = sum(m for m, both in zip(grams, shared, strict=True) if both)
            first, second = rescaled(self.weights(matrix), matrix).tolist()
        for parameter, pair, both in zip(self.parameters, pairs, shared, strict=True):
            total = first * pair[0] + second * pair[1] if both else _plus(*pair)
            parameter.grad = _plus(parameter.grad, total)
        self._sums = {}


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b
