"""What tuning leaves of a language model's general knowledge, on prose that neither training nor null space saw.

    nats       mean -log p of a token given the tokens of its block before it; exp of it is the perplexity
    cloze      share of the words that the model finds among four of like frequency, given what stands before; 25 % is
               chance, and the frequency of words tells nothing
    distance   ||H' - H|| / ||H||, Frobenius: how far hidden states H of the pretrained model moved
    cka        linear CKA (Kornblith et al. 2019) of the two: 1 where H' is H up to rotation, scale and shift
    others     of `unisr.analysis.null_space.layer_changes`: the same by covered layer, in weights and outputs

Blocks are stretches of the evaluation prose, so intervals are bootstrapped over blocks (questions, for the cloze), and
changes over the same blocks before and after. The models' vocabulary is that of words: items are no answer here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from unisr.analysis.null_space import layer_changes, weighted_layers
from unisr.analysis.store import kept
from unisr.config import NullSpaceConfig, RunConfig, Settings
from unisr.data.prose import prose
from unisr.errors import ConfigError
from unisr.evaluation.statistics import bootstrap_interval
from unisr.models.base import Scorer
from unisr.models.causal_lm import adapter_of
from unisr.models.modes import evaluating
from unisr.random import generator
from unisr.run import build_scorer, load_scorer, with_weights
from unisr.training.null_space import moments, projectors
from unisr.training.pretraining import blocks_of

CANDIDATES = 4
CONTEXT = 16
"""Tokens of its block that stand before a question's word at least."""
LM = "language model"
NAME = "general-knowledge"
log = logging.getLogger(__name__)


class KnowledgeSettings(Settings):
    """How much prose is read; the default reads all that there is for the testbed."""

    length: int = Field(128, ge=32)
    """Tokens of a block."""
    tokens: int = Field(30_000, ge=128)
    """Of the evaluation prose, at most."""
    questions: int = Field(2000, ge=1)
    """Of the cloze probe, at most."""
    batch: int = Field(8, ge=1)
    """Blocks read at once; changes speed and memory alone."""
    null_space: NullSpaceConfig = NullSpaceConfig()
    """The null space that all methods' changes are split by, whatever they were trained with; side `input`."""


def knowledge(config: RunConfig, settings: KnowledgeSettings, *, device: str = "cpu") -> pd.DataFrame:
    """The kept table of a run with a language model, before and after its training (trained where it is not there).

    With one adapter per task the trained model is measured with each.

    Returns:
        columns method, seed, weights (before, after, change), adapter (rec, src, or empty), part (`LM`, a hidden
        state's number, or a layer's name), measure, value, low, high (95 %; NaN where there is no interval).

    Raises:
        ConfigError: the method has no language model.
    """

    def compute() -> pd.DataFrame:
        after = load_scorer(with_weights(config, device=device), device=device)
        before = build_scorer(config, device).to(device).eval()
        table = compare(before, after, settings)
        return table.assign(method=config.method, seed=config.seed)[["method", "seed", *table.columns]]

    return kept(NAME, settings, [config], compute)


