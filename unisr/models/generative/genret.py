"""GenRet: a query is answered by an item's id, whose codes are learned together with the retrieval."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unisr.data.batches import Batch
from unisr.data.corpus import Corpus
from unisr.models.base import Tables
from unisr.models.generative.genret_config import PRESETS, GenRetConfig
from unisr.models.generative.text_to_codes import TextToCodes, numbered
from unisr.models.identifiers import ItemIds, residual_kmeans, sinkhorn
from unisr.random import seed_from
from unisr.registry import Card, register

AS_BUILT = -1
"""Phase before a training; 2t is the warm-up of level t, 2t + 1 learns its codes, 2M trains the whole id."""
ITEMS_AT_ONCE = 512


@register
class GenRet(TextToCodes):
    """s_c = sum_t log p(z_t(c) | z_<t(c), query), nats; p = softmax of W_t d_t / sqrt(d) (Sun et al.).

    The codes are learned level by level: first states d_t of query and item are brought together, then W_t starts
    from balanced k-means of the items' states and is trained with assignments that Sinkhorn balances; W_t and the
    items' codes z_t stay as they are from then on. A last code counts the items of one id, and query -> id is trained.

    As built, ids are the items' numbers written in base K and `losses` trains query -> id with all weights;
    `start_epoch(0, …)` drops these ids.
    """

    card = Card(
        name="GenRet",
        family="generative",
        tasks=("src",),
        paper="Sun, Yan, Chen, Wang, Zhu, Ren, Chen, Yin, de Rijke and Ren, "
        "Learning to Tokenize for Generative Retrieval, NeurIPS 2023",
        signals=("current query", "item text"),
        loss="cross-entropy over the codes of a level; before, contrast of query and item within the batch",
        departures=(
            "backbone offline: a small T5 built from a config, trained from scratch, in place of T5-base (`backbone` "
            "brings it back); 32 codes a level in place of 512; stages are shares of the epochs",
            "pseudo queries are random subsets of the item's tokens, in place of queries of a doc2query T5",
            "batches are drawn at random; the states are told from items of the same id prefix within the batch (the "
            "paper composes batches of such items), other items of the same query left out",
            "items' states and scores are centered on the mean of their id prefix before k-means and Sinkhorn, which "
            "stands for the paper's balance within a batch of one prefix",
            "the codes that an item keeps are balanced over the catalog by Sinkhorn too (the released code: argmax)",
            "codebooks are frozen in the last stage as well, whose commitment term is the item's id written from its "
            "text; states are scaled by 1 / sqrt(d); every item is scored exactly (the paper: beam of 10)",
        ),
    )
    Config = GenRetConfig
    presets = PRESETS

    def __init__(self, config: GenRetConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        sizes = (*[config.codes] * config.levels, config.counter)
        self.register_buffer("phase", torch.tensor(AS_BUILT))
        self.build_model(
            config.backbone, sizes, numbered(corpus.n_items, sizes),
            query_tokens=config.query_tokens, item_tokens=config.item_tokens,
        )  # fmt: skip

    @property
    def frozen(self) -> int:
        """Codebooks of codes that the items keep; not the counter's."""
        return 0 if int(self.phase) == AS_BUILT else min(self.known, self.config.levels)

    # Stages.

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Enter the epoch's phase through all that lie before it; depends on weights and buffers besides."""
        if epoch == 0:
            self.phase.fill_(AS_BUILT)
        for phase in range(int(self.phase) + 1, self.phase_of(epoch, epochs) + 1):
            self._enter(phase)

    def phase_of(self, epoch: int, epochs: int) -> int:
        """The phase of an epoch; those of less than an epoch may be passed over, but not the last."""
        config, share = self.config, (1 - self.config.final_share) / self.config.levels
        ends = [(level + part) * share for level in range(config.levels) for part in (config.warmup_share, 1.0)]
        return sum(int(epochs * end + 1e-9) <= epoch for end in ends)

    @torch.no_grad()
    def _enter(self, phase: int) -> None:
        level, learns = divmod(phase, 2)
        if phase == 0:
            self.codes.fill_(-1)
        elif learns:
            states, prefix = self._item_states(level), self._prefix(self.codes[1:], level)
            vectors = F.pad(_centered(states, prefix), (0, 0, 1, 0)).cpu()
            seed = seed_from(0, "GenRet codes", level)
            _, (centers,) = residual_kmeans(vectors, sizes=(self.config.codes,), seed=seed, balance=True)
            self.codebooks[level].copy_(centers)
        else:
            states, prefix = self._item_states(level - 1), self._prefix(self.codes[1:], level - 1)
            self.codes[1:, level - 1] = self._assign(level - 1, states, prefix)
        if phase == 2 * self.config.levels:
            self.codes[1:, -1] = self._count()
        self.phase.fill_(phase)
        self.plant()

    def _item_states(self, level: int) -> Tensor:
        """d_level of all items, [V, d]."""
        training = self.training
        self.eval()
        items = torch.arange(1, self.corpus.n_items + 1, device=self.codes.device)
        states = [self.item_path(part, level)[:, -1] for part in items.split(ITEMS_AT_ONCE)]
        self.train(training)
        return torch.cat(states)

    def _assign(self, level: int, states: Tensor, prefix: Tensor) -> Tensor:
        """Balanced codes [n] of items with states [n, d] and id prefixes [n]."""
        scores = _centered(self.level_logits(level, states.detach()), prefix)
        return sinkhorn(-scores, epsilon=self.config.epsilon).argmax(-1)

    def _count(self) -> Tensor:
        """The counter code of each item, [V]."""
        levels = self.config.levels
        ids = ItemIds(self.codes[:, :levels].cpu(), self.sizes[:-1]).with_counter()
        count = ids.codes[1:, -1] if ids.levels > levels else torch.zeros(ids.n_items, dtype=torch.long)
        return count.clamp(max=self.config.counter - 1).to(self.codes.device)

    def _prefix(self, codes: Tensor, level: int) -> Tensor:
        """A number [n] for the first `level` codes of ids [n, T]."""
        places = self.config.codes ** torch.arange(level, device=codes.device)
        return (codes[:, :level] * places).sum(1)

    # Training.

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`src`, -log p of the id, mean over levels and rows, and `commitment`, the same for the items; before all
        codes are learned `contrast`, `earlier`, `code` and `reconstruction`, as far as they are trained.
        """
        items, row = (batch.candidates * (batch.labels > 0)).amax(1).unique(return_inverse=True)
        tokens, mask, query = self._asked(batch.query, items[row])
        phase, ids = int(self.phase), self.codes[items]
        level, learns = divmod(phase, 2)
        if phase in (AS_BUILT, 2 * self.config.levels):
            depth = len(self.sizes) - 1
            asked = self.path(*self.encode(tokens, mask), ids[row, :depth])
            terms = {"src": self.code_nll(asked, ids[row])}
            if self.config.commitment:
                own = self.code_nll(self.item_path(items, depth), ids)
                terms["commitment"] = self.config.commitment * own
            return terms
        asked, own = self.path(*self.encode(tokens, mask), ids[row, :level]), self.item_path(items, level)
        terms, prefix = {}, self._prefix(ids, level)
        others = (query[:, None] == query).float() @ F.one_hot(row, len(items)).float() > 0
        apart = (prefix[row][:, None] != prefix) | others.scatter(1, row[:, None], False)
        terms["contrast"] = self.config.contrast * self._contrast(asked[:, -1], own[:, -1], row, apart)
        if level:
            earlier = self.code_nll(asked[:, :-1], ids[row, :level]) + self.code_nll(own[:, :-1], ids[:, :level])
            terms["earlier"] = self.config.earlier * earlier
        return terms | (self._code_terms(level, asked[:, -1], own[:, -1], row, prefix) if learns else {})

    def _code_terms(self, level: int, asked: Tensor, own: Tensor, row: Tensor, prefix: Tensor) -> dict[str, Tensor]:
        """Losses of the level being learned for states of queries [n, d] and items [m, d]."""
        code = self._assign(level, own, prefix)
        logits = self.level_logits(level, own)
        to_code = F.cross_entropy(logits, code) + F.cross_entropy(self.level_logits(level, asked), code[row])
        soft = logits.softmax(-1)
        # Forward the vector of the code, backward that of the mixture.
        vectors = (F.one_hot(code, len(soft[0])) + soft - soft.detach()) @ self.codebooks[level]
        rebuilt = self._contrast(vectors, own, torch.arange(len(own), device=own.device), prefix[:, None] != prefix)
        return {"code": self.config.code * to_code, "reconstruction": self.config.reconstruction * rebuilt}

    def _contrast(self, x: Tensor, items: Tensor, target: Tensor, apart: Tensor) -> Tensor:
        """-log softmax of x [n, d] · items [m, d] / sqrt(d) at the target [n]; `apart` [n, m] is no negative."""
        logits = (x.float() @ items.float().T) * self.backbone.width**-0.5
        return F.cross_entropy(logits.masked_fill(apart, -torch.inf), target)

    def _asked(self, query: Tensor, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens and mask [B, W] of what is asked for items [B], and a number [B] equal for equal queries [B].

        A share of the queries is replaced by pseudo queries.
        """
        drawn = torch.rand(len(items), device=items.device) < self.config.pseudo
        pairs = zip(self._pseudo(items), (self.query_tokens[query], self.query_mask[query]), strict=True)
        width = max(self.query_tokens.shape[1], min(self.item_tokens.shape[1], self.config.query_tokens))
        tokens, mask = (
            torch.where(drawn[:, None], *(F.pad(x, (width - x.shape[1], 0)) for x in pair)) for pair in pairs
        )
        alone = -1 - torch.arange(len(items), device=items.device)
        return tokens, mask, torch.where(drawn, alone, query)

    def _pseudo(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """1 … `query_tokens` random tokens of each item's text, in their order, and which are valid, [B, W]."""
        mask = self.item_mask[items]
        most = mask.sum(1).clamp(max=self.config.query_tokens)
        count = (torch.rand(len(items), device=items.device) * most).long() + 1
        rank = torch.rand(mask.shape, device=items.device).masked_fill(~mask, 2.0).argsort(1).argsort(1)
        kept = mask & (rank < count[:, None])
        # Side by side at the end of the row, as the tokens of a query stand.
        place = kept.long().argsort(dim=1, stable=True)[:, -self.config.query_tokens :]
        return self.item_tokens[items].gather(1, place), kept.gather(1, place)


def _centered(values: Tensor, group: Tensor) -> Tensor:
    """values [n, d] less the mean of their group [n], to which the mean of all is added as one more member.

    The one more leaves something of those that are alone in their group.
    """
    _, place, counts = group.unique(return_inverse=True, return_counts=True)
    sums = values.mean(0).expand(len(counts), -1).index_add(0, place, values)
    return values - (sums / (counts[:, None] + 1))[place]
