"""The shared blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unisr.errors import ConfigError
from unisr.models import layers, losses, pooling

few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 1000)


def world(seed: int, *, length: int = 7, width: int = 8) -> tuple[Tensor, Tensor]:
    """x [4, L, d] and left-padded valid [4, L] with one empty and one full row."""
    torch.manual_seed(seed)
    counts = torch.randint(0, length + 1, (4,))
    counts[0], counts[1] = 0, length
    return torch.randn(4, length, width), torch.arange(length) >= length - counts.unsqueeze(1)


@pytest.mark.parametrize("norm", ["pre", "post"])
@few
@given(seed=seeds, causal=st.booleans())
def test_encoder_is_zero_on_padding_and_finite_with_gradients(norm: layers.Norm, seed: int, causal: bool) -> None:
    x, valid = world(seed)
    encoder = layers.SequenceEncoder(8, length=7, layers=2, heads=2, norm=norm, causal=causal)
    x.requires_grad_()
    out = encoder(x, valid)
    out.square().sum().backward()
    assert (out[~valid] == 0).all() and torch.isfinite(out).all()
    assert torch.isfinite(x.grad).all() and (x.grad[~valid] == 0).all()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())


@few
@given(seed=seeds, extra=st.integers(1, 6))
def test_encoder_does_not_feel_left_padding(seed: int, extra: int) -> None:
    x, valid = world(seed)
    encoder = layers.SequenceEncoder(8, length=7, heads=2)
    longer = torch.cat([torch.randn(4, extra, 8), x], 1)
    padded = torch.cat([torch.zeros(4, extra, dtype=torch.bool), valid], 1)
    torch.testing.assert_close(encoder(longer, padded)[:, extra:], encoder(x, valid))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_last_state_alone_equals_the_last_of_all(count: int) -> None:
    x, valid = world(0)
    encoder = layers.SequenceEncoder(8, length=7, layers=count, heads=2, causal=True)
    torch.testing.assert_close(encoder(x, valid, last=True), encoder(x, valid)[:, -1:])


def test_encoder_without_positions_does_not_feel_order() -> None:
    x, _ = world(0)
    valid = torch.ones(4, 7, dtype=torch.bool)
    encoder = layers.SequenceEncoder(8, length=None, heads=2)
    order = torch.randperm(7)
    torch.testing.assert_close(encoder(x[:, order], valid), encoder(x, valid)[:, order])
    ordered = layers.SequenceEncoder(8, length=7, heads=2)
    assert not torch.allclose(ordered(x[:, order], valid), ordered(x, valid)[:, order])


def test_attention_equals_torchs_multihead_attention() -> None:
    ours, theirs = layers.Attention(8, 2), nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.memory.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.memory.bias]))
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    x, valid = world(3)
    expected, _ = theirs(x[1:], x[1:], x[1:], key_padding_mask=~valid[1:])
    some = valid[1:].any(1)
    found = ours(x[1:], x[1:], valid[1:].unsqueeze(1))
    torch.testing.assert_close(found[some], expected[some])


def test_attention_to_nothing_is_zero() -> None:
    x, _ = world(0)
    nothing = torch.zeros(4, 7, 7, dtype=torch.bool)
    assert (layers.Attention(8, 2)(x, x, nothing) == 0).all()


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="width 8 is not a multiple of heads 3"):
        layers.Attention(8, 3)


@few
@given(seed=seeds)
def test_target_attention_equals_the_sum_over_events(seed: int) -> None:
    history, valid = world(seed)
    candidates = torch.randn(4, 5, 8)
    pool = pooling.TargetAttention(8)
    found = pool(history, valid, candidates)
    assert (found[~valid.any(1)] == 0).all()
    for row in valid.any(1).nonzero().flatten():
        events = history[row, valid[row]]
        for c in range(5):
            weights = (events @ pool.map.weight.T @ candidates[row, c]).softmax(0)
            torch.testing.assert_close(found[row, c], weights @ events)


def test_query_encoder_means_words_and_gives_zero_for_query_zero() -> None:
    words = np.array([[0, 0, 0], [1, 2, 0], [3, 0, 0]])
    encoder = layers.QueryEncoder(words, 3, 4, 6)
    nn.init.normal_(encoder.map.bias)
    found = encoder(torch.tensor([[0, 1], [2, 1]]))
    table = encoder.table.weight
    torch.testing.assert_close(found[0, 1], torch.tanh(encoder.map((table[1] + table[2]) / 2)))
    torch.testing.assert_close(found[1, 0], torch.tanh(encoder.map(table[3])))
    assert (found[0, 0] == 0).all() and torch.equal(found[0, 1], found[1, 1])


def test_padding_rows_stay_zero_through_xavier() -> None:
    model = nn.ModuleList([layers.Feature(5, 4, 3), layers.embedding(5, 4)])
    layers.xavier_(model)
    assert (model[0].table.weight[0] == 0).all() and (model[1].weight[0] == 0).all()
    assert (model[0](torch.tensor([0])) == 0).all()


def test_ple_is_the_gated_sum_of_its_experts() -> None:
    ple = layers.PLE(6, 4, experts=3)
    x = torch.randn(5, 6)
    for task in (0, 1):
        outputs = torch.cat([ple.shared(x), ple.own[task](x)], 1).relu().view(5, 6, 4)
        gates = ple.gates[task](x).softmax(1)
        torch.testing.assert_close(ple(x, task), torch.einsum("ne,new->nw", gates, outputs))
    assert not torch.allclose(ple(x, 0), ple(x, 1))


def test_task_bce_means_over_the_rows_of_each_task() -> None:
    scores, labels = torch.randn(3, 2), torch.eye(3)[:, :2]
    task = torch.tensor([1, 2, 1])
    terms = losses.task_bce(scores, labels, task)
    expected = nn.functional.binary_cross_entropy_with_logits(scores[[0, 2]], labels[[0, 2]])
    torch.testing.assert_close(terms["rec"], expected)
    assert set(losses.task_bce(scores, labels, torch.full((3,), 2))) == {"src"}


def test_info_nce_equals_cross_entropy_and_leaves_hits_out() -> None:
    positive, negatives = torch.randn(4), torch.randn(4, 6)
    none = torch.zeros(4, 6, dtype=torch.bool)
    weights = torch.full((4,), 0.25)
    logits = torch.cat([positive[:, None], negatives], 1)
    expected = nn.functional.cross_entropy(logits, torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(losses.info_nce(positive, negatives, hits=none, weights=weights), expected)
    hits = none.clone()
    hits[:, 2:] = True
    shorter = nn.functional.cross_entropy(logits[:, :3], torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(losses.info_nce(positive, negatives, hits=hits, weights=weights), shorter)


def test_nt_xent_finds_the_other_view_of_the_row() -> None:
    similarity = losses.Similarity(4, 0.1)
    a, b = torch.randn(3, 4), torch.randn(3, 4)
    views = torch.cat([a, b])
    terms = []
    for i in range(6):
        others = [j for j in range(6) if j != i]
        logits = similarity(views[[i]], views[others])[0]
        terms.append(-logits.log_softmax(0)[others.index((i + 3) % 6)])
    torch.testing.assert_close(losses.nt_xent(similarity, a, b), torch.stack(terms).mean())
    assert losses.nt_xent(similarity, a[:1], b[:1]) == 0


def test_similarity_is_capped_by_its_temperature() -> None:
    similarity = losses.Similarity(4, 0.2)
    x, y = 100 * torch.randn(5, 4), 100 * torch.randn(6, 4)
    assert similarity(x, y).abs().max() <= 5.0 + 1e-4
    torch.testing.assert_close(similarity.paired(x, y[:5]), similarity(x, y[:5]).diagonal())


@few
@given(seed=seeds, length=st.integers(1, 9))
def test_last_columns_are_the_last_chosen_in_order(seed: int, length: int) -> None:
    torch.manual_seed(seed)
    chosen = torch.rand(4, 7) < 0.5
    index, valid = pooling.last_columns(chosen, length)
    assert index.shape == (4, min(length, 7))
    for row in range(4):
        expected = chosen[row].nonzero().flatten().tolist()[-length:]
        assert index[row, valid[row]].tolist() == expected
        assert valid[row].tolist() == sorted(valid[row].tolist())
