"""LightGCN."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.contract import ScorerContract, Setting
from unisr.data.corpus import Corpus
from unisr.data.schema import Dataset
from unisr.models.base import build
from unisr.models.recommendation import LightGCN, LightGCNConfig


class TestLightGCN(ScorerContract):
    method = "LightGCN"
    not_in_batch = {"rec history": "enters as training edges when the method is built"}


@pytest.fixture(scope="module")
def corpus(world: Dataset) -> Corpus:
    return Corpus.of(world)


def made(corpus: Corpus, **config: float) -> LightGCN:
    return build(LightGCN, LightGCNConfig(**config), corpus, seed=0).eval()


def test_adjacency_is_symmetrically_normalized(corpus: Corpus) -> None:
    graph = made(corpus)
    dense = graph.adjacency.to_dense()
    assert torch.equal(dense, dense.T)
    pairs = np.unique(corpus.edges, axis=0)
    degree = np.bincount(pairs[:, 0]), np.bincount(pairs[:, 1])
    user, item = pairs[7]
    weight = 1 / np.sqrt(degree[0][user] * degree[1][item])
    assert dense[user, graph.first_item + item].item() == pytest.approx(weight)
    assert torch.count_nonzero(dense) == 2 * len(pairs)


def test_a_pair_of_degree_one_has_weight_one_and_repeats_count_once(corpus: Corpus) -> None:
    edges = np.array([[1, 1], [1, 1], [2, 3], [2, 4]])
    graph = made(replace(corpus, edges=edges))
    dense = graph.adjacency.to_dense()
    assert dense[1, graph.first_item + 1] == 1
    assert dense[2, graph.first_item + 3].item() == pytest.approx(2**-0.5)


def test_propagation_is_the_mean_over_layers(corpus: Corpus) -> None:
    graph = made(corpus, layers=2)
    dense, ego = graph.adjacency.to_dense(), graph.graph.embedding.weight
    torch.testing.assert_close(graph.propagate(), (ego + dense @ ego + dense @ dense @ ego) / 3)


def test_without_layers_it_is_matrix_factorization(world: Dataset, corpus: Corpus) -> None:
    graph = made(corpus, layers=0)
    setting = Setting(world, LightGCN)
    batch = setting.batch(graph)
    users = graph.graph.embedding.weight[batch.user]
    items = graph.graph.embedding.weight[batch.candidates + graph.first_item]
    torch.testing.assert_close(graph.score(batch), (users.unsqueeze(1) * items).sum(-1))


def test_users_and_items_without_edges_keep_their_scaled_ego_vectors(corpus: Corpus) -> None:
    graph = made(replace(corpus, edges=corpus.edges[corpus.edges[:, 0] > 1]), layers=2)
    torch.testing.assert_close(graph.propagate()[1], graph.graph.embedding.weight[1] / 3)
    assert graph.graph.embedding.weight[1].abs().sum() > 0


def test_export_has_zero_padding_and_follows_the_weights(corpus: Corpus) -> None:
    graph = made(corpus)
    tables = graph.export()
    assert tables["item_propagated"].shape == tables["item_ego"].shape == (corpus.n_items + 1, 64)
    assert not tables["item_propagated"][0].any() and not tables["item_ego"][0].any()
    with torch.no_grad():
        graph.graph.embedding.weight.mul_(2)
    assert torch.equal(graph.export()["item_propagated"], 2 * tables["item_propagated"])


def test_export_can_be_used_outside_inference_mode(world: Dataset, corpus: Corpus) -> None:
    graph = made(corpus)
    with torch.inference_mode():
        graph.score(Setting(world, LightGCN).batch(graph))
    assert not graph.export()["item_propagated"].is_inference()


def test_loss_is_bpr_and_the_norm_of_the_ego_vectors(world: Dataset, corpus: Corpus) -> None:
    graph = made(corpus, l2=0.5)
    batch = Setting(world, LightGCN).training_batch(graph, 6)
    found, terms = graph.score(batch), graph.losses(batch)
    positive = found[batch.labels > 0]
    pairs = [torch.log1p(torch.exp(n - p)) for p, row, y in zip(positive, found, batch.labels, strict=True)
             for n in row[y == 0]]
    torch.testing.assert_close(terms["rec"], torch.stack(pairs).mean())
    nodes = {*batch.user.tolist(), *(batch.candidates.flatten() + graph.first_item).tolist()}
    norm = sum(graph.graph.embedding.weight[n].square().sum() for n in nodes)
    torch.testing.assert_close(terms["l2"], 0.25 * norm / 6)
