"""GenSAR's four tasks beside next item: next query, ad-hoc search, text to id and id to text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor

from unisr.config import Settings
from unisr.data.batches import Batch
from unisr.data.schema import Task
from unisr.models.generative.gensar_prompts import KINDS

if TYPE_CHECKING:
    from unisr.models.generative.gensar import GenSAR


class Ratios(Settings):
    """Rows of each task that go with a batch, per row of the batch; fractions of a row are drawn."""

    query: float = Field(0.5, ge=0)
    """Of next query: searches of the batch, whose query is to be written."""
    adhoc: float = Field(0.5, ge=0)
    """Of search by a pseudo query, without a history."""
    text_to_id: float = Field(0.5, ge=0)
    id_to_text: float = Field(0.5, ge=0)


EQUAL = Ratios()
"""As many rows as either next-item task has in a batch of both: all tasks alike, as the paper describes them."""
RELEASED = Ratios(query=1 / 1030, adhoc=1 / 1030, text_to_id=2 / 1030, id_to_text=2 / 1030)
"""1,000 rows an epoch (two kinds of id: 2,000) beside 930,387 + 100,000, as in the released code."""


def alignment_losses(scorer: GenSAR, batch: Batch) -> dict[str, Tensor]:
    """`query`, `adhoc`, `text_to_id`, `id_to_text` of rows drawn with torch's generator; tasks without a row left out.

    A row weighs as much as one of either next-item task: the term is the mean of the rows' nats per token times
    rows / (B / 2). With the released ratios a step without any such row is common.
    """
    ratios, device = scorer.config.ratios, batch.user.device
    searches = (batch.task == int(Task.SRC)).nonzero().squeeze(1)
    terms = {}
    if len(searches) and (count := drawn_count(ratios.query, len(batch))):
        order = searches[torch.randperm(len(searches), device=device)]
        rows = order.repeat(-(-count // len(order)))[:count]
        terms["query"] = _next_query(scorer, batch.select(rows))
    for name, nll in (("adhoc", _ad_hoc), ("text_to_id", _text_to_id), ("id_to_text", _id_to_text)):
        if count := drawn_count(getattr(ratios, name), len(batch)):
            terms[name] = nll(scorer, torch.randint(1, scorer.corpus.n_items + 1, (count,), device=device))
    return {name: nll.sum() / (len(batch) / 2) for name, nll in terms.items()}


def drawn_count(ratio: float, size: int) -> int:
    """Rows for a batch of `size`: ratio x size, rounded up with the probability of its fraction."""
    return int(ratio * size + float(torch.rand(())))


def _next_query(scorer: GenSAR, searches: Batch) -> Tensor:
    prompts = scorer.prompts
    target = prompts.target(prompts.query_tokens[searches.query])
    return scorer.text_nll(prompts.read(searches, "query"), target, start=prompts.behavior["query"])


def _ad_hoc(scorer: GenSAR, items: Tensor) -> Tensor:
    prompts = scorer.prompts
    return scorer.id_nll(prompts.ad_hoc(prompts.pseudo_query(items)), items, kind="src")


def _text_to_id(scorer: GenSAR, items: Tensor) -> Tensor:
    parts = [
        scorer.id_nll(scorer.prompts.describe(part, kind), part, kind=kind, start=scorer.start_token)
        for kind, part in _by_kind(items)
    ]
    return torch.cat(parts)


def _id_to_text(scorer: GenSAR, items: Tensor) -> Tensor:
    prompts = scorer.prompts
    parts = [
        scorer.text_nll(prompts.name(part, kind), prompts.target(prompts.text_tokens[part]), start=scorer.start_token)
        for kind, part in _by_kind(items)
    ]
    return torch.cat(parts)


def _by_kind(items: Tensor) -> list[tuple[str, Tensor]]:
    """Items in turn for one kind of id and the other, which of them first is drawn."""
    shift = int(torch.randint(len(KINDS), ()))
    parts = [(kind, items[(place + shift) % len(KINDS) :: len(KINDS)]) for place, kind in enumerate(KINDS)]
    return [(kind, part) for kind, part in parts if len(part)]
