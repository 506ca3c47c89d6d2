"""I(X; Y_t) of a trained method, for an X and a Y_t that are stated.

The GenSR paper (section 6.4.1, Table 5) does not say what X and Y_t are. It matters: the scores of a model are a
function of its input, and a continuous quantity shares infinitely much information with a function of itself. So two
quantities are estimated that are finite, have a meaning, and are the same for every `Scorer`:

    score and relevance   X: the score of one candidate, standardized over the candidates of its query; Y: whether it is
                          the positive. A positive and a uniformly drawn negative of every test query, so that
                          I <= H(Y) = ln 2 nats = 1 bit. What the ranking knows of the target.
    input and output      X: a description of the input that no model made: principal components of the mean text
                          vector of the latest history items and, for search, the text vector of the query; Y: principal
                          components of the scores of a fixed set of items, standardized per query. How much of what
                          goes in can be told from what comes out, useful or not.

Components lose information, so the second is at most I of the whole description and all scores (data processing
inequality), and the same for all methods. Components are of X alone and of Y alone: they know nothing of the pairing.
Pairs of a user are never in two parts of a split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from sklearn.decomposition import PCA

from unisr.analysis import mutual_information as mi
from unisr.analysis.mutual_information import Estimate, EstimatorSettings
from unisr.analysis.store import kept
from unisr.config import Preset, RunConfig, Settings
from unisr.data.loaders import Gather
from unisr.data.schema import TASKS, Split
from unisr.data.text_vectors import text_vectors
from unisr.errors import UnknownNameError
from unisr.models.base import Scorer
from unisr.progress import progress
from unisr.random import generator
from unisr.run import DATA_SEED, Inputs, build_scorer, choose_device, load_scorer, prepare_inputs, with_weights

NAME = "mutual-information"
RELEVANCE, RESPONSE = "score and relevance", "input and output"
QUANTITIES = (RELEVANCE, RESPONSE)
LN2 = float(np.log(2))
"""Entropy of a balanced yes or no, in nats: 1 bit. The most that score and relevance can share."""
CONTROLS = ("trained", "untrained", "shuffled")
"""The stored weights; the weights before training; the stored weights with the pairs torn apart, where I = 0."""


class InputOutput(Settings):
    """What is estimated of a run."""

    estimators: tuple[str, ...] = mi.ESTIMATORS
    seeds: int = Field(3, ge=1)
    """Splits and critics per estimate; the controls have one."""
    inputs: int = Field(4, ge=1)
    """Inputs of each user: targets of the task drawn from all splits, each with its own history."""
    items: int = Field(128, ge=2)
    """Items whose scores are the output."""
    history: int = Field(20, ge=1)
    """Latest events of both tasks that describe the input."""
    encoder: str = "lsa"
    """Of texts, see `unisr.data.text_vectors`."""
    input_dims: int = Field(8, ge=1)
    output_dims: int = Field(4, ge=1)
    estimator: EstimatorSettings = EstimatorSettings()


QUICK = InputOutput(
    seeds=1, inputs=1, items=32, estimator=EstimatorSettings(steps=60, batch=64, width=32, resamples=50)
)
"""For the quick preset: seconds, and too few pairs to judge by."""

SMALL = InputOutput(seeds=2, inputs=2, items=64)
"""For the small preset: about a minute a run."""


def for_preset(preset: Preset) -> InputOutput:
    """The settings of a preset's notebook."""
    return {"quick": QUICK, "small": SMALL}.get(preset, InputOutput())


@dataclass(frozen=True)
class Pairs:
    """Samples of (X, Y)."""

    x: np.ndarray
    """[n, dx]"""
    y: np.ndarray
    """[n] integers or [n, dy]"""
    users: np.ndarray
    """[n]"""

    def shuffled(self, seed: int) -> Pairs:
        """The same x beside other rows' y, so that I = 0."""
        return replace(self, y=self.y[generator(seed, "shuffled pairs").permutation(len(self.y))])


