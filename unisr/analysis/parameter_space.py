"""Hidden states of a method on recommendation and search queries: are the tasks apart (GenSR paper, Fig. 3)?

The paper names neither layer nor pooling. Here a state is what a layer gives at the last position, the latest event or
the prompt's last token, for one query with its true target as the only candidate; `pooling="mean"` averages over all
positions, padded ones too. Layers are the self-attention layers of `attention_layers` and `FINAL`, the last layer's
output before the score. `main` keeps the layer that both tasks share (`shared_layer`, the counterpart of the paper's)
and `FINAL`.

Prompts, queries and task-specific heads differ by construction, so some separation is there before any training: every
number stands beside that of the same points with shuffled tasks and of the method as initialized, before training
(tables that it reads from other methods are trained there too).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import Tensor, nn

from unisr import registry
from unisr.analysis import separation
from unisr.analysis.attention_layers import NoAttentionError, attention_layers, shared_layer
from unisr.analysis.store import is_kept, kept
from unisr.config import RunConfig, Settings
from unisr.data.batches import Batch
from unisr.data.loaders import EvaluationLoader
from unisr.data.schema import Split, Task
from unisr.data.text_vectors import text_vectors
from unisr.errors import ConfigError
from unisr.models.base import Scorer
from unisr.random import generator
from unisr.run import Inputs, build_scorer, load_scorer, prepare_inputs, run, with_weights

FINAL = "final state"
DATA = "data"
"""In place of a method: text vectors of history, query and target, before any model."""
NUMBERS, PLACES = "parameter-space", "parameter-space-coordinates"


class SpaceSettings(Settings):
    """What is compared; the defaults are those of notebook 06."""

    queries: int = Field(200, ge=10)
    """Test queries per task, of the same users."""
    layers: Literal["main", "all"] = "all"
    pooling: Literal["last", "mean"] = "last"
    folds: int = Field(5, ge=2)
    shuffles: int = Field(5, ge=1)
    directions: int = Field(3, ge=1)
    """Principal axes that span a task's subspace."""
    points: int = Field(100, ge=10)
    """Queries per task that are drawn."""
    umap: bool = True
    """Whether UMAP is among the projections; compiling it takes some 15 seconds in every process."""


@dataclass(frozen=True)
class States:
    """n queries: points [n, d]; labels [n], 0 for recommendation and 1 for search; users [n]."""

    points: np.ndarray
    labels: np.ndarray
    users: np.ndarray


About = dict[str, Any]
"""Columns that are the same in all rows of one space."""
Tables = Callable[[States, SpaceSettings, About], pd.DataFrame]


def numbers(config: RunConfig, settings: SpaceSettings) -> pd.DataFrame:
    """Measures of one run: columns method, seed, weights (trained or untrained), labels (tasks, shuffled or halves),
    layer, main (whether `layers="main"` has it), width, queries, measure, value, low, high. Kept.

    Raises:
        StoreError: nothing is kept, and the run or its weights are not there (the quick preset makes them).
    """
    return kept(NUMBERS, settings, [config], lambda: _of_run(config, settings, _measure))


def coordinates(config: RunConfig, settings: SpaceSettings) -> pd.DataFrame:
    """Points in the plane: columns method, seed, weights, layer, main, projection, task, x, y. Kept.

    PCA of every layer, UMAP of the main ones, and t-SNE, which takes longest, of the data only (see `data_space`).

    Raises:
        StoreError: as `numbers`.
    """
    return kept(PLACES, settings, [config], lambda: _of_run(config, settings, _project))


