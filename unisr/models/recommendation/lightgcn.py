"""LightGCN: collaborative filtering on the user-item graph; also the source of the CF table."""

from __future__ import annotations

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from unisr.config import ModelConfig, TrainConfig
from unisr.data.batches import Batch
from unisr.data.corpus import Corpus
from unisr.models.base import Scorer, Tables
from unisr.registry import Card, register


class LightGCNConfig(ModelConfig):
    width: int = Field(64, ge=1)
    layers: int = Field(2, ge=0)
    """Propagation steps; 0 is BPR matrix factorization."""
    l2: float = Field(1e-4, ge=0)
    """Coefficient of the squared norm of the batch's ego vectors."""
    std: float = Field(0.1, gt=0)
    """Standard deviation of the initial vectors."""


@register
class LightGCN(Scorer):
    """s(u, c) = x_u · x_c with x = mean_k x^(k), x^(k+1) = D^-1/2 A D^-1/2 x^(k) (He et al., Eq. 3–6).

    A holds the recommendation training events, once each, in both directions. Node u is user u and node
    U + 1 + i item i; nodes 0 and U + 1 are padding (unknown user, no item) and stay zero, so an unknown
    user scores every candidate 0.
    """

    card = Card(
        name="LightGCN",
        family="recommendation",
        tasks=("rec",),
        paper="He et al., LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation, SIGIR 2020",
        signals=("user id", "rec history"),
        loss="BPR softplus(neg - pos), uniform negatives; L2 on the batch's ego vectors",
        departures=(
            "the rec history enters as training edges only, not as the batch's history",
            "every sampled negative of a positive gives a pair (the paper: one)",
        ),
    )
    Config = LightGCNConfig
    presets = {
        "quick": (TrainConfig(epochs=20, batch_size=1024, negatives=4, learning_rate=1e-2), LightGCNConfig()),
        "small": (TrainConfig(epochs=40, batch_size=2048, negatives=1, learning_rate=1e-2, patience=10),
                  LightGCNConfig()),
        "full": (TrainConfig(epochs=400, batch_size=2048, negatives=1, learning_rate=1e-3, patience=20),
                 LightGCNConfig()),
        # As released, but for the 2 layers of GenSR's own table (released: 3) and the early stop, which is ours.
        "paper": (TrainConfig(epochs=1000, batch_size=2048, negatives=1, learning_rate=1e-3, clip_norm=None,
                              patience=50), LightGCNConfig()),
    }

    def __init__(self, config: LightGCNConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        # Imported here because it takes seconds, which every command would pay.
        from torch_geometric.nn.models import LightGCN as Propagation

        self.first_item = corpus.n_users + 1
        nodes = self.first_item + corpus.n_items + 1
        self.graph = Propagation(nodes, config.width, config.layers, normalize=False)
        torch.nn.init.normal_(self.graph.embedding.weight, std=config.std)
        with torch.no_grad():
            self.graph.embedding.weight[[0, self.first_item]] = 0.0
        self.register_buffer("adjacency", _normalized(corpus.edges, self.first_item, nodes), persistent=False)
        self._kept: tuple[tuple[int, int], Tensor] | None = None

    @property
    def history_length(self) -> tuple[int, int]:
        return (0, 0)

    def propagate(self) -> Tensor:
        """All nodes' vectors, `[U + 1 + V + 1, width]`."""
        return self.graph.get_embedding(self.adjacency)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`rec` the BPR loss per pair; `l2` = coefficient / 2 · squared norm of the batch's ego vectors / B."""
        scores = self._dot(self.propagate(), batch)
        positive = (scores * batch.labels).sum(1, keepdim=True)
        bpr = F.softplus(scores - positive)[batch.labels == 0].mean()
        nodes = torch.cat([batch.user, batch.candidates.flatten() + self.first_item]).unique()
        norm = self.graph.embedding(nodes).square().sum() / len(batch)
        return {"rec": bpr, "l2": self.config.l2 / 2 * norm}

    def score(self, batch: Batch) -> Tensor:
        return self._dot(self._propagated(), batch)

    def score_catalog(self, batch: Batch) -> Tensor:
        vectors = self._propagated()
        return vectors[batch.user] @ vectors[self.first_item + 1 :].T

    def export(self) -> dict[str, Tensor]:
        """Item vectors `[V + 1, width]` after and before propagation, user vectors `[U + 1, width]` after it.

        Row 0 of each is padding: zero.
        """
        propagated, ego = self._propagated(), self.graph.embedding.weight.detach()
        tables = {
            "item_propagated": propagated[self.first_item :],
            "item_ego": ego[self.first_item :],
            "user_propagated": propagated[: self.first_item],
        }
        return {name: table.clone() for name, table in tables.items()}

    def _dot(self, vectors: Tensor, batch: Batch) -> Tensor:
        users, items = F.embedding(batch.user, vectors), F.embedding(batch.candidates + self.first_item, vectors)
        return (items @ users.unsqueeze(-1)).squeeze(-1)

    def _propagated(self) -> Tensor:
        """The propagated table, computed once per state of the weights (torch counts in-place changes)."""
        weight = self.graph.embedding.weight
        state = (weight.data_ptr(), weight._version)
        if self._kept is None or self._kept[0] != state:
            # A tensor made in inference mode could not be used outside it, as `export` needs.
            with torch.inference_mode(False), torch.no_grad():
                self._kept = (state, self.propagate())
        return self._kept[1]


def _normalized(edges: np.ndarray, first_item: int, nodes: int) -> Tensor:
    """D^-1/2 A D^-1/2 of the bipartite graph as a sparse CSR matrix `[nodes, nodes]`; lone nodes have empty rows."""
    pairs = np.unique(edges, axis=0) + np.array([0, first_item])
    both = np.concatenate([pairs, pairs[:, ::-1]])
    degree = np.bincount(both[:, 0], minlength=nodes).astype(np.float64)
    weights = 1.0 / np.sqrt(degree[both[:, 0]] * degree[both[:, 1]])
    with warnings.catch_warnings():
        # torch calls its sparse tensors a beta feature once per process.
        warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
        graph = torch.sparse_coo_tensor(both.T.copy(), weights, (nodes, nodes), dtype=torch.float32)
        return graph.coalesce().to_sparse_csr()
