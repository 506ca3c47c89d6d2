"""Decoding over the trie against transformers' own pass, its `generate`, and a beam search in plain Python."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unisr.benchmarks import decoding
from unisr.benchmarks.decoding import CodeT5, World, generate, nested
from unisr.models.tree_decoder import beam_search, score_candidates, score_catalog
from unisr.models.trie import Trie

WORDS, END = 11, 4
SMALL = dict(d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=3)


def build(ids: list[tuple[int, ...]], sizes: tuple[int, ...], *, rows: int = 3) -> World:
    """A small random T5 in double precision, the ids of items 1 … V, and histories of three lengths."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = CodeT5(sizes=sizes, words=WORDS, **SMALL)
        model.model.double()
        words = torch.randint(1, WORDS, (rows, 6))
        # Larger vectors: the paths must differ in probability for an order to say something.
        torch.nn.init.normal_(model.model.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight)
        model.model.lm_head.weight.data.mul_(2)
    length = len(sizes)
    codes = torch.tensor([[-1] * length, *([*one, *[-1] * (length - len(one))] for one in ids)])
    mask = (torch.arange(6) < torch.tensor([[6], [3], [5]])[:rows]).long()
    return World(model, Trie(codes), codes, words, mask, torch.arange(1, len(codes)).expand(rows, -1))


@pytest.fixture(scope="module")
def fixed() -> World:
    """60 ids of three codes; some items share one, one has none."""
    table = torch.randint(0, 5, (60, 3), generator=torch.Generator().manual_seed(0)) % torch.tensor([4, 5, 3])
    ids = [tuple(row) for row in table.tolist()]
    ids[10] = ids[20] = ids[30]
    ids[40] = ()
    return build(ids, (4, 5, 3))


@pytest.fixture(scope="module")
def ended() -> World:
    """Ids of one to three words and an end code, as textual ids are; one vocabulary for all places."""
    g = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 4, (25,), generator=g).tolist()
    ids = [(*torch.randint(0, END, (length,), generator=g).tolist(), END) for length in lengths]
    return build(ids, (END + 1,) * 4)


@pytest.fixture(params=["fixed", "ended"])
def world(request: pytest.FixtureRequest) -> World:
    return request.getfixturevalue(request.param)


def forced(world: World, row: int, item: int) -> float:
    """log p of one item's id by transformers' forward over the id alone, without padding."""
    codes = world.codes[item][world.codes[item] >= 0]
    tokens = codes + torch.tensor([first for first, _ in world.model.levels[: len(codes)]])
    words = world.words[row : row + 1, world.mask[row] > 0]
    shifted = torch.cat([torch.zeros(1, dtype=torch.long), tokens[:-1]])
    logits = world.model.model(input_ids=words, decoder_input_ids=shifted[None]).logits[0]
    total = 0.0
    for level, code in enumerate(codes.tolist()):
        first, size = world.model.levels[level]
        total += float(logits[level, first : first + size].log_softmax(-1)[code])
    return total


def forced_table(world: World) -> Tensor:
    """forced() for all rows and items with an id, -inf for the others, [B, V]."""
    items = range(1, world.trie.n_items + 1)
    has = world.codes[:, 0] >= 0
    table = [[forced(world, row, item) if has[item] else -torch.inf for item in items] for row in range(3)]
    return torch.tensor(table, dtype=torch.float32)


def slow_beams(world: World, row: int, width: int) -> list[tuple[float, tuple[int, ...]]]:
    """Best ids of a beam search on lists: complete ids keep their place in the beam."""
    ids = [tuple(code for code in one if code >= 0) for one in world.codes[1:].tolist() if one[0] >= 0]
    beam: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    states = world.states()[row : row + 1]
    for level in range(world.trie.n_levels):
        grown = []
        for score, prefix in beam:
            if prefix in ids:
                grown.append((score, prefix))
                continue
            path = zip(prefix, world.model.levels, strict=False)
            written = torch.tensor([[0, *(code + first for code, (first, _) in path)]])
            logits = world.model.model(
                encoder_outputs=(states,), attention_mask=world.mask[row : row + 1], decoder_input_ids=written
            ).logits[0, -1]
            first, size = world.model.levels[level]
            log_p = logits[first : first + size].log_softmax(-1)
            for code in {one[level] for one in ids if one[:level] == prefix and len(one) > level}:
                grown.append((score + float(log_p[code]), (*prefix, code)))
        beam = sorted(grown, reverse=True)[:width]
    return beam


