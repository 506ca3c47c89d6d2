"""RQ-VAE: TIGER's semantic ids, an autoencoder with residual quantization of its latent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from vector_quantize_pytorch import ResidualVQ

from unisr.models.identifiers.autoencoder import AutoencoderConfig, first_rows, mlp, train
from unisr.models.identifiers.item_ids import ItemIds
from unisr.models.identifiers.residual_kmeans import item_ids, item_rows
from unisr.random import seed_from, torch_generator


class RQVAEConfig(AutoencoderConfig):
    """Sizes and training of an RQ-VAE; the defaults suit about 1,000 items, `PAPER` is TIGER's."""

    sizes: tuple[int, ...] = Field((64, 64, 64), min_length=1)
    """Codes per level."""
    decay: float = Field(0.9, ge=0, lt=1)
    """Of the running means that are the codes."""
    dead_below: float = Field(1.0, ge=0)
    """A code with fewer samples a batch (running mean) is put on a sample drawn at random; 0 never does so."""


PAPER = RQVAEConfig(sizes=(256, 256, 256), hidden=(512, 256, 128), epochs=20_000, batch_size=1024, learning_rate=1e-3)
"""TIGER's sizes; its Adagrad at rate 0.4 is AdamW here, as in the public reimplementations."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """Ids of a fitted model and how it got there."""

    ids: ItemIds
    errors: tuple[float, ...]
    """[T] relative error of the decoded first l codes: mean of |x - x^|² over mean of |x|²."""
    losses: tuple[float, ...]
    """Mean training loss of each epoch."""

    def report(self, **labels: str) -> pd.DataFrame:
        """`ItemIds.report` with the reconstruction errors."""
        return self.ids.report(self.errors, **labels)


class Quantized(NamedTuple):
    """latent [n, d], codes [n, T], commitment: scalar, weighted, summed over the levels and dimensions."""

    latent: Tensor
    codes: Tensor
    commitment: Tensor


class RQVAE(nn.Module):
    """z = f(x); r_0 = z, c_l = argmin_k |r_l - e_lk|, r_(l+1) = r_l - e_(l, c_l); x^ = g(sum_l e_(l, c_l)).

    Loss (Rajput et al., TIGER): |x - x^|² + sum_l (|sg(r_l) - e_l|² + .25 |r_l - sg(e_l)|²), mean over items, with a
    straight-through gradient from the sum of codes to z.

    Departures: the quantizer is vector-quantize-pytorch's, whose codes are running means of what is assigned to them
    (the minimizer of the first term of the sum, which is therefore left out) in place of gradient steps, and whose
    codes that hardly any sample takes are put on random samples of the batch.
    """

    def __init__(self, width: int, config: RQVAEConfig) -> None:
        super().__init__()
        self.encoder = mlp((width, *config.hidden, config.latent))
        self.decoder = mlp((config.latent, *config.hidden[::-1], width))
        self.quantizer = ResidualVQ(
            dim=config.latent, codebook_size=config.sizes, kmeans_init=True, kmeans_iters=50, decay=config.decay,
            threshold_ema_dead_code=config.dead_below, commitment_weight=config.commitment, rotation_trick=False,
        )  # fmt: skip

    def quantize(self, x: Tensor) -> Quantized:
        """Quantized latents of vectors [n, d_x]; in training mode codes follow the batch."""
        z = self.encoder(x)
        summed, codes, losses = self.quantizer(z[None])
        # The library passes a gradient for every level, T times the straight-through one: it is put here once.
        return Quantized(z + (summed[0] - z).detach(), codes[0], losses.sum() * z.shape[1])

    def loss(self, x: Tensor) -> Tensor:
        quantized = self.quantize(x)
        return (self.decoder(quantized.latent) - x).square().sum(1).mean() + quantized.commitment

    @torch.no_grad()
    def errors(self, x: Tensor, codes: Tensor) -> tuple[float, ...]:
        """Relative reconstruction error [T] of the first l codes [n, T] of vectors [n, d_x], each decoded alone."""
        parts = [F.embedding(c, book) for c, book in zip(codes.T, self.quantizer.codebooks, strict=True)]
        return tuple(float(F.mse_loss(self.decoder(z), x) / x.square().mean()) for z in torch.stack(parts).cumsum(0))


def fit_rqvae(vectors: np.ndarray | Tensor, config: RQVAEConfig, *, seed: int) -> Fitted:
    """Ids of item vectors [V + 1, d], row 0 of which is ignored; the same for the same arguments on a CPU.

    The codes start from k-means of at most 1,024 items, or of a batch if it is larger. Global random state is left
    alone.

    Raises:
        DataError: vectors are not finite [V + 1, d].
        ConfigError: a level has more codes than there are items.
    """
    x = item_rows(vectors, config.sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_from(seed, "rqvae"))
        model, generator = RQVAE(x.shape[1], config), torch_generator(seed, "rqvae", "batches")
        with torch.no_grad():
            model.quantize(x[first_rows(len(x), config, generator)])
        losses = train(model.parameters(), lambda rows: model.loss(x[rows]), len(x), config, generator)
        model.eval()
        with torch.no_grad():
            codes = torch.cat([model.quantize(part).codes for part in x.split(8192)])
    return Fitted(item_ids(codes, config.sizes), model.errors(x, codes), tuple(losses))
