"""IDGenRec: its ids, and that its scores are the probabilities its decoder gives."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract import ScorerContract, Setting
from unisr.data.schema import Dataset
from unisr.models.base import build
from unisr.models.recommendation import IDGenRec, IDGenRecConfig
from unisr.models.textual_ids import id_tokens, textual_ids

WORDS = st.lists(st.sampled_from(["war", "love", "1997", "drama", "space", "the"]), max_size=6).map(" ".join)


class TestIDGenRec(ScorerContract):
    method = "IDGenRec"
    overfit_steps = 120
    overfit_rate = 3e-3
    draws_targets = True


@pytest.fixture(scope="module")
def setting(world: Dataset) -> Setting:
    return Setting(world, IDGenRec)


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(WORDS, min_size=1, max_size=40))
def test_ids_are_unique_words_of_the_text_and_never_begin_another_once_ended(texts: list[str]) -> None:
    ids = textual_ids(["", *texts])
    assert ids[0] == () and len(set(ids)) == len(ids) and all(ids[1:])
    for text, words in zip(texts, ids[1:], strict=True):
        assert all(word in text.split() or word.isdigit() or not text for word in words)
    ended = [(*words, "</s>") for words in ids[1:]]
    assert not any(a != b and b[: len(a)] == a for a in ended for b in ended)
    assert textual_ids(["", *texts]) == ids


def test_rare_words_are_taken_first_in_the_order_of_the_text() -> None:
    common = [f"film drama comedy thriller {number}" for number in range(20)]
    ids = textual_ids(["", *common, "film zulu drama yankee comedy xray"])
    assert ids[-1] == ("zulu", "yankee", "xray")


def test_equal_and_empty_texts_are_told_apart_by_a_running_number() -> None:
    ids = textual_ids(["", "red car", "red car", "red car", "red car", "", ""], least=2)
    numbered = [("red", "car", number) for number in "234"]
    assert ids[1:] == [("red", "car"), *numbered, ("item", "2"), ("item", "3")]


def test_tokens_end_every_id_and_pad_the_rest() -> None:
    vocabulary = {"<pad>": 0, "</s>": 1}
    table = id_tokens([(), ("a", "b"), ("b",)], vocabulary, end=1)
    assert table.tolist() == [[0, 0, 0], [2, 3, 1], [3, 1, 0]]


@pytest.mark.parametrize("encoder", ["causal", "bidirectional"])
def test_score_is_the_decoder_s_own_log_probability_of_the_id(setting: Setting, encoder: str) -> None:
    scorer = build(IDGenRec, IDGenRecConfig(encoder=encoder), setting.corpus, seed=0).eval()
    batch = setting.batch(scorer, rows=setting.targets()[:2], candidates=20)
    found = scorer.score(batch)
    states, columns = scorer.encode(batch.user, batch.items * (batch.tasks == 1))
    for row in range(2):
        kept = columns[row] < batch.items.shape[1]
        for column in (0, 7, 19):
            ids = scorer.id_tokens[batch.candidates[row, column]]
            ids = ids[ids > 0]
            given_tokens = torch.cat([torch.zeros(1, dtype=torch.long), ids[:-1]])
            logits = scorer.model(encoder_outputs=(states[row : row + 1, kept],), decoder_input_ids=given_tokens[None])
            expected = logits.logits[0].log_softmax(-1).gather(1, ids[:, None]).sum()
            torch.testing.assert_close(found[row, column], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_ranking_is_that_of_the_probabilities_generated_token_by_token(setting: Setting) -> None:
    """The whole catalog, each token from a pass over the tokens before it alone; together at most 1."""
    scorer = setting.build()
    batch = setting.batch(scorer, rows=setting.targets()[:1])
    everything = torch.arange(1, setting.dataset.n_items + 1)[None]
    found = scorer.score(replace(batch, candidates=everything))[0]
    states, _ = scorer.encode(batch.user, batch.items * (batch.tasks == 1))

    @cache
    def following(*tokens: int) -> torch.Tensor:
        given_tokens = torch.tensor([[0, *tokens]])
        return scorer.model(encoder_outputs=(states,), decoder_input_ids=given_tokens).logits[0, -1].log_softmax(-1)

    expected = []
    for ids in scorer.id_tokens[1:].tolist():
        tokens = [token for token in ids if token]
        expected.append(sum(float(following(*tokens[:place])[token]) for place, token in enumerate(tokens)))
    assert found.argsort().tolist() == torch.tensor(expected).argsort().tolist()
    assert 0 < float(torch.tensor(expected).exp().sum()) <= 1


def test_mean_divides_by_the_length_of_the_id(setting: Setting) -> None:
    summed = build(IDGenRec, IDGenRecConfig(), setting.corpus, seed=0).eval()
    mean = build(IDGenRec, IDGenRecConfig(normalize="mean"), setting.corpus, seed=0).eval()
    batch = setting.batch(summed)
    lengths = (summed.id_tokens[batch.candidates] > 0).sum(-1)
    torch.testing.assert_close(mean.score(batch) * lengths, summed.score(batch))


def test_causal_training_sees_no_later_event(setting: Setting) -> None:
    scorer = setting.build()
    items = torch.tensor([[3, 4, 5, 6]])
    user = torch.tensor([1])
    states, columns = scorer.encode(user, items)
    other, _ = scorer.encode(user, torch.tensor([[3, 4, 9, 6]]))
    early = columns[0] < 2
    torch.testing.assert_close(states[0, early], other[0, : states.shape[1]][early])
