"""GenSAR's dual-purpose ids: levels shared by search and recommendation, then levels of each task's own view."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from unisr.errors import DataError
from unisr.models.identifiers.autoencoder import AutoencoderConfig, first_rows, mlp, train
from unisr.models.identifiers.collisions import separate
from unisr.models.identifiers.item_ids import ItemIds
from unisr.models.identifiers.quantizer import Quantizer
from unisr.models.identifiers.residual_kmeans import item_ids, item_rows
from unisr.random import seed_from, torch_generator

VIEWS = ("semantic", "collaborative")
TASK_OF = {"semantic": "src", "collaborative": "rec"}
Views = Mapping[str, Tensor]


class DualConfig(AutoencoderConfig):
    """Sizes and training of dual-purpose ids; the defaults suit about 1,000 items, `PAPER` is GenSAR's."""

    kind: Literal["dual", "semantic", "collaborative"] = "dual"
    """Both views, or, as ablations, one view for both tasks: all levels then quantize that view's latent."""
    codes: int = Field(64, ge=2)
    """Of every level."""
    shared_levels: int = Field(2, ge=0)
    specific_levels: int = Field(2, ge=1)
    epsilon: float = Field(0.003, ge=0)
    """Of the Sinkhorn assignment on the last level, in training and for collisions; 0 assigns the nearest code."""
    rounds: int = Field(20, ge=0)
    """Most rounds of collision handling."""
    select: Literal["collisions", "last"] = "collisions"
    """Weights used: those with the fewest collisions of nearest codes, as in the paper, or those of the last epoch.
    Where training is slow, weights that have hardly been trained may collide least: look at the report's `error`."""
    check_every: int = Field(10, ge=1)
    """Epochs between counts of collisions."""
    unit_length: bool = True
    """Scale every vector to length 1 first, so that neither view dominates the loss by its scale."""


PAPER = DualConfig(codes=256, hidden=(512, 256, 128, 64), epochs=500, warmup_epochs=50, batch_size=1024,
                   learning_rate=1e-3)  # fmt: skip
"""GenSAR's sizes and training; it scales the semantic vectors alone to length 1 (`unit_length`: both)."""


@dataclass(frozen=True, eq=False)
class DualIds:
    """Two ids per item that begin with the same codes."""

    rec: ItemIds
    """Shared + collaborative codes."""
    src: ItemIds
    """Shared + semantic codes."""
    report: pd.DataFrame
    """`ItemIds.report` per task (`ids`: rec, src) and `stage` (before and after collision handling)."""
    losses: tuple[float, ...]
    """Mean training loss of each epoch."""
    epoch: int
    """Epochs after which the weights used were taken."""


class Pass(NamedTuple):
    """What quantizing a batch gives, each by view: latents [n, d], codes [n, T], the last level's input [n, d]."""

    latents: dict[str, Tensor]
    codes: dict[str, Tensor]
    last: dict[str, Tensor]
    loss: Tensor
    """Mean of the losses of all quantizers, scalar."""


class DualAutoencoder(nn.Module):
    """z = [z_sem; z_col]; S shared levels quantize z; the residual's halves get the levels of their own view.

    z^_sem = (sum of shared codes)[:d] + sum of semantic codes, z^_col likewise with [d:]; each view has its decoder.
    Loss (Shi et al., GenSAR): MSE(x_sem, x^_sem) + MSE(x_col, x^_col) + mean over all quantizers of
    MSE(sg(r), e) + .25 MSE(r, sg(e)), means over all elements.

    Residuals are formed with the straight-through value, as in the released code: the encoders get gradients through
    the first level's commitment and the reconstructions, and none through deeper levels' commitment. With one view
    this is an RQ-VAE of S + S' levels.

    Departures: k-means starts from 1,024 items even where a batch is smaller; collision rounds end as soon as none
    changes an id; both views are scaled to length 1 (`unit_length`).
    """

    def __init__(self, widths: Mapping[str, int], config: DualConfig) -> None:
        super().__init__()
        self.names, self.config = tuple(widths), config
        self.encoders = nn.ModuleDict({n: mlp((w, *config.hidden, config.latent)) for n, w in widths.items()})
        self.decoders = nn.ModuleDict({n: mlp((config.latent, *config.hidden[::-1], w)) for n, w in widths.items()})
        self.shared = self._levels(config.shared_levels, config.latent * len(widths))
        own = {name: self._levels(config.specific_levels, config.latent) for name in widths}
        self.specific = nn.ModuleDict(own)

    def quantize(self, views: Views, *, epsilon: float = 0.0, seed: int | None = None) -> Pass:
        """Quantize vectors `{view: [n, d_x]}`; `epsilon` > 0 balances the last level of each view over the batch.

        With a seed, every level's codes are first put on the k-means centers of the residuals it is given.
        """
        z = torch.cat([self.encoders[name](views[name]) for name in self.names], dim=1)
        summed, losses, shared = torch.zeros_like(z), [], []
        residual = z
        for place, level in enumerate(self.shared):
            value, code, loss = level(residual, seed=seed_from(seed, "shared", place) if seed is not None else None)
            residual, summed = residual - value, summed + value
            losses.append(loss)
            shared.append(code)
        latents, codes, last = {}, {}, {}
        parts = zip(self.names, residual.split(self.config.latent, 1), summed.split(self.config.latent, 1), strict=True)
        for name, part, latent in parts:
            own = []
            for place, level in enumerate(self.specific[name]):
                final = place == self.config.specific_levels - 1
                if final:
                    last[name] = part.detach()
                start = seed_from(seed, name, place) if seed is not None else None
                value, code, loss = level(part, epsilon=epsilon if final else 0.0, seed=start)
                part, latent = part - value, latent + value
                losses.append(loss)
                own.append(code)
            latents[name], codes[name] = latent, torch.stack(shared + own, dim=1)
        return Pass(latents, codes, last, torch.stack(losses).mean())

    def loss(self, views: Views) -> Tensor:
        done = self.quantize(views, epsilon=self.config.epsilon)
        rebuilt = [F.mse_loss(self.decoders[name](done.latents[name]), views[name]) for name in self.names]
        return sum(rebuilt) + done.loss

    @torch.no_grad()
    def errors(self, name: str, x: Tensor, codes: Tensor) -> tuple[float, ...]:
        """Relative error [T] of a view's vectors [n, d_x] decoded from the first l codes [n, T]."""
        half = self.names.index(name) * self.config.latent
        books = [level.codes[:, half : half + self.config.latent] for level in self.shared]
        books += [level.codes for level in self.specific[name]]
        parts = torch.stack([F.embedding(c, book) for c, book in zip(codes.T, books, strict=True)])
        return tuple(float(F.mse_loss(self.decoders[name](z), x) / x.square().mean()) for z in parts.cumsum(0))

    def _levels(self, count: int, width: int) -> nn.ModuleList:
        return nn.ModuleList(
            Quantizer(self.config.codes, width, commitment=self.config.commitment) for _ in range(count)
        )