def compare(before: Scorer, after: Scorer, settings: KnowledgeSettings) -> pd.DataFrame:
    """The columns of `knowledge` from `weights` on, of a scorer as built and the same scorer trained.

    Without rows of the cloze probe where the tokenizer's tokens are no words.

    Raises:
        ConfigError: the method has no language model, or the evaluation prose does not fill a block.
    """
    if not (hasattr(after, "lm") and hasattr(after, "tokenizer")):
        raise ConfigError(f"{after.card.name} has no language model whose general knowledge could be measured")
    if after.lm.config.is_encoder_decoder:
        raise ConfigError(f"general knowledge: {after.config.lm.name!r} has an encoder; text wants a causal model")
    blocks = blocks_of(after.tokenizer, prose("evaluation"), length=settings.length, limit=settings.tokens)
    if not len(blocks):
        raise ConfigError(f"general knowledge: the prose fills no block of {settings.length} tokens with "
                          f"tokens={settings.tokens}; raise tokens or lower length")  # fmt: skip
    questions = _questions(after.tokenizer, blocks, settings.questions)
    kind = getattr(after.config, "adapter", "none")
    layers = weighted_layers(before.lm)
    found = projectors(before.lm, layers, before.general, settings.null_space)
    held = moments(before.lm, layers, blocks, side="input")
    told = {"before": _answers(before.lm, blocks, questions, settings.batch)}
    tables = [_summary(*told["before"]).assign(weights="before", adapter="")]
    for task in ("rec", "src") if kind == "task_lora" else ("",):
        with adapter_of(after.lm, task, kind):
            nats, right = _answers(after.lm, blocks, questions, settings.batch)
            changes = layer_changes(before.lm, after.lm, found, held)
            moved = drift(before.lm, after.lm, blocks, batch=settings.batch)
        changed = _summary(nats - told["before"][0], right - told["before"][1])
        tables += [
            _summary(nats, right).assign(weights="after", adapter=task),
            changed[changed.measure != "perplexity"].assign(weights="change", adapter=task),
            _tidy(moved, "state").assign(weights="change", adapter=task),
            _tidy(changes, "layer").assign(weights="change", adapter=task),
        ]
    return pd.concat(tables, ignore_index=True)[["weights", "adapter", "part", "measure", "value", "low", "high"]]


def nats_by_block(lm: nn.Module, blocks: Tensor, *, batch: int = 8) -> np.ndarray:
    """[N] mean -log p of the tokens of each block [N, T] after its first, nats."""
    return _answers(lm, blocks, None, batch)[0]


@torch.no_grad()
def drift(before: nn.Module, after: nn.Module, blocks: Tensor, *, batch: int = 8) -> pd.DataFrame:
    """How far the hidden states of two models of one shape are apart on blocks [N, T].

    Returns:
        per state: state (0: token vectors, then each block's output; the last after the final norm), distance
        (relative Frobenius, of `before`), cka (linear, centered over tokens; NaN where states do not vary).
    """
    sums: list[_Pair] = []
    device = next(before.parameters()).device
    with evaluating(before), evaluating(after):
        for rows in blocks.split(batch):
            pair = [lm(input_ids=rows.to(device), use_cache=False, output_hidden_states=True).hidden_states
                    for lm in (before, after)]  # fmt: skip
            sums = sums or [_Pair() for _ in pair[0]]
            for own, x, y in zip(sums, *pair, strict=True):
                own.add(x.flatten(0, -2).double(), y.flatten(0, -2).double())
    numbers = [{"state": place, "distance": own.distance(), "cka": own.cka()} for place, own in enumerate(sums)]
    return pd.DataFrame(numbers)


class _Pair:
    """Sums over tokens of two sets of states X and Y, [n, d] each."""

    def __init__(self) -> None:
        self.n, self.apart, self.size = 0, 0.0, 0.0
        self.mean: Tensor | float = 0.0
        self.gram: Tensor | float = 0.0

    def add(self, x: Tensor, y: Tensor) -> None:
        both = torch.cat([x, y], dim=1)
        self.n += len(x)
        self.apart += float((y - x).square().sum())
        self.size += float(x.square().sum())
        self.mean = self.mean + both.sum(0)
        self.gram = self.gram + both.T @ both

    def distance(self) -> float:
        return (self.apart / self.size) ** 0.5

    def cka(self) -> float:
        """||Y^T X||^2 / (||X^T X|| ||Y^T Y||) of centered X and Y."""
        gram = self.gram - torch.outer(self.mean, self.mean) / self.n
        d = len(gram) // 2
        scale = gram[:d, :d].norm() * gram[d:, d:].norm()
        return float(gram[:d, d:].square().sum() / scale) if scale > 0 else float("nan")


