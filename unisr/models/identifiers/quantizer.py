"""One level of residual quantization whose codes are learned by gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unisr.models.identifiers.residual_kmeans import kmeans_centers
from unisr.models.identifiers.sinkhorn import sinkhorn


class Quantizer(nn.Module):
    """K codes of d dimensions, zero until `start` puts them on k-means centers."""

    def __init__(self, size: int, width: int, *, commitment: float = 0.25) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.zeros(size, width))
        self.commitment = commitment

    @torch.no_grad()
    def start(self, x: Tensor, *, seed: int) -> None:
        """Put the codes on the k-means centers of samples [n, d], n >= K."""
        self.codes.copy_(kmeans_centers(x, len(self.codes), seed=seed))

    @torch.no_grad()
    def assign(self, x: Tensor, *, epsilon: float = 0.0) -> Tensor:
        """Code [n] of each sample [n, d]: the nearest, or with epsilon > 0 the likeliest of the balanced assignment."""
        distances = torch.cdist(x, self.codes).square()
        return sinkhorn(distances, epsilon=epsilon).argmax(-1) if epsilon else distances.argmin(-1)

    def forward(self, x: Tensor, *, epsilon: float = 0.0, seed: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Straight-through codes x + sg(e - x) [n, d], their numbers [n] and the loss, of samples [n, d].

        Loss: MSE(sg(x), e) + commitment · MSE(x, sg(e)), means over elements. With a seed, `start` comes first.
        """
        if seed is not None:
            self.start(x, seed=seed)
        number = self.assign(x, epsilon=epsilon)
        code = F.embedding(number, self.codes)
        loss = F.mse_loss(code, x.detach()) + self.commitment * F.mse_loss(x, code.detach())
        return x + (code - x).detach(), number, loss