def fit_dual(
    semantic: np.ndarray | Tensor | None, collaborative: np.ndarray | Tensor | None, config: DualConfig, *, seed: int
) -> DualIds:
    """Ids of item vectors [V + 1, d_sem] and [V + 1, d_col], rows 0 of which are ignored.

    The same for the same arguments on a CPU. The view that `config.kind` leaves out may be None. Global random state
    is left alone.

    Raises:
        DataError: vectors are missing, not finite [V + 1, d], or differ in their number of items.
        ConfigError: a level has more codes than there are items, or than k-means starts from (1,024, or a batch).
    """
    views = _views({"semantic": semantic, "collaborative": collaborative}, config)
    n = len(next(iter(views.values())))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_from(seed, "dual ids"))
        model = DualAutoencoder({name: x.shape[1] for name, x in views.items()}, config)
        generator = torch_generator(seed, "dual ids", "batches")
        first = first_rows(n, config, generator)
        with torch.no_grad():
            model.quantize({name: x[first] for name, x in views.items()}, seed=seed)
        best: dict = {"rate": 2.0}

        def keep_best(epoch: int) -> None:
            if epoch != config.epochs and (epoch % config.check_every or config.select == "last"):
                return
            rates = [item_ids(codes, _sizes(config)).collision_rate() for codes in _encode(model, views).codes.values()]
            if (rate := float(np.mean(rates))) < best["rate"]:
                best.update(rate=rate, epoch=epoch, state=deepcopy(model.state_dict()))

        losses = train(model.parameters(), lambda rows: model.loss({name: x[rows] for name, x in views.items()}),
                       n, config, generator, after_epoch=keep_best)  # fmt: skip
        model.load_state_dict(best["state"])
    ids, report = _finish(model, views)
    return DualIds(ids["rec"], ids["src"], report, tuple(losses), best["epoch"])


def _finish(model: DualAutoencoder, views: Views) -> tuple[dict[str, ItemIds], pd.DataFrame]:
    """Ids of each task after collision handling, and the report on them before and after."""
    config, done = model.config, _encode(model, views)
    ids, rows = {}, []
    for name in model.names:
        codes = done.codes[name]
        apart = separate(codes, done.last[name], model.specific[name][-1].codes, epsilon=config.epsilon,
                         rounds=config.rounds)  # fmt: skip
        for task in (TASK_OF[name],) if config.kind == "dual" else ("rec", "src"):
            ids[task] = item_ids(apart, _sizes(config))
            for stage, made in (("before", codes), ("after", apart)):
                errors = model.errors(name, views[name], made)
                rows.append(item_ids(made, _sizes(config)).report(errors, ids=task, stage=stage))
    return ids, pd.concat(rows, ignore_index=True).sort_values("ids", kind="stable", ignore_index=True)


def _views(given: Mapping[str, np.ndarray | Tensor | None], config: DualConfig) -> dict[str, Tensor]:
    """The vectors `[V, d]` of the views used."""
    names = VIEWS if config.kind == "dual" else (config.kind,)
    if missing := [name for name in names if given[name] is None]:
        raise DataError(f"dual ids: kind {config.kind!r} needs {' and '.join(missing)} vectors; none were given")
    views = {name: item_rows(given[name], _sizes(config)) for name in names}
    counts = {name: len(x) for name, x in views.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"dual ids: numbers of items differ: {counts}; give both views of one catalog")
    return {name: F.normalize(x, dim=1) if config.unit_length else x for name, x in views.items()}


@torch.no_grad()
def _encode(model: DualAutoencoder, views: Views) -> Pass:
    """All items, each with the nearest codes."""
    return model.quantize(views)


def _sizes(config: DualConfig) -> tuple[int, ...]:
    return (config.codes,) * (config.shared_levels + config.specific_levels)