class Cloze:
    """Questions of the cloze probe in blocks [N, T] of a tokenizer's tokens: which of four words comes next?

    A word is one token that begins a word (marked by \u0120 or \u2581) and is followed by no letter. Each of the other
    three candidates occurs in the blocks as such a word half to twice as often as the true one, and at least twice;
    words without three such are not asked for. Questions are drawn by the stream (seed, "cloze").

    Attributes:
        rows, places: [n] the block and the position of the word; candidates: [n, 4], the true word first.

    Raises:
        ConfigError: the tokenizer marks no beginnings of words, or the text is too short for a question.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, blocks: Tensor, limit: int, *, seed: int = 0) -> None:
        tokens = np.array(tokenizer.convert_ids_to_tokens(range(len(tokenizer))), dtype=object)
        begins = np.array([bool(re.fullmatch("[\u0120\u2581][A-Za-z]{2,}", t or "")) for t in tokens])
        goes_on = np.array([bool(re.match("[A-Za-z0-9'\u2019_]", t or "")) for t in tokens])
        text = blocks.numpy()
        asked = begins[text[:, :-1]] & ~goes_on[text[:, 1:]]
        counts = np.bincount(text[:, :-1][asked], minlength=len(tokens))
        asked[:, :CONTEXT] = False
        rng = generator(seed, "cloze")
        rows, places = np.nonzero(asked)
        found = []
        for at in rng.permutation(len(rows)):
            true = text[rows[at], places[at]]
            alike = np.flatnonzero((counts >= max(2, counts[true] / 2)) & (counts <= 2 * counts[true]))
            alike = alike[alike != true]
            if len(alike) >= CANDIDATES - 1:
                others = rng.choice(alike, CANDIDATES - 1, replace=False)
                found.append((rows[at], places[at], [true, *others]))
            if len(found) == limit:
                break
        if not found:
            raise ConfigError(f"cloze: {len(rows)} whole words in {blocks.numel()} tokens give no question; give more "
                              "text, or a tokenizer whose tokens are words after \u0120 or \u2581")  # fmt: skip
        self.rows, self.places, self.candidates = (torch.tensor(np.array(part)) for part in zip(*found, strict=True))

    def right(self, logits: Tensor, rows: Sequence[int]) -> dict[int, float]:
        """Question: 1 where the true word has the highest logit, 1/n where n candidates share it, else 0.

        logits: [B, T, V] of the blocks `rows`, a stretch of numbers.
        """
        mine = torch.nonzero((self.rows >= rows[0]) & (self.rows <= rows[-1])).squeeze(1)
        at = logits[self.rows[mine] - rows[0], self.places[mine] - 1].gather(1, self.candidates[mine].to(logits.device))
        best = at == at.amax(1, keepdim=True)
        return dict(zip(mine.tolist(), (best[:, 0] / best.sum(1)).tolist(), strict=True))


def _questions(tokenizer: PreTrainedTokenizerBase, blocks: Tensor, limit: int) -> Cloze | None:
    try:
        return Cloze(tokenizer, blocks, limit)
    except ConfigError as reason:
        log.warning("%s; left out", reason)
        return None


@torch.no_grad()
def _answers(lm: nn.Module, blocks: Tensor, questions: Cloze | None, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Nats by block [N], and right answers by question [n]."""
    nats: list[float] = []
    right: dict[int, float] = {}
    device = next(lm.parameters()).device
    with evaluating(lm):
        for rows in blocks.split(batch):
            rows = rows.to(device)
            logits = lm(input_ids=rows, use_cache=False).logits.float()
            losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), rows[:, 1:], reduction="none")
            if questions:
                right |= questions.right(logits, range(len(nats), len(nats) + len(rows)))
            nats += losses.mean(1).tolist()
    return np.array(nats), np.array([right[question] for question in sorted(right)])


def _summary(nats: np.ndarray, right: np.ndarray) -> pd.DataFrame:
    """Rows nats, perplexity and cloze with bootstrap intervals."""
    low, high = bootstrap_interval(nats)
    ends = np.array([nats.mean(), low, high], dtype=float)
    rows = [("nats", *ends), ("perplexity", *np.exp(ends))]
    if len(right):
        rows.append(("cloze", right.mean(), *map(float, bootstrap_interval(right))))
    return pd.DataFrame(rows, columns=["measure", "value", "low", "high"]).assign(part=LM)


def _tidy(table: pd.DataFrame, part: str) -> pd.DataFrame:
    long = table.melt(id_vars=part, var_name="measure").rename(columns={part: "part"})
    return long.assign(part=long.part.astype(str), value=long.value.astype(float), low=np.nan, high=np.nan)
