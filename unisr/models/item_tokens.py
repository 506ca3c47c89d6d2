"""Atomic item tokens: a language model answers with one token per item."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unisr.models.backbone import Backbone
from unisr.models.base import Scorer


class ItemTokens(Scorer):
    """s_c = e_c · h / (sqrt(d) σ) + b_c, h the state of the backbone's first answer position.

    σ is the spread of the backbone's own token vectors, so that logits start at the same scale whatever the backbone.
    """

    backbone: Backbone

    def add_item_tokens(self, *, noise: float) -> None:
        """Item vectors [V + 1, d] at the mean token vector, plus noise of the share `noise` of the tokens' spread."""
        known = self.backbone.embedding.weight.detach()
        self.items = nn.Embedding(self.corpus.n_items + 1, self.backbone.width, padding_idx=0)
        self.register_buffer("spread", known.std(0).mean())
        with torch.no_grad():
            drawn = noise * self.spread * torch.randn(self.items.weight.shape)
            self.items.weight.copy_(known.mean(0) + drawn)
            self.items.weight[0].zero_()
        self.bias = nn.Parameter(torch.zeros(self.corpus.n_items + 1))
        head = self.backbone.model.get_output_embeddings()
        if head.weight is not self.backbone.embedding.weight:
            # Words are never answers: an untied head has nothing to learn.
            head.requires_grad_(False)

    def logits(self, states: Tensor, items: Tensor) -> Tensor:
        """fp32 logits of items [B, C] under states [B, d], `[B, C]`."""
        scale = self.backbone.width**-0.5 / self.spread
        return (self.items(items) @ states.unsqueeze(-1)).squeeze(-1).float() * scale + self.bias[items]

    def catalog_logits(self, states: Tensor) -> Tensor:
        """fp32 logits of all items 1…V under states [B, d], `[B, V]`."""
        scale = self.backbone.width**-0.5 / self.spread
        return (states @ self.items.weight[1:].T).float() * scale + self.bias[1:]
