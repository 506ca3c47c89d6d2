"""GenSR's dual-view user representation: two encoded histories, soft filtering, contrastive alignment.

Equations are those of Zhao et al., "Unifying Search and Recommendation with Dual-View Representation Learning
in a Generative Paradigm", 2025.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCKED = -1e9


class MultiHeadFilter(nn.Module):
    """Soft filtering by multi-head cross-attention with value projection (Eq. 7–8).

    α_j = softmax_j( (W_Q e_c)·(W_K h_j) / sqrt(d_h) ) per head, output Σ_j α_j W_V h_j, heads joined by W_O.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, candidates: Tensor, history: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """candidates [B, C, d], history [B, L, d], mask [B, L] -> filtered [B, C, d], weights [B, C, L] (head mean).

        A row without history gives zero weights and the zero history's output.
        """
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project, x in ((self.query, candidates), (self.key, history), (self.value, history))
        )
        weights = masked_softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), mask[:, None, None, :])
        return self.out((weights @ v).transpose(1, 2).flatten(2)), weights.mean(1)


class BilinearFilter(nn.Module):
    """The released code's filter: one head, a_j = softmax_j(h_j^T W e_c), output Σ_j a_j h_j, no value projection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_normal_(torch.empty(width, width)))

    def forward(self, candidates: Tensor, history: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Shapes as in `MultiHeadFilter`."""
        weights = masked_softmax(candidates @ self.weight.T @ history.transpose(1, 2), mask[:, None, :])
        return weights @ history, weights


class MeanFilter(nn.Module):
    """No soft filtering (the paper's ablation): the mean of the encoded history, the same for every candidate."""

    def forward(self, candidates: Tensor, history: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Shapes as in `MultiHeadFilter`."""
        weights = mask.to(history.dtype) / mask.sum(-1, keepdim=True).clamp(min=1)
        weights = weights[:, None, :].expand(-1, candidates.shape[1], -1)
        return weights @ history, weights


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last dimension at valid positions; rows without one are all zero."""
    return F.softmax(scores.masked_fill(~mask, BLOCKED), dim=-1) * mask.to(scores.dtype)


def contrastive_loss(cf: Tensor, semantic: Tensor, user: Tensor, *, temperature: float) -> Tensor:
    """Alignment of the two views of a batch's users, Eq. 10: cf, semantic [B, d], user [B] -> scalar.

    -1/|B| Σ_u log exp(s(C_u,S_u)/τ) / ( Σ_u' exp(s(C_u,S_u')/τ) + Σ_u' exp(s(S_u,C_u')/τ) ), s the cosine.
    Both sums run over the whole batch, u included, as printed; so the least value is ln 2. Other rows of the
    same user are no negatives ("other users in the batch"), and are left out of the sums.
    """
    similarity = F.normalize(cf, dim=-1) @ F.normalize(semantic, dim=-1).T / temperature
    same = (user[:, None] == user[None, :]) & ~torch.eye(len(user), dtype=torch.bool, device=user.device)
    similarity = similarity.masked_fill(same, BLOCKED)
    both = torch.cat([similarity, similarity.T], dim=1)
    return (both.logsumexp(1) - similarity.diagonal()).mean()


class ReleasedContrastive(nn.Module):
    """The released code's alignment: LayerNorm after L2 normalisation, so the product is not a cosine; two
    cross-entropies averaged; every other row is a negative, rows of the same user too."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_cf, self.norm_semantic = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, cf: Tensor, semantic: Tensor, *, temperature: float) -> Tensor:
        """cf, semantic [N, d] -> scalar."""
        u, v = self.norm_cf(F.normalize(cf, dim=-1)), self.norm_semantic(F.normalize(semantic, dim=-1))
        similarity = u @ v.T / temperature
        target = torch.arange(len(u), device=u.device)
        return (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2
