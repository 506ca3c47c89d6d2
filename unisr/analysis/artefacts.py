"""What each artefact of the released evaluation is worth, in metric points: a method is taken from the protocol of the
released GenSR and UniSAR code to the clean one, one artefact at a time.

    start     trained and ranked with histories by the released rule, which may hold the target; negatives drawn by
              popularity; scores as probabilities in fp32; the positive in the first of the columns, which are sorted by
              numpy's argsort; rows of zeros that fill the last batch of 14 users count as queries
    PADDED    those rows are left out (the released code has them in validation alone)
    FIRST     columns are shuffled, still sorted by argsort
    TIES      rank expected over orders of equal scores, of the scores before they become probabilities
    POPULAR   negatives drawn uniformly
    LEAK      histories strictly before the target, in training and ranking: another training
    QUERY     GenSR reads the query: another training
    EGO       GenSR's CF table is LightGCN's after propagation: another training
    SAMPLED   all items that the user has no event with are candidates: what the clean sampled number stands for

A probability is the sigmoid of a score: P(Yes) among the two answers for GenSR, the output of UniSAR's last layer.
GenSR and its variants have the training of the study `ablation`, others that of their preset. The other departures of
the released models from their papers (`GenSRConfig.released`) are no part of the protocol and stay out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import Tensor

from unisr import registry
from unisr.analysis.store import kept
from unisr.config import CandidateKind, Preset, RunConfig, Settings
from unisr.data.loaders import EvaluationLoader
from unisr.data.schema import Split
from unisr.evaluation.protocol import checked_scores
from unisr.evaluation.ranks import expected_rank, released_rank
from unisr.models.base import Scorer
from unisr.models.modes import evaluating
from unisr.run import build_scorer, choose_device, load_scorer, prepare_inputs, trained_by, with_weights
from unisr.variants import STUDIES

METHODS = ("GenSR", "UniSAR", "SASRec", "TEM")
START = "as released"
PADDED, FIRST, TIES = "padded rows are hits", "positive in column 0", "ties go by the sort"
POPULAR, LEAK = "negatives by popularity", "target in the history"
QUERY, EGO, SAMPLED = "query never read", "LightGCN before propagation", "99 sampled negatives"
USERS_A_BATCH = 14
"""Of the released evaluator; its arrays hold a whole number of such batches."""
Rule = Callable[[Tensor, Tensor], np.ndarray]


class AuditSettings(Settings):
    """What is ranked."""

    users: int | None = Field(None, ge=2)
    """Test users at most; None ranks all."""


@dataclass(frozen=True)
class Step:
    """A protocol, and the artefact that the one before it still has."""

    removed: str
    config: RunConfig
    rule: Rule
    padded: bool = False


def steps(method: str, *, dataset: str, preset: Preset, seed: int = 0) -> list[Step]:
    """From the released protocol to the clean one, then to full ranking."""
    clean = _config(method, dataset, preset, seed, {})
    ours = {"query": False, "cf_table": "ego"} if clean.method == "GenSR" else {}
    leaking = _config(method, dataset, preset, seed, ours, histories="released")
    popular = _ranking(leaking, "popularity")
    found = [
        Step(START, popular, _released, padded=True),
        Step(PADDED, popular, _released),
        Step(FIRST, popular, _shuffled),
        Step(TIES, popular, _expected),
        Step(POPULAR, leaking, _expected),
        Step(LEAK, _config(method, dataset, preset, seed, ours), _expected),
    ]
    if ours:
        found.append(Step(EGO, _config(method, dataset, preset, seed, {"query": False}), _expected))
        found.append(Step(QUERY, clean, _expected))
    return [*found, Step(SAMPLED, _ranking(clean, "full"), _expected)]


def artefacts(
    methods: Sequence[str], settings: AuditSettings, *, dataset: str, preset: Preset, seed: int = 0,
    device: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """The kept table of the methods' `steps`; trainings that are not stored are made.

    Returns:
        one row per method, step and query: method, seed, task, step (its number), removed, event (row of the events
        table; -1 for padding), rank, tied (whether the positive ties in what was ranked).
    """
    frames = []
    for method in methods:
        found = steps(method, dataset=dataset, preset=preset, seed=seed)
        configs = list({step.config.config_id: step.config for step in found}.values())
        about = {"method": found[0].config.method, "seed": seed}
        table = kept("artefacts", settings, configs, lambda found=found: _ranked(found, settings, device))
        frames.append(table.assign(**about)[[*about, *table]])
    return pd.concat(frames, ignore_index=True)


def untrained(
    methods: Sequence[str], settings: AuditSettings, *, dataset: str, preset: Preset, seed: int = 0
) -> pd.DataFrame:
    """Methods with the weights they start from, ranked by the clean rule and by the released one; the clean data.

    Returns:
        one row per method and query: method, task, event, rank, released (the released rank), tied.
    """
    frames = []
    for method in methods:
        config = _config(method, dataset, preset, seed, {})
        for task, rows, scores, positive in _scored(build_scorer(config, "cpu").eval(), config, settings):
            rank, ties = expected_rank(scores, positive)
            frames.append(pd.DataFrame({"method": config.method, "task": task, "event": rows, "rank": rank,
                                        "released": _released(scores, positive), "tied": ties > 0}))  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def underflow(
    *, models: int = 12, queries: int = 5, width: int = 768, words: int = 32_128, alike: float = 0.999, seed: int = 0
) -> pd.DataFrame:
    """P(Yes) of untrained language models of flan-t5-base's width and vocabulary, in fp32.

    A state has unit root mean square, as the last norm gives; the head W ~ N(0, 1), as T5 draws one that is not tied.
    The score is softmax(W h)[Yes]. As logits have a standard deviation of sqrt(width), P(Yes) of many models is exactly
    0, for all candidates alike, since these differ in a few of the prompt's tokens.

    Args:
        alike: cosine of any two states of a model; that of the untrained GenSR here is 0.999.

    Returns:
        one row per model and query: model, event (number of the query), rank, released, tied (as `untrained`), zeros
        (share of the 100 candidates whose score is exactly 0).
    """
    random, rows, positive = torch.Generator().manual_seed(seed), [], torch.zeros(1, dtype=torch.long)
    for model in range(models):
        head, common = (torch.randn(n, width, generator=random) for n in (words, 1))
        for query in range(queries):
            states = alike**0.5 * common + (1 - alike) ** 0.5 * torch.randn(100, width, generator=random)
            states = states / states.pow(2).mean(1, keepdim=True).sqrt()
            scores = (states @ head.T).softmax(1)[None, :, 0]
            rank, ties = expected_rank(scores, positive)
            rows.append({"model": model, "event": query, "rank": rank[0],
                         "released": released_rank(scores, positive)[0], "tied": bool(ties[0]),
                         "zeros": float((scores == 0).float().mean())})  # fmt: skip
    return pd.DataFrame(rows)


def _config(
    method: str, dataset: str, preset: Preset, seed: int, model: dict[str, object], **options: str
) -> RunConfig:
    """The method's run of its preset; GenSR's has the training of its ablation, so that its stored runs serve here."""
    name = registry.method(method).card.name
    change = STUDIES["ablation"].base.get(preset, {}) if name == "GenSR" else {}
    return RunConfig(method=name, dataset=dataset, preset=preset, seed=seed, model=model,
                     training=change.get("training", {}), **options)  # fmt: skip


def _ranking(config: RunConfig, kind: CandidateKind) -> RunConfig:
    return config.model_copy(update={"candidates": kind})


def _probabilities(scores: Tensor) -> Tensor:
    return scores.sigmoid()


def _released(scores: Tensor, positive: Tensor) -> np.ndarray:
    return released_rank(_probabilities(scores), positive)


def _shuffled(scores: Tensor, positive: Tensor) -> np.ndarray:
    return released_rank(_probabilities(scores), positive, first=False)


def _expected(scores: Tensor, positive: Tensor) -> np.ndarray:
    return expected_rank(scores, positive)[0]


def _ranked(found: Sequence[Step], settings: AuditSettings, device: str | None) -> pd.DataFrame:
    """Rows of all steps; what shares a config is scored once."""
    device, scored, frames = choose_device(device), {}, []
    for number, step in enumerate(found):
        if (key := step.config.config_id) not in scored:
            trained = with_weights(trained_by(step.config), device=device)
            scorer = load_scorer(trained, device=device)
            scored = {key: _scored(scorer, step.config, settings, device)}
        for task, rows, scores, positive in scored[key]:
            seen = _probabilities(scores) if step.rule is not _expected else scores
            own = pd.DataFrame({"event": rows, "rank": step.rule(scores, positive),
                                "tied": expected_rank(seen, positive)[1] > 0})  # fmt: skip
            if step.padded and len(rows) % USERS_A_BATCH:
                size = USERS_A_BATCH - len(rows) % USERS_A_BATCH
                own = pd.concat([own, pd.DataFrame({"event": [-1] * size, "rank": 1.0, "tied": True})])
            frames.append(own.assign(task=task, step=number, removed=step.removed))
    table = pd.concat(frames, ignore_index=True)
    return table[["task", "step", "removed", "event", "rank", "tied"]]


@torch.inference_mode()
def _scored(
    scorer: Scorer, config: RunConfig, settings: AuditSettings, device: str = "cpu"
) -> list[tuple[str, np.ndarray, Tensor, Tensor]]:
    """(task, event rows [n], scores [n, C], positive columns [n]) of the test queries; -inf where no candidate is."""
    inputs, full, found = prepare_inputs(config), config.candidates == "full", []
    for task in scorer.card.tasks:
        loader = EvaluationLoader(
            inputs.dataset, inputs.histories, Split.TEST, task, inputs.candidates, scorer.history_length,
            config.training.evaluation_batch, max_users=settings.users,
        )  # fmt: skip
        parts = []
        with evaluating(scorer):
            for batch, rows, positive in loader:
                scores = checked_scores(scorer, task, batch.to(device), rows.numpy(), full=full)
                parts.append((rows, scores.cpu(), positive))
        rows, scores, positive = (torch.cat(part) for part in zip(*parts, strict=True))
        found.append((task, rows.numpy(), scores, positive))
    return found