def data_space(config: RunConfig, settings: SpaceSettings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables for the data of a run in place of a method's states (`method` is `DATA`); kept by dataset."""
    shared = config.model_dump(include={"dataset", "preset", "histories", "max_users"})
    config = RunConfig(method="Popularity", **shared)  # reads the same queries and has no weights
    tables = []
    for name, function in ((NUMBERS, _measure), (PLACES, _project)):
        tables.append(kept(f"{name}-of-data", settings, [config], lambda f=function: _of_data(config, settings, f)))
    return tables[0], tables[1]


def is_available(config: RunConfig, settings: SpaceSettings) -> bool:
    """Whether both tables of a run are kept."""
    return is_kept(NUMBERS, settings, [config]) and is_kept(PLACES, settings, [config])


@contextmanager
def hooked(modules: Mapping[str, nn.Module]) -> Iterator[list[tuple[str, Tensor]]]:
    """(name, output) of every call of the modules inside, in the order of calls; no hook is left afterwards."""
    found: list[tuple[str, Tensor]] = []

    def keeper(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, args, output: found.append((name, output[0] if isinstance(output, tuple) else output))

    handles = [module.register_forward_hook(keeper(name)) for name, module in modules.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def layers_of(scorer: Scorer, which: Literal["main", "all"] = "all") -> list[str]:
    """Names of the layers whose states are read: self-attention layers, then `FINAL`; for `main` the shared one."""
    try:
        own = list(attention_layers(scorer)) if which == "all" else [shared_layer(scorer)]
    except NoAttentionError:
        own = []
    return [*own, FINAL]


@torch.no_grad()
def states(
    scorer: Scorer, batch: Batch, layers: Sequence[str], *, pooling: Literal["last", "mean"] = "last"
) -> dict[str, Tensor]:
    """One state per query and layer, {layer: [B, d]}, of a scorer in evaluation mode.

    Args:
        batch: of one task, with one candidate.
        layers: names of `attention_layers` or `FINAL`.

    Raises:
        ConfigError: several candidates, an unknown layer, or one that the method does not call when it scores.
    """
    if batch.candidates.shape[1] != 1:
        raise ConfigError(f"states are read for one candidate a query; got {batch.candidates.shape[1]}")
    known = dict(scorer.named_modules())
    if unknown := [name for name in layers if name != FINAL and name not in known]:
        there = ", ".join(layers_of(scorer))
        raise ConfigError(f"{scorer.card.name} has no layer {', '.join(unknown)}; it has {there}")
    # A packed pass (GenSR) calls the parts of a T5 attention, not the module; its output map gives the same states.
    modules = {name: getattr(known[name], "o", known[name]) for name in layers if name != FINAL}
    leaves = {name: part for name, part in known.items() if _may_be_final(part)} if FINAL in layers else {}
    with hooked(modules) as calls, hooked(leaves) as last:
        scorer.score(batch)
    found = {name: [x for called, x in calls if called == name] for name in layers}
    if FINAL in layers:
        found[FINAL] = [x for _, x in last if x.ndim > 1 and len(x) == len(batch) and x.shape[-1] > 1][-1:]
    if silent := [name for name in layers if not found[name]]:
        raise ConfigError(f"{scorer.card.name} does not call {', '.join(silent)} when it scores; choose another layer")
    return {name: _pooled(found[name], pooling).float() for name in layers}


def collect(scorer: Scorer, inputs: Inputs, settings: SpaceSettings) -> dict[str, States]:
    """States of the test queries of both tasks, {layer: `States`}."""
    names = layers_of(scorer, settings.layers)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    labels, users = [], []
    for batch in _queries(inputs, settings, scorer.history_length):
        for name, found in states(scorer, batch, names, pooling=settings.pooling).items():
            parts[name].append(found.numpy())
        labels.append((batch.task == int(Task.SRC)).long().numpy())
        users.append(batch.user.numpy())
    label, user = np.concatenate(labels), np.concatenate(users)
    return {name: States(np.concatenate(part), label, user) for name, part in parts.items()}


def collect_data(inputs: Inputs, settings: SpaceSettings) -> dict[str, States]:
    """LSA vectors in place of states: mean of the history's items, query and target, side by side.

    A recommendation has no query (zeros), which alone tells the tasks apart; so there is a space without it.
    """
    corpus = inputs.corpus
    vectors = text_vectors([*corpus.item_texts, *corpus.query_texts])
    items, queries = vectors[: corpus.n_items + 1], vectors[corpus.n_items + 1 :]
    parts, labels, users = [], [], []
    for batch in _queries(inputs, settings, (30, 30)):
        seen, count = items[batch.items.numpy()].sum(1), (batch.items > 0).sum(1, keepdim=True).clamp(min=1).numpy()
        target = items[batch.candidates[:, 0].numpy()]
        parts.append(np.stack([seen / count, target, queries[batch.query.numpy()]], axis=1))
        labels.append((batch.task == int(Task.SRC)).long().numpy())
        users.append(batch.user.numpy())
    whole, label, user = np.concatenate(parts), np.concatenate(labels), np.concatenate(users)
    return {"history + target": States(whole[:, :2].reshape(len(whole), -1), label, user),
            "history + query + target": States(whole.reshape(len(whole), -1), label, user)}  # fmt: skip


def _queries(inputs: Inputs, settings: SpaceSettings, history_length: tuple[int, int]) -> Iterator[Batch]:
    """Test queries of both tasks, each batch of one task, with the target as the only candidate."""
    for task in ("rec", "src"):
        loader = EvaluationLoader(
            inputs.dataset, inputs.histories, Split.TEST, task, inputs.candidates, history_length,
            max_users=settings.queries,
        )  # fmt: skip
        for batch, _, positive in loader:
            yield replace(batch, candidates=batch.candidates.gather(1, positive.unsqueeze(1)))


def _of_run(config: RunConfig, settings: SpaceSettings, function: Tables) -> pd.DataFrame:
    """`function` of every layer's states, of the trained and of the untrained method."""
    if missing := {"rec", "src"} - set(registry.method(config.method).card.tasks):
        raise ConfigError(f"{config.method} does not do {', '.join(sorted(missing))}; states of both tasks are needed")
    stored = with_weights(config, device="cpu") if config.preset == "quick" else run(config, mode="only-cached")
    inputs, parts = prepare_inputs(config), []
    scorers = {"trained": load_scorer(stored), "untrained": build_scorer(config, "cpu").eval()}
    for weights, scorer in scorers.items():
        for layer, space in collect(scorer, inputs, settings).items():
            about = {"method": config.method, "seed": config.seed, "weights": weights, "layer": layer,
                     "main": layer in layers_of(scorer, "main")}  # fmt: skip
            parts.append(function(space, settings, about).assign(**about))
    return pd.concat(parts, ignore_index=True)


def _of_data(config: RunConfig, settings: SpaceSettings, function: Tables) -> pd.DataFrame:
    parts = []
    for layer, space in collect_data(prepare_inputs(config), settings).items():
        about = {"method": DATA, "seed": config.seed, "weights": "none", "layer": layer, "main": True}
        parts.append(function(space, settings, about).assign(**about))
    return pd.concat(parts, ignore_index=True)


def _measure(space: States, settings: SpaceSettings, about: About) -> pd.DataFrame:
    x, labels, users = space.points, space.labels, space.users
    options = {"folds": settings.folds, "directions": settings.directions}
    rng = generator(0, "parameter space")
    parts = {
        "tasks": separation.measured(x, labels, users, **options),
        "shuffled": separation.shuffled(x, labels, users, rng, times=settings.shuffles, **options),
        "halves": separation.halves(x, labels, rng, times=settings.shuffles, directions=settings.directions),
    }
    frame = pd.concat([part.assign(labels=name) for name, part in parts.items()], ignore_index=True)
    return frame.assign(width=x.shape[1], queries=len(x))


def _project(space: States, settings: SpaceSettings, about: About) -> pd.DataFrame:
    wanted = separation.PROJECTIONS if about["method"] == DATA else ("pca", "umap") if about["main"] else ("pca",)
    chosen = np.concatenate([np.flatnonzero(space.labels == label)[: settings.points] for label in (0, 1)])
    parts = []
    for projection in wanted if settings.umap else [name for name in wanted if name != "umap"]:
        places = separation.plane(space.points, projection)[chosen].round(2)
        task = np.where(space.labels[chosen] == 0, "rec", "src")
        parts.append(pd.DataFrame({"projection": projection, "task": task, "x": places[:, 0], "y": places[:, 1]}))
    return pd.concat(parts, ignore_index=True)


def _may_be_final(module: nn.Module) -> bool:
    """Leaves, without lookups: a dot product's item vectors are no state."""
    return not list(module.children()) and not isinstance(module, (nn.Embedding, nn.EmbeddingBag))


def _pooled(calls: list[Tensor], pooling: Literal["last", "mean"]) -> Tensor:
    """[B, …, d] -> [B, d]. Of several calls the one with most axes, which a packed pass makes for candidates."""
    output = max(reversed(calls), key=lambda x: x.ndim)
    flat = output.reshape(len(output), -1, output.shape[-1])
    return flat[:, -1] if pooling == "last" else flat.mean(1)
