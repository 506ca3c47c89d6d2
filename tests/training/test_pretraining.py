"""The testbed: its tokens, what its pretraining reaches, and that it is made once and whole."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from unisr.errors import ConfigError, DataError
from unisr.random import generator
from unisr.training import pretraining
from unisr.training.pretraining import TestbedConfig, blocks_of, byte_tokenizer, initial
from unisr.training.pretraining import testbed as made

SMALL = TestbedConfig(width=32, layers=1, heads=2, feed_forward=32, vocabulary=300, steps=200, batch_size=4, block=16,
                      learning_rate=1e-2)  # fmt: skip
SUBJECTS, VERBS = ("the river", "a stone", "this house", "one winter"), ("holds", "covers", "outlives")


def sentences(count: int) -> tuple[str, ...]:
    """Texts whose second half follows from the first: a context helps."""
    draw = generator(0, "sentences").integers(0, [len(SUBJECTS), len(VERBS)], (count, 2))
    return tuple(f"{SUBJECTS[s]} {VERBS[v]} {SUBJECTS[s]} and {SUBJECTS[s]} ." for s, v in draw)


@pytest.fixture
def prose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("UNISR_DATA", str(tmp_path))
    monkeypatch.setattr("unisr.data.prose.prose", lambda part: sentences(300))
    yield


def test_bytes_spell_any_text_and_frequent_words_become_tokens() -> None:
    plain, trained = byte_tokenizer(), byte_tokenizer(sentences(50), 300)
    assert len(plain) == 258
    for text in ("naïve 東京 \n\t {x}", "the river"):
        for tokenizer in (plain, trained):
            assert tokenizer.decode(tokenizer(text)["input_ids"]).strip() == text.strip()
    assert len(trained("the river")["input_ids"]) < len(plain("the river")["input_ids"])
    assert trained("THE River")["input_ids"] == trained("the river")["input_ids"]
    assert byte_tokenizer(sentences(50), 300).get_vocab() == trained.get_vocab()


def test_blocks_are_one_stream_of_documents_each_after_the_special_token() -> None:
    tokenizer, texts = byte_tokenizer(), ("ab", "cde", "f" * 9)
    stream = [t for text in texts for t in (1, *tokenizer(text)["input_ids"])]
    found = blocks_of(tokenizer, texts, length=5)
    assert found.dtype == torch.long and found.flatten().tolist() == stream[: len(stream) // 5 * 5]
    assert blocks_of(tokenizer, texts, length=5, limit=11).tolist() == found[:2].tolist()


def test_pretraining_uses_the_context_and_its_card_says_so(prose: None) -> None:
    folder = made(SMALL)
    card = json.loads((folder / "card.json").read_text())
    assert card["held_out_loss"] < 0.6 * card["unigram_loss"]
    assert len(card["losses"]) == SMALL.steps and card["losses"][0] == pytest.approx(math.log(300), rel=0.1)
    assert card["tokens_read"] == 200 * 4 * 16 and card["documents"] == 300
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = byte_tokenizer(sentences(300), 300)
    blocks = blocks_of(tokenizer, sentences(300), length=16)
    held = blocks[-round(pretraining.HELD_OUT * len(blocks)) :]
    found = torch.stack([model(input_ids=row[None], labels=row[None]).loss for row in held]).mean()
    assert found.item() == pytest.approx(card["held_out_loss"], rel=1e-4)


def test_a_model_of_token_frequencies_has_the_unigram_loss() -> None:
    train, test = torch.tensor([[0, 0, 1]]), torch.tensor([[2, 0, 1], [2, 0, 0]])
    wanted = -(3 * math.log(3 / 6) + math.log(2 / 6)) / 4
    assert pretraining._unigram_loss(train, test, 3) == pytest.approx(wanted)


def test_the_same_settings_and_prose_are_pretrained_once(prose: None, monkeypatch: pytest.MonkeyPatch) -> None:
    few = SMALL.model_copy(update={"steps": 2})
    folder = made(few)
    monkeypatch.setattr(pretraining, "_pretrain", lambda *_: pytest.fail("made again"))
    assert made(few) == folder
    monkeypatch.undo()


def test_other_settings_and_other_prose_are_other_models_and_equal_ones_are_equal(
    prose: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = SMALL.model_copy(update={"steps": 2})
    folders = {made(few), made(few.model_copy(update={"steps": 3}))}
    weights = (made(few) / "model.safetensors").read_bytes()
    monkeypatch.setenv("UNISR_DATA", str(tmp_path / "again"))
    torch.rand(3)
    assert (made(few) / "model.safetensors").read_bytes() == weights
    monkeypatch.setattr("unisr.data.prose.prose", lambda part: sentences(299))
    assert len({folder.name for folder in folders} | {made(few).name}) == 3


def test_an_interrupted_pretraining_leaves_no_model(
    prose: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pretraining, "_descend", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made(SMALL)
    assert not list((tmp_path / "language_models").iterdir())


def test_what_cannot_work_is_told(prose: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="width 30"):
        initial(SMALL.model_copy(update={"width": 30, "heads": 4}), byte_tokenizer())
    monkeypatch.setattr("unisr.data.prose.prose", lambda part: sentences(2))
    with pytest.raises(DataError, match=r"lower testbed\.block or testbed\.batch_size"):
        made(SMALL)
