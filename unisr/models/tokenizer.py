"""Tokenizers: one made from a catalogue's own texts, for backbones built from a config offline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

SPECIAL = ("<pad>", "</s>", "<unk>")
"""In the order of their ids, as T5 has them."""


def train_tokenizer(texts: Sequence[str], *, vocabulary: int, keep: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer of about `vocabulary` tokens for `texts`.

    The vocabulary is every character, alone and as a continuation, and the most frequent words, ties by
    alphabet: any text can be spelled, and the same texts always give the same ids (the library's own trainers
    do not: their merges depend on the order of a hash table). `keep` are words that stay one token.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = Counter(word for t in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(t)))
    characters = sorted(set("".join([*words, *keep])))
    frequent = sorted(words, key=lambda word: (-words[word], word))
    tokens = dict.fromkeys([*SPECIAL, *keep, *characters, *(f"##{c}" for c in characters)])
    tokens.update(dict.fromkeys(frequent[: max(0, vocabulary - len(tokens))]))
    ids = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, splitter, decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=SPECIAL[0], eos_token=SPECIAL[1], unk_token=SPECIAL[2]
    )


def token_table(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, limit: int) -> tuple[Tensor, Tensor]:
    """Token ids and validity mask of `texts`, both `[n, T]` with T <= `limit`, padded on the LEFT.

    Every table is padded to its own longest text, never to a batch's, so that relative positions, and with
    them the scores, do not depend on which rows share a batch. An empty text is a fully masked row.
    """
    ids = [tokenizer(t, add_special_tokens=False)["input_ids"][:limit] if t else [] for t in texts]
    width = max(1, max(map(len, ids)))
    table = torch.zeros(len(ids), width, dtype=torch.long)
    mask = torch.zeros(len(ids), width, dtype=torch.bool)
    for row, tokens in enumerate(ids):
        if tokens:
            table[row, -len(tokens) :] = torch.tensor(tokens)
            mask[row, -len(tokens) :] = True
    return table, mask


def register_texts(
    module: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Mapping[str, Sequence[str]], *, limit: int
) -> None:
    """Buffers `{name}_tokens` and `{name}_mask` of the module: the `token_table` of the texts of each name."""
    for name, lines in texts.items():
        tokens, mask = token_table(tokenizer, lines, limit=limit)
        module.register_buffer(f"{name}_tokens", tokens, persistent=False)
        module.register_buffer(f"{name}_mask", mask, persistent=False)
