"""Conflict between the gradients of the two tasks, by layer and group of parameters, over a training (GenSR, Sec. 6.5).

A paired batch. The paper gives both models "the same mini-batch" and takes the loss of each task on it. Here one holds
`users` users that have training events of both tasks, and of each of them one recommendation and one search positive
with `negatives` uniform negatives. Users, positives and negatives are a function of (seed, number of the probe) alone:
all methods get the same, after histories of their own length. Each probe draws its own paired batch.

The tasks' losses are the terms `rec` and `src` of `Scorer.losses`, weights applied (they move the norm ratio, never a
cosine); contrastive and other terms are left out. Gradients are taken in evaluation mode, so no dropout mask blurs
them, and with generators and flags put back: a training that is watched ends with the same weights, bit for bit.

The batch is read in two halves of users, A and B, and a task's gradient is the mean of its two. All numbers come from
the 4 x 4 Gram matrix of (rec A, rec B, src A, src B), summed over the parameters of a part, in fp64; gradients are
dropped after each probe. With g_t = (g_tA + g_tB) / 2:

    cosine      cos(g_rec, g_src), the quantity of the paper's Fig. 4
    noise_rec   cos(g_recA, g_recB): how far one task agrees with itself on other users, at half the batch
    noise_src   the same of search
    across      mean of cos(g_recA, g_srcB) and cos(g_recB, g_srcA): the tasks on other users, like for like
    within      mean of cos(g_recA, g_srcA) and cos(g_recB, g_srcB): the tasks on the same users
    norm_ratio  |g_src| / |g_rec|

Where noise_rec or noise_src is near 0 the gradients are noise, and a cosine near 0 says nothing of the tasks. What
`within` has above `across` is noise of the users drawn, which both tasks share, and no agreement of the tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import Tensor, nn

from unisr import registry
from unisr.analysis.attention_layers import NoAttentionError, attention_layers, shared_layer
from unisr.analysis.store import kept
from unisr.config import RunConfig, Settings, TrainConfig
from unisr.data.batches import Batch
from unisr.data.loaders import TrainLoader
from unisr.data.schema import TASKS, Split
from unisr.errors import ConfigError, DataError
from unisr.models.base import Scorer
from unisr.models.modes import evaluating
from unisr.random import generator, seed_from
from unisr.run import Inputs, build_scorer, choose_device, prepare_inputs, validation
from unisr.training import train
from unisr.training.aggregation import gram, task_gradients
from unisr.training.loop import Loader

VECTORS = [(task, half) for task in TASKS for half in (0, 1)]
"""Order of the Gram matrices."""
ALL, EMBEDDINGS = "all", "embeddings"


class ConflictSettings(Settings):
    """How a training is watched; `epochs` and `epoch_examples` replace those of the run where they are given."""

    probes: int = Field(40, ge=2)
    """Spread evenly over the optimizer steps, the first before the first step; fewer where there are fewer steps."""
    users: int = Field(64, ge=2)
    """Of a paired batch, at most; an even number is used."""
    negatives: int = Field(4, ge=1)
    """Of each positive of a paired batch."""
    epochs: int | None = Field(None, ge=1)
    epoch_examples: int | None = Field(None, ge=1)


def conflict(config: RunConfig, settings: ConflictSettings, *, device: str | None = None) -> pd.DataFrame:
    """The kept table of a run's training, watched by probes; trained by the run's config where it is not kept.

    The training has no validation, so it takes all its epochs (a plateau schedule needs validation and has it).

    Returns:
        one row per probe and part: method, seed, step (optimizer steps done), epoch (the one it is in, from 1), the
        columns of `measure`, and trained_epochs, epoch_examples (of this training).

    Raises:
        ConfigError: the method is not joint, or its `losses` has no term of one of the tasks.
    """
    check_joint(registry.method(config.method))
    return kept("gradient-conflict", settings, [config], lambda: watch(config, settings, device=device))


def watch(
    config: RunConfig, settings: ConflictSettings, measured: Measured | None = None, *, device: str | None = None
) -> pd.DataFrame:
    """`conflict`, computed; with `measured` (as of `Watched`) the rows of these probes instead."""
    device = choose_device(device)
    given = settings.model_dump(include={"epochs", "epoch_examples"}, exclude_none=True)
    training = config.training.model_copy(update=given)
    config = config.model_copy(update={"training": training})
    scorer, inputs = build_scorer(config, device), prepare_inputs(config)
    loader, batches = inputs.training(scorer), PairedBatches(inputs, scorer, settings)
    watched = Watched(loader, scorer, batches, settings.probes, training, measured)
    validate = validation(scorer, inputs, device) if training.schedule == "plateau" else None
    train(scorer, watched, training, seed=config.seed, device=device, validate=validate)
    about = {"method": config.method, "seed": config.seed}
    frame = watched.frame().assign(trained_epochs=training.epochs, epoch_examples=loader.examples)
    return frame.assign(**about)[[*about, *(c for c in frame if c not in about)]]


class PairedBatches:
    """Paired batches of a run's data by number, each as two halves with rec and src rows of the same users.

    Raises:
        ConfigError: the method is trained on sequences or on one task.
        DataError: fewer than two users have training events of both tasks.
    """

    def __init__(self, inputs: Inputs, scorer: Scorer, settings: ConflictSettings) -> None:
        check_joint(type(scorer))
        self.seed = inputs.config.seed
        self.device = next(scorer.parameters()).device
        self.loader = TrainLoader(
            inputs.dataset, inputs.histories, config=TrainConfig(negatives=settings.negatives),
            history_length=scorer.history_length, seed=self.seed,
        )  # fmt: skip
        user = inputs.dataset.column("user")
        rows = {name: inputs.dataset.rows(Split.TRAIN, task) for name, task in TASKS.items()}
        self.users = np.intersect1d(*(user[r] for r in rows.values()))
        self.size = min(settings.users, len(self.users)) // 2 * 2
        if not self.size:
            raise DataError(f"{inputs.dataset.name}: {len(self.users)} users have training events of both tasks; "
                            "paired batches need two")  # fmt: skip
        # Rows are sorted by user, so that a user's events are one stretch.
        self.rows = {name: r[np.argsort(user[r], kind="stable")] for name, r in rows.items()}
        self.sorted_users = {name: user[r] for name, r in self.rows.items()}

    def __getitem__(self, number: int) -> tuple[Batch, Batch]:
        rng = generator(self.seed, "paired batch", number)
        users = rng.choice(self.users, self.size, replace=False)
        chosen = {name: self._positives(rng, users, name) for name in TASKS}
        half = self.size // 2
        parts = (slice(None, half), slice(half, None))
        return tuple(
            self.loader.batch_of(np.concatenate([chosen[name][part] for name in TASKS]), rng).to(self.device)
            for part in parts
        )

    def _positives(self, rng: np.random.Generator, users: np.ndarray, task: str) -> np.ndarray:
        """An event row of each user, [users]."""
        first = np.searchsorted(self.sorted_users[task], users)
        end = np.searchsorted(self.sorted_users[task], users, side="right")
        return self.rows[task][rng.integers(first, end)]


Measured = Callable[[Scorer, PairedBatches, int], pd.DataFrame]
"""The rows of a probe, given its number."""


class Watched:
    """A loader that probes the scorer before given optimizer steps and yields another loader's batches untouched.

    A probe is `measure` of its paired batch, or `measured(scorer, batches, number)`.
    """

    def __init__(
        self, loader: Loader, scorer: Scorer, batches: PairedBatches, probes: int, training: TrainConfig,
        measured: Measured | None = None,
    ) -> None:  # fmt: skip
        self.loader, self.scorer, self.batches = loader, scorer, batches
        self.measured = measured or (lambda scorer, batches, number: measure(scorer, batches[number]))
        self.steps, self.window = loader.steps, training.accumulation
        self.per_epoch = -(-loader.steps // self.window)
        last = self.per_epoch * training.epochs - 1
        self.at = {int(step): number for number, step in enumerate(np.unique(np.linspace(0, last, probes).round()))}
        self.rows: list[pd.DataFrame] = []

    def epoch(self, epoch: int) -> Iterator[Batch]:
        for place, batch in enumerate(self.loader.epoch(epoch)):
            step = epoch * self.per_epoch + place // self.window
            if place % self.window == 0 and step in self.at:
                found = self.measured(self.scorer, self.batches, self.at[step])
                self.rows.append(found.assign(step=step, epoch=epoch + 1))
            yield batch

    def frame(self) -> pd.DataFrame:
        """All probes so far."""
        frame = pd.concat(self.rows, ignore_index=True)
        return frame[["step", "epoch", *(c for c in frame if c not in ("step", "epoch"))]]


def measure(scorer: Scorer, halves: tuple[Batch, Batch]) -> pd.DataFrame:
    """One row per part of the scorer that both tasks reach on the two halves of a paired batch.

    A parameter counts where both tasks have a gradient that is not zero: each task's head counts nowhere.

    Returns:
        columns kind (`layer`: a self-attention layer; `group`; `module`: the scorer's top modules without embeddings),
        part, paper (whether it is the counterpart of the paper's layer), parameters (number of values that count),
        cosine, across, within, noise_rec, noise_src, norm_ratio; NaN where a gradient is zero.
    """
    grams, sizes = _grams(scorer, halves)
    try:
        chosen = shared_layer(scorer)
    except NoAttentionError:
        chosen = ""
    rows = []
    for (kind, part), names in groups(scorer).items():
        counted = [name for name in names if name in grams]
        if counted:
            numbers = ratios(sum(grams[name] for name in counted))
            about = {"kind": kind, "part": part, "paper": kind == "layer" and part == chosen}
            rows.append({**about, "parameters": sum(sizes[name] for name in counted), **numbers})
    return pd.DataFrame(rows)


def ratios(matrix: Tensor) -> dict[str, float]:
    """The numbers of the module's head from a Gram matrix [4, 4] in the order of `VECTORS`."""
    means = matrix.new_tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
    tasks = means @ matrix @ means.T
    scale = matrix.diagonal().sqrt()
    halves = matrix / (scale[:, None] * scale)
    sides = tasks.diagonal().sqrt()
    return {
        "cosine": float(tasks[0, 1] / (sides[0] * sides[1])),
        "across": float((halves[0, 3] + halves[1, 2]) / 2),
        "within": float((halves[0, 2] + halves[1, 3]) / 2),
        "noise_rec": float(halves[0, 1]),
        "noise_src": float(halves[2, 3]),
        "norm_ratio": float(sides[1] / sides[0]),
    }


def groups(scorer: Scorer) -> dict[tuple[str, str], list[str]]:
    """Names of the trainable parameters of every part: (kind, part) -> names; see `measure` for the kinds.

    The groups are `all`, `embeddings` (tables that ids look up; not those inside an attention layer), `without
    embeddings`, `attention` (all self-attention layers) and `others` (neither).
    """
    names = [name for name, p in scorer.named_parameters() if p.requires_grad]
    layers = _layers(scorer)
    attention = {layer: [n for n in names if n.startswith(f"{layer}.")] for layer in layers}
    inside = {n for own in attention.values() for n in own}
    tables = {f"{name}.weight" for name, part in scorer.named_modules() if isinstance(part, nn.Embedding)} - inside
    rest = [n for n in names if n not in tables]
    parts = {("layer", layer): own for layer, own in attention.items()}
    parts[("group", ALL)] = names
    parts[("group", EMBEDDINGS)] = [n for n in names if n in tables]
    parts[("group", f"without {EMBEDDINGS}")] = rest
    parts[("group", "attention")] = [n for n in names if n in inside]
    parts[("group", "others")] = [n for n in rest if n not in inside]
    for name in rest:
        parts.setdefault(("module", name.split(".")[0]), []).append(name)
    return parts


def _layers(scorer: Scorer) -> Iterable[str]:
    try:
        return attention_layers(scorer)
    except NoAttentionError:
        return ()


def _grams(scorer: Scorer, halves: tuple[Batch, Batch]) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Gram matrix [4, 4] and number of values of every parameter that both tasks reach."""
    named = {name: p for name, p in scorer.named_parameters() if p.requires_grad}
    found = paired_gradients(scorer, halves, list(named.values()))
    grams, sizes = {}, {}
    for (name, parameter), vectors in zip(named.items(), found, strict=True):
        matrix = gram(vectors)
        # A task's own head gets zeros, not None, where scores of both tasks are put into one tensor.
        if matrix[:2, :2].trace() > 0 and matrix[2:, 2:].trace() > 0:
            grams[name], sizes[name] = matrix, parameter.numel()
    return grams, sizes


def paired_gradients(
    scorer: Scorer, halves: tuple[Batch, Batch], parameters: Sequence[Tensor]
) -> list[list[Tensor | None]]:
    """Four gradients of each parameter, in the order of `VECTORS`; None where a term does not reach."""
    with _undisturbed(scorer):
        found = [task_gradients(_terms(scorer, half), parameters) for half in halves]
    return [[found[half][task][place] for task, half in VECTORS] for place in range(len(parameters))]


def _terms(scorer: Scorer, batch: Batch) -> dict[str, Tensor]:
    terms = scorer.losses(batch)
    if lacking := [task for task in TASKS if task not in terms]:
        raise ConfigError(f"{scorer.card.name}: losses gave {', '.join(terms)}, not {', '.join(lacking)}; "
                          "conflict is measured between the terms rec and src of joint methods")  # fmt: skip
    return terms


@contextmanager
def _undisturbed(scorer: Scorer) -> Iterator[None]:
    """Evaluation mode and generators of its own; both are put back."""
    with torch.random.fork_rng(), evaluating(scorer):
        torch.manual_seed(seed_from(0, "gradient conflict"))
        yield


def check_joint(method: type[Scorer]) -> None:
    """Raise a ConfigError where a method's training has no batches of both tasks."""
    tasks = method.card.tasks
    if set(tasks) != set(TASKS) or method.feeds_on != "examples":
        raise ConfigError(
            f"{method.card.name} is trained on {method.feeds_on} of {', '.join(tasks)}; gradient conflict needs a "
            "joint method whose losses hold the terms rec and src of one batch"
        )