def tree(world: World) -> tuple[CodeT5, Trie, Tensor, Tensor]:
    return world.model, world.trie, world.states(), world.mask


@torch.no_grad()
def test_scores_are_those_of_transformers_one_candidate_at_a_time(world: World) -> None:
    expected = forced_table(world)
    found = score_candidates(*tree(world), world.candidates)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(score_catalog(*tree(world)), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_score_depends_on_no_other_candidate(world: World) -> None:
    candidates = torch.tensor([[3, 7, 7, 12, 0], [12, 3, 1, 2, 25], [5, 25, 24, 3, 1]])
    found = score_candidates(*tree(world), candidates)
    whole = torch.cat([torch.full((3, 1), -torch.inf), score_candidates(*tree(world), world.candidates)], dim=1)
    torch.testing.assert_close(found, whole.gather(1, candidates), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("cells", [1, 20, 150])
def test_chunks_of_any_size_give_the_same(world: World, cells: int) -> None:
    expected = score_catalog(*tree(world))
    torch.testing.assert_close(score_catalog(*tree(world), cells=cells), expected, rtol=0, atol=1e-5)
    found = score_candidates(*tree(world), world.candidates, cells=cells)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    for one, other in zip(
        beam_search(*tree(world), k=7, width=5, cells=cells), beam_search(*tree(world), k=7, width=5), strict=True
    ):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def test_padded_encoder_states_change_nothing(world: World) -> None:
    model, trie, states, mask = tree(world)
    noise = torch.where(mask[..., None] > 0, states, 50.0)
    noise = torch.cat([noise, torch.full_like(states[:, :2], -30.0)], dim=1)
    longer = torch.nn.functional.pad(mask, (0, 2))
    torch.testing.assert_close(score_catalog(model, trie, noise, longer), score_catalog(model, trie, states, mask))


@torch.no_grad()
def test_probabilities_sum_to_one_on_a_complete_trie_and_to_less_elsewhere(fixed: World) -> None:
    complete = build([(a, b, c) for a in range(4) for b in range(5) for c in range(3)], (4, 5, 3))
    torch.testing.assert_close(score_catalog(*tree(complete)).exp().sum(1), torch.ones(3))
    leaves = fixed.trie.leaf[1:]
    first = torch.tensor([leaf >= 0 and leaf not in leaves[:place] for place, leaf in enumerate(leaves)])
    total = score_catalog(*tree(fixed))[:, first].exp().sum(1)
    assert first.sum() < 59 and (total < 1).all() and (total > 0).all()


@torch.no_grad()
def test_a_beam_as_wide_as_the_catalog_returns_every_item_once_in_exact_order(world: World) -> None:
    count = int((world.trie.leaf >= 0).sum())
    expected = forced_table(world)
    items, scores = beam_search(*tree(world), k=count + 3, width=count)
    assert (items[:, count:] == 0).all() and (scores[:, count:] == -torch.inf).all()
    assert items[:, :count].sort().values.tolist() == [world.trie.items.sort().values.tolist()] * 3
    torch.testing.assert_close(scores[:, :count], expected.gather(1, items[:, :count] - 1), rtol=0, atol=1e-5)
    assert (scores[:, 1:count] <= scores[:, : count - 1]).all()
    for row in range(3):
        # Equal ids stand together, by item number.
        ids = [tuple(world.codes[item].tolist()) for item in items[row, :count].tolist()]
        for place in range(1, count):
            if ids[place] == ids[place - 1]:
                assert items[row, place] > items[row, place - 1]
            else:
                assert ids[place] not in ids[:place]


@torch.no_grad()
@pytest.mark.parametrize("width", [1, 2, 3, 6])
def test_narrow_beams_are_those_of_a_search_on_lists(world: World, width: int) -> None:
    items, scores = beam_search(*tree(world), k=30, width=width)
    assert (items > 0).equal(scores > -torch.inf)
    for row in range(3):
        expected = []
        for score, one in slow_beams(world, row, width):
            padded = [*one, *[-1] * (world.trie.n_levels - len(one))]
            expected += [(item, score) for item in range(1, len(world.codes)) if world.codes[item].tolist() == padded]
        kept = items[row] > 0
        assert items[row, kept].tolist() == [item for item, _ in expected]
        torch.testing.assert_close(scores[row, kept], torch.tensor([score for _, score in expected]))


@torch.no_grad()
@settings(max_examples=25, deadline=None)
@given(k=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 10**6))
def test_only_items_come_out_each_once(k: int, width: int, seed: int) -> None:
    ids = torch.randint(0, 3, (8, 3), generator=torch.Generator().manual_seed(seed)).tolist()
    world = build([tuple(one) for one in ids], (3, 3, 3))
    items, scores = beam_search(*tree(world), k=k, width=width)
    assert items.shape == scores.shape == (3, k)
    exact = score_catalog(*tree(world))
    for row in range(3):
        given_items = [item for item in items[row].tolist() if item]
        assert 0 < len(given_items) == len(set(given_items)) and set(given_items) <= set(range(1, 9))
        torch.testing.assert_close(scores[row, : len(given_items)], exact[row, items[row, : len(given_items)] - 1])


@torch.no_grad()
def test_lists_are_those_of_generate_under_a_prefix_function(fixed: World) -> None:
    ids = [one for one in fixed.codes[1:].tolist() if one[0] >= 0]
    tries = [nested(fixed.model.tokens(torch.tensor(ids)).tolist())] * 3
    theirs, their_scores = generate(fixed, tries, beams=4, level_softmax=True)
    items, scores = beam_search(*tree(fixed), k=60, width=4)
    for row in range(3):
        found = dict(zip(items[row].tolist(), scores[row].tolist(), strict=True))
        by_id = {tuple(fixed.model.tokens(fixed.codes[item]).tolist()): score for item, score in found.items() if item}
        expected = dict(zip(map(tuple, theirs[row].tolist()), their_scores[row].tolist(), strict=True))
        assert list(by_id) == list(expected)
        assert list(by_id.values()) == pytest.approx(list(expected.values()), abs=1e-4)


def test_the_benchmark_s_paths_agree_and_its_check_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CODES": 8, "LEVELS": 3, "CANDIDATES": 10, "BEAMS": 4, "HISTORY": 6}.items():
        monkeypatch.setattr(decoding, name, value)
    monkeypatch.setitem(decoding.SHAPES, "small", SMALL)
    world = decoding.build("small", words=20, items=40, users=2)
    found = decoding.check_equal(world)
    assert set(found) == set(decoding.paths(world)) and 0 < found["candidates"] <= 1
    for theirs, ours in decoding.paths(world).values():
        assert len(theirs()[0]) == 2 and ours() is not None
    scored = score_candidates
    monkeypatch.setattr(decoding, "score_candidates", lambda *given: scored(*given) + given[-1] / 1000)
    with pytest.raises(AssertionError):
        decoding.check_equal(world)


@torch.no_grad()
def test_gradients_of_a_score_reach_every_weight(fixed: World) -> None:
    with torch.enable_grad():
        fixed.model.model.zero_grad()
        score_candidates(*tree(fixed), torch.tensor([[1, 2], [3, 4], [5, 6]])).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in fixed.model.model.parameters())