def information(
    configs: Sequence[RunConfig], settings: InputOutput | None = None, *, device: str | None = None
) -> pd.DataFrame:
    """Estimates for the runs of `configs` (one dataset and preset), kept once computed; runs without weights are made.

    Returns:
        columns method, against, control, task, quantity, estimator, seed (of the run), value, low, high (nats, 95 %),
        trained_on (the bound on the critic's own training pairs), n. Rows of `CONTROLS` other than trained are of each
        method's first seed. Where `against` is not empty, the row is the difference method - against of two trained
        runs of one seed, from the same queries, splits and draws.

    Raises:
        ConfigError: runs of several datasets or presets.
        UnisrError: too few users to split.
    """
    settings = settings or InputOutput()
    return kept(NAME, settings, configs, lambda: _information(configs, settings, choose_device(device)))


def pairs(scorer: Scorer, inputs: Inputs, task: str, quantity: str, settings: InputOutput) -> Pairs:
    """Samples of one of `QUANTITIES` for `task`; the same queries, negatives and items for every method.

    Raises:
        UnknownNameError: no such quantity.
    """
    if quantity not in QUANTITIES:
        raise UnknownNameError("quantity", quantity, QUANTITIES)
    return relevance(scorer, inputs, task) if quantity == RELEVANCE else response(scorer, inputs, task, settings)


def relevance(scorer: Scorer, inputs: Inputs, task: str) -> Pairs:
    """Standardized score [2n, 1] and relevance [2n] of the positive and of one negative of the n test queries."""
    found, column, users = [], [], []
    with torch.inference_mode():
        for batch, _, positive in inputs.evaluation(scorer)[task]:
            found.append(_per_query(scorer.score(batch.to(_device(scorer)))))
            column.append(positive.numpy())
            users.append(batch.user.numpy())
    scores, positive, user = np.concatenate(found), np.concatenate(column), np.concatenate(users)
    step = generator(DATA_SEED, "negatives", inputs.dataset.name, task).integers(1, scores.shape[1], len(scores))
    rows = np.arange(len(scores))
    chosen = [scores[rows, positive], scores[rows, (positive + step) % scores.shape[1]]]
    return Pairs(np.concatenate(chosen)[:, None], np.repeat([1, 0], len(rows)), np.tile(user, 2))


