"""What a subspace of rank r holds of the tasks' gradients, and where the tasks oppose: inside it or outside.

The training is watched as in `unisr.analysis.gradient_conflict`, with the same paired batches. A covered weight has
gradients of (rec A, rec B, src A, src B), A and B two halves of the users. Its subspace at rank r is what the GEMS
optimizer would take: the leading r singular vectors of the shared gradient on the short side (`unisr.training.gems`).
It comes from another paired batch than the gradients that are measured in it, as in a training, where a basis is used
on the batches after it: vectors of the same gradients would hold more of their noise.

With B [s, r] of orthonormal columns and gradients G [l, s] the part inside is G B, and for each pair

    <G, G'> = <G B, G' B> + <rest, rest'>,

so that Gram matrices give all: cosines and noise floors in the whole space, inside and outside, and

    energy_rec, energy_src   |inside|² / |whole|² of a task's gradient, the mean of both halves' users
    energy_own               Σ_{j<=r} σ_j² / Σ σ_j² of the shared gradient that gave the basis: what rank buys on paper

A random basis would hold r / s (column `random`). Gradients are raw: of no null space, task weight or clipping.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import torch
from pydantic import Field
from torch import Tensor, nn

from unisr.analysis.gradient_conflict import ALL, ConflictSettings, PairedBatches, paired_gradients, ratios, watch
from unisr.analysis.store import kept
from unisr.config import RunConfig
from unisr.data.batches import Batch
from unisr.data.schema import TASKS
from unisr.errors import ConfigError
from unisr.models.base import Scorer
from unisr.training.aggregation import gram
from unisr.training.bases import tall

OTHER_BATCH = 1_000_000
"""Added to a probe's number: the paired batch that its bases come from."""
SPACES = ("whole", "inside", "outside")


class SubspaceConflictSettings(ConflictSettings):
    """How a training is watched, and at which ranks."""

    probes: int = Field(8, ge=2)
    ranks: tuple[int, ...] = Field((4, 8, 16, 32, 64, 128, 256, 512), min_length=1)
    """Those above a weight's shorter side are its shorter side, the whole space."""


def subspace_conflict(
    config: RunConfig, settings: SubspaceConflictSettings, *, device: str | None = None
) -> pd.DataFrame:
    """The kept table of a run's training, watched by probes; trained by the run's config where it is not kept.

    Returns:
        one row per probe, layer (`all`: their sum), rank and space (`whole` once, at rank 0): method, seed, step,
        epoch, layer, short (s; 0 for all), rank, space, cosine, across, within, noise_rec, noise_src, norm_ratio (see
        `gradient_conflict`), energy_rec, energy_src, energy_own, random, trained_epochs, epoch_examples. NaN where a
        gradient is zero.

    Raises:
        ConfigError: the method covers no weights, is not joint, or its `losses` has no term of one of the tasks.
    """

    def measured(scorer: Scorer, batches: PairedBatches, number: int) -> pd.DataFrame:
        return measure(scorer, batches[number], batches[OTHER_BATCH + number], settings.ranks)

    return kept("subspace-conflict", settings, [config], lambda: watch(config, settings, measured, device=device))


def measure(
    scorer: Scorer, halves: tuple[Batch, Batch], other: tuple[Batch, Batch], ranks: tuple[int, ...]
) -> pd.DataFrame:
    """Rows of one probe: gradients of `halves`, bases from `other`."""
    if not scorer.covered():
        raise ConfigError(f"{scorer.card.name} covers no weights with these settings (Scorer.covered); "
                          "train it without an adapter")  # fmt: skip
    layers = {name: layer for name, layer in scorer.covered().items() if layer.weight.requires_grad}
    rows, sums = [], {}
    measured, given = _gradients(scorer, layers, halves), _gradients(scorer, layers, other)
    for (name, layer), found, source in zip(layers.items(), measured, given, strict=True):
        source = tall(sum(source) / len(source), layer.weight).double()
        # s x s and in fp64: far cheaper than the singular vectors of [l, s], and as good.
        values, vectors = torch.linalg.eigh(source.T @ source)
        energy = values.flip(0).clamp(min=0).cumsum(0)
        found = [tall(g, layer.weight).double() for g in found]
        for rank, space, matrix in _grams(found, vectors.flip(1), ranks):
            short = source.shape[1]
            own = float(energy[min(rank, short) - 1] / energy[-1]) if rank else 1.0
            sums.setdefault((rank, space), []).append((matrix, own * energy[-1].cpu(), energy[-1].cpu(), short, layer))
            rows.append({"layer": name, "short": short, "rank": rank, "space": space, "matrix": matrix,
                         "energy_own": own, "random": min(rank or short, short) / short})  # fmt: skip
    for (rank, space), parts in sums.items():
        weights = [part[4].weight.numel() for part in parts]
        random = sum(w * min(rank or part[3], part[3]) / part[3] for w, part in zip(weights, parts, strict=True))
        rows.append({"layer": ALL, "short": 0, "rank": rank, "space": space, "matrix": sum(p[0] for p in parts),
                     "energy_own": float(sum(p[1] for p in parts) / sum(p[2] for p in parts)),
                     "random": random / sum(weights)})  # fmt: skip
    return _numbers(pd.DataFrame(rows))


def _grams(found: list[Tensor], vectors: Tensor, ranks: tuple[int, ...]) -> Iterator[tuple[int, str, Tensor]]:
    """(rank, space, Gram matrix [4, 4]) of gradients [l, s] in the leading columns of `vectors` [s, s]."""
    whole = gram(found)
    yield 0, "whole", whole
    turned = [g @ vectors for g in found]
    for rank in ranks:
        inside = gram([g[:, :rank] for g in turned])
        yield rank, "inside", inside
        # Not whole - inside, which rounding leaves where nothing is outside.
        yield rank, "outside", gram([g[:, rank:] for g in turned])


def _gradients(scorer: Scorer, layers: dict[str, nn.Linear], halves: tuple[Batch, Batch]) -> list[list[Tensor]]:
    """The four gradients of each layer's weight, in the order of `VECTORS`; zeros where a term does not reach."""
    weights = [layer.weight for layer in layers.values()]
    found = paired_gradients(scorer, halves, weights)
    return [[torch.zeros_like(w) if g is None else g for g in own] for w, own in zip(weights, found, strict=True)]


def _numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """Ratios of the Gram matrices, and the share of each task's energy in the space."""
    whole = frame[frame["space"] == "whole"].set_index("layer")["matrix"]
    numbers = []
    for layer, matrix in zip(frame["layer"], frame["matrix"], strict=True):
        own, all_of_it = matrix.diagonal(), whole[layer].diagonal()
        shares = (own / all_of_it).view(2, 2).mean(1).tolist()
        numbers.append({**ratios(matrix), **{f"energy_{t}": s for t, s in zip(TASKS, shares, strict=True)}})
    about = frame.drop(columns=["matrix", "energy_own", "random"])
    joined = pd.concat([about, pd.DataFrame(numbers), frame[["energy_own", "random"]]], axis=1)
    outside = joined["space"] == "outside"
    joined.loc[outside, ["energy_own", "random"]] = 1 - joined.loc[outside, ["energy_own", "random"]]
    return joined
