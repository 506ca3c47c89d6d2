"""A T5 whose vocabulary holds the codes of item ids, as the trie decoder asks for it."""

from __future__ import annotations

from torch import Tensor
from transformers import T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Stack

Levels = list[tuple[int, int]]
"""First token and number of tokens of each level of an id, [T]."""


class IdWriter:
    """Writes ids of given levels after a start token: a `tree_decoder.CodeModel`."""

    def __init__(self, model: T5ForConditionalGeneration, levels: Levels, *, start: int = 0) -> None:
        self.model, self.levels, self.first = model, levels, start

    @property
    def decoder(self) -> T5Stack:
        return self.model.get_decoder()

    @property
    def start(self) -> Tensor:
        return self.model.get_input_embeddings().weight[self.first]

    def embed(self, level: int, codes: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(codes + self.levels[level][0])

    def level_logits(self, level: int, hidden: Tensor) -> Tensor:
        first, size = self.levels[level]
        return head_logits(self.model, hidden, slice(first, first + size))


def head_logits(model: T5ForConditionalGeneration, hidden: Tensor, tokens: slice = slice(None)) -> Tensor:
    """fp32 logits of a stretch of the vocabulary after decoder states [..., d]."""
    if model.config.scale_decoder_outputs:
        hidden = hidden * model.config.d_model**-0.5
    return hidden.float() @ model.get_output_embeddings().weight[tokens].float().T
