"""A tiny T5 with random weights in the model hub's format."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import T5Config, T5ForConditionalGeneration

from unisr.training.pretraining import byte_tokenizer


def save_t5(folder: Path, *, tied: bool = False) -> Path:
    """A T5 of one layer of each kind and its tokenizer; tied weights scale the decoder's outputs."""
    tokenizer = byte_tokenizer()
    shape = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, dropout_rate=0.0,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, tie_word_embeddings=tied,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        T5ForConditionalGeneration(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