def response(scorer: Scorer, inputs: Inputs, task: str, settings: InputOutput) -> Pairs:
    """Components of the input [n, dx] and of the scores [n, dy] for some targets of each user."""
    rows = _targets(inputs, task, settings.inputs)
    probes = _probes(inputs, settings.items)
    config, gather, parts = inputs.config.training, Gather(inputs.dataset), []
    size = max(1, config.evaluation_batch * 100 // len(probes))
    with torch.inference_mode():
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            window = inputs.histories.window(part, *scorer.history_length)
            candidates = np.tile(probes, (len(part), 1))
            batch = gather.batch(part, window, candidates, None)
            parts.append(_per_query(scorer.score(batch.to(_device(scorer)))))
    x = _components(_description(inputs, rows, task, settings), settings.input_dims)
    y = _components(np.concatenate(parts), settings.output_dims)
    return Pairs(x, y, inputs.dataset.column("user")[rows])


def _information(configs: Sequence[RunConfig], settings: InputOutput, device: str) -> pd.DataFrame:
    rows, trained, seen = [], {}, set()
    for config in progress(configs, NAME):
        first = config.method not in seen
        seen.add(config.method)
        for key, found in _estimates(config, settings, device, controls=first):
            rows.append(_row(config.method, "", config.seed, key, found))
            if key[0] == CONTROLS[0]:
                trained[config.method, config.seed, key] = found
    for (method, seed, key), (other, other_seed, other_key) in combinations(trained, 2):
        if method != other and (seed, key) == (other_seed, other_key):
            difference = trained[method, seed, key].minus(trained[other, seed, key])
            rows.append(_row(method, other, seed, key, difference))
    return pd.DataFrame(rows)


Key = tuple[str, str, str, str]
"""Control, task, quantity, estimator."""


def _row(method: str, against: str, seed: int, key: Key, found: Estimate) -> dict[str, object]:
    named = dict(zip(("control", "task", "quantity", "estimator"), key, strict=True))
    return {"method": method, "against": against, **named, "seed": seed, **mi.as_row(found)}


def _estimates(
    config: RunConfig, settings: InputOutput, device: str, *, controls: bool
) -> Iterator[tuple[Key, Estimate]]:
    """Every estimate of one run."""
    inputs = prepare_inputs(config)
    scorers = {CONTROLS[0]: load_scorer(with_weights(config, device=device), device=device)}
    if controls and scorers[CONTROLS[0]].trainable:
        scorers[CONTROLS[1]] = build_scorer(config, device).to(device).eval()
    for control, scorer in scorers.items():
        for task in scorer.card.tasks:
            for quantity in QUANTITIES:
                samples = {control: pairs(scorer, inputs, task, quantity, settings)}
                if controls and control == CONTROLS[0]:
                    samples[CONTROLS[2]] = samples[control].shuffled(DATA_SEED)
                for kind, some in samples.items():
                    for name in settings.estimators:
                        yield (kind, task, quantity, name), _estimate(some, name, kind, settings)


def _estimate(some: Pairs, name: str, control: str, settings: InputOutput) -> Estimate:
    seeds = range(settings.seeds if control == CONTROLS[0] else 1)
    return mi.over_seeds(some.x, some.y, name, seeds, groups=some.users, settings=settings.estimator)


def _targets(inputs: Inputs, task: str, count: int) -> np.ndarray:
    """At most `count` target rows of each user, drawn over all splits among those with an earlier event."""
    rows = np.concatenate([inputs.dataset.rows(split, TASKS[task]) for split in Split if split != Split.UNUSED])
    rows = rows[np.sum(inputs.histories.counts(rows), axis=0) > 0]
    rows = generator(DATA_SEED, "inputs", inputs.dataset.name, task).permutation(rows)
    rows = rows[np.argsort(inputs.dataset.column("user")[rows], kind="stable")]
    user = inputs.dataset.column("user")[rows]
    place = np.arange(len(rows)) - np.searchsorted(user, user)
    return np.sort(rows[place < count])


def _probes(inputs: Inputs, count: int) -> np.ndarray:
    """Items whose scores are looked at: drawn uniformly, the same for every method and task."""
    items = generator(DATA_SEED, "probes", inputs.dataset.name).permutation(inputs.dataset.n_items) + 1
    return np.sort(items[:count])


def _description(inputs: Inputs, rows: np.ndarray, task: str, settings: InputOutput) -> np.ndarray:
    """[n, d] mean text vector of the latest history items; for search the query's text vector beside it."""
    corpus, gather = inputs.corpus, Gather(inputs.dataset)
    # Encoded together, so that items and queries share one space.
    vectors = text_vectors([*corpus.item_texts, *corpus.query_texts], settings.encoder)
    items, queries = vectors[: len(corpus.item_texts)], vectors[len(corpus.item_texts) :]
    window = inputs.histories.window(rows, settings.history, settings.history)[:, -settings.history :]
    history = items[gather("item", window).numpy()].sum(1) / np.maximum((window >= 0).sum(1, keepdims=True), 1)
    return history if task == "rec" else np.hstack([history, queries[gather("query", rows).numpy()]])


def _components(table: np.ndarray, count: int) -> np.ndarray:
    """[n, min(count, d)] leading principal components."""
    return PCA(min(count, *table.shape), svd_solver="full").fit_transform(table)


def _per_query(scores: torch.Tensor) -> np.ndarray:
    """[n, C] scores of mean 0 and variance 1 in each row; 0 where all are equal."""
    table = scores.double().cpu().numpy()
    table = table - table.mean(1, keepdims=True)
    spread = table.std(1, keepdims=True)
    return np.divide(table, spread, out=np.zeros_like(table), where=spread > 1e-9)


def _device(scorer: Scorer) -> torch.device:
    return next((tensor.device for tensor in [*scorer.parameters(), *scorer.buffers()]), torch.device("cpu"))
