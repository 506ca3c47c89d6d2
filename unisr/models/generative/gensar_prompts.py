"""What GenSAR's encoder reads: prompts, histories, queries, texts and ids as tokens, by gathers from tables."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from unisr.data.batches import Batch
from unisr.data.corpus import Corpus
from unisr.data.schema import Task
from unisr.models.tokenizer import token_table

TOKENS = ("rec", "query", "src")
"""Behaviors, one token each: an item is recommended, words are searched, an item is found."""
KINDS = {"rec": "recommendation", "src": "search"}
"""Ids, and what prompts call them."""
TEMPLATES = {
    "rec": (
        ("the user 's history :", "recommend the next item ."),
        ("what was chosen and searched :", "which item is chosen next ?"),
        ("after these events", "predict the item that follows ."),
    ),
    "src": (
        ("the user 's history :", "find the item that is searched ."),
        ("what was chosen and searched :", "which item answers this query ?"),
        ("after these events a query comes", "predict the item that is clicked ."),
    ),
    "query": (
        ("the user 's history :", "write the next query ."),
        ("what was chosen and searched :", "what is searched next ?"),
        ("after these events", "predict the words that follow ."),
    ),
    "text_to_id": (
        ("an item :", "write its {kind} id ."),
        ("which {kind} id has the item", "?"),
        ("the text", "belongs to the {kind} id :"),
    ),
    "id_to_text": (
        ("an item has the {kind} id", "describe it ."),
        ("what is the item with the {kind} id", "?"),
        ("the {kind} id", "belongs to the text :"),
    ),
}
"""What stands before and after the variable part of an encoder input, three wordings a task."""


def prompt_texts() -> list[str]:
    """All wordings, for training a tokenizer."""
    return [half.format(kind=kind) for task in TEMPLATES.values() for pair in task for half in pair
            for kind in KINDS.values()]  # fmt: skip


class Prompts(nn.Module):
    """Encoder inputs [n, S]: tokens without gaps from the left, 0 after the end, S that of the longest row.

    Every row has one of its task's wordings: one drawn at random in training, the first in evaluation.

    Args:
        first: token of the first behavior; the others follow.
        ids: tokens [V + 1, T] of the items' ids by kind, row 0 all 0. They come from a numerical fit, which another
            machine may end elsewhere, so they are stored with the weights.
        limits: tokens kept of a query and of an item's text.
    """

    query_tokens: Tensor
    """[Q + 1, W], with 0 to the left"""
    text_tokens: Tensor
    """[V + 1, W], with 0 to the left"""
    text_words: Tensor
    """[V + 1, W] the number of the word, from 1, that a token of the text belongs to, 0 where there is none."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, corpus: Corpus, *, first: int, ids: dict[str, Tensor],
        limits: tuple[int, int],
    ) -> None:  # fmt: skip
        super().__init__()
        self.behavior = {name: first + place for place, name in enumerate(TOKENS)}
        self.end = tokenizer.eos_token_id
        for kind, tokens in ids.items():
            self.register_buffer(f"{kind}_ids", tokens)
        tables = {
            "query_tokens": token_table(tokenizer, corpus.query_texts, limit=limits[0])[0],
            "text_tokens": token_table(tokenizer, corpus.item_texts, limit=limits[1])[0],
            "text_words": _word_numbers(tokenizer, corpus.item_texts, limit=limits[1]),
        }
        for task, pairs in TEMPLATES.items():
            for place, half in enumerate(("before", "after")):
                texts = [pair[place].format(kind=kind) for pair in pairs for kind in KINDS.values()]
                tables[f"{task}_{half}"] = token_table(tokenizer, texts, limit=32)[0]
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def ids(self, kind: str) -> Tensor:
        """Tokens [V + 1, T] of the items' ids, `rec` or `src`."""
        return getattr(self, f"{kind}_ids")

    def history(self, batch: Batch) -> Tensor:
        """Tokens of the events in order, with gaps, [B, ·]: a rec token and an id, or a query and what was clicked."""
        searched = batch.tasks == int(Task.SRC)
        found = self._marked("src", self.ids("src")[batch.items * searched])
        chosen = self._marked("rec", self.ids("rec")[batch.items * (batch.tasks == int(Task.REC))])
        return torch.cat([self.query(batch.queries * searched), found, chosen], dim=-1).flatten(1)

    def query(self, queries: Tensor) -> Tensor:
        """The query token and the words of queries [...], [..., 1 + W]; all 0 for query 0."""
        return self._marked("query", self.query_tokens[queries])

    def read(self, batch: Batch, task: str) -> Tensor:
        """The input of next item `rec`, next item `src` or next `query`, the rows of a batch."""
        parts = [self.history(batch)]
        if task == "src":
            parts.append(self.query(batch.query))
        return self._prompt(task, parts)

    def ad_hoc(self, words: Tensor) -> Tensor:
        """The input of `src` without a history for a query of words [n, W]."""
        return self._prompt("src", [self._marked("query", words)])

    def describe(self, items: Tensor, kind: str) -> Tensor:
        """The input of `text_to_id`: texts of items [n], whose id of that kind is to be written."""
        return self._prompt("text_to_id", [self.text_tokens[items]], kind)

    def name(self, items: Tensor, kind: str) -> Tensor:
        """The input of `id_to_text`: ids of items [n], whose texts are to be written."""
        return self._prompt("id_to_text", [self.ids(kind)[items]], kind)

    def pseudo_query(self, items: Tensor) -> Tensor:
        """Words [n, W] of items' texts, each kept with probability one half, at least one, in order."""
        words = self.text_words[items]
        draw = torch.rand(len(items), int(self.text_words.max()) + 1, device=items.device).index_fill_(
            1, torch.zeros(1, dtype=torch.long, device=items.device), 2.0
        )
        u = draw.gather(1, words)  # one draw a word
        return self.text_tokens[items] * ((u < 0.5) | (u == u.amin(1, keepdim=True))) * (words > 0)

    def target(self, words: Tensor) -> Tensor:
        """words [n, W] without gaps and with the end token, as the decoder writes them."""
        return pack([words, words.new_full((len(words), 1), self.end)])

    def _marked(self, behavior: str, tokens: Tensor) -> Tensor:
        """tokens [..., W] after their behavior's token; all 0 where no token is."""
        return F.pad(tokens, (1, 0), value=self.behavior[behavior]) * (tokens > 0).any(-1, keepdim=True)

    def _prompt(self, task: str, parts: Sequence[Tensor], kind: str = "rec") -> Tensor:
        count, place = len(parts[0]), list(KINDS).index(kind)
        wording = torch.zeros(count, dtype=torch.long, device=parts[0].device)
        if self.training:
            wording = torch.randint(len(TEMPLATES[task]), (count,), device=wording.device)
        before, after = (getattr(self, f"{task}_{half}")[wording * len(KINDS) + place] for half in ("before", "after"))
        return pack([before, *parts, after])


def pack(parts: Sequence[Tensor]) -> Tensor:
    """Tokens of parts [n, ·] side by side without their zeros, [n, S], 0 after the end."""
    tokens = torch.cat(list(parts), dim=1)
    valid = tokens > 0
    order = valid.logical_not().long().argsort(dim=1, stable=True)[:, : int(valid.sum(1).max())]
    return tokens.gather(1, order)


def _word_numbers(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, limit: int) -> Tensor:
    """Number of the word, from 1, of every token in `token_table(texts)`, [n, W]."""
    rows = [tokenizer(text, add_special_tokens=False).word_ids()[:limit] if text else [] for text in texts]
    table = torch.zeros(len(rows), max(1, max(map(len, rows))), dtype=torch.long)
    for row, words in enumerate(rows):
        if words:
            table[row, -len(words) :] = torch.tensor(words) + 1
    return table
