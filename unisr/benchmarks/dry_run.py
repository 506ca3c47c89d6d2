"""A dry run: does a config train, validate and rank from end to end, and how fast? Nothing is stored in the results.

    unisr run METHOD --preset paper --data kindle-shape --max-steps 20 [--set model.backbone.name=t5]

Seconds are wall clock. Methods whose tables the method reads are not trained: their tables are as built.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, count, islice
from typing import Any

import torch

from unisr import registry
from unisr.config import RunConfig
from unisr.data.batches import Batch, SequenceBatch
from unisr.errors import ConfigError
from unisr.evaluation import evaluate
from unisr.models.base import Scorer, Tables, build
from unisr.run import Inputs, choose_device, peak_memory_mb, prepare_inputs, read_tables, validation
from unisr.training import TrainLog, train
from unisr.training.loop import Loader

MOST_EPOCHS = 10
"""The steps are spread over so many epochs, so that methods that learn in stages go through them."""
VALIDATED_USERS, RANKED_BATCHES = 4, 2
"""Per task: users of each validation, and batches of the test split."""
OFFICIAL = {"rows_per_second": 199.0, "users_per_second": (21.0, 25.0)}
"""GenSR's released code by its own log: one A100, fp32, flan-t5-base, 100 candidates a user."""


@dataclass(frozen=True)
class DryRun:
    """What a dry run found; speeds are of all epochs but the first, which warms up, where there are more."""

    method: str
    dataset: str
    preset: str
    config_id: str
    """Of the whole run, not of this short one."""
    device: str
    precision: str
    parameters: int
    """Trainable ones."""
    steps: int
    """Of the optimizer; 0 where nothing is trained."""
    loss: tuple[float, float] | None
    """Means of the first and of the last epoch."""
    examples_per_second: float | None
    """Positives; sequences, for methods trained on whole sequences."""
    rows_per_second: float | None
    """Positives with their sampled negatives; None for methods trained on whole sequences."""
    users_per_second: float
    """Queries ranked, with all their candidates."""
    peak_memory_mb: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """All of it, and the official figures."""
        return asdict(self) | {"official": OFFICIAL}

    def text(self) -> str:
        """For people: four lines."""
        low, high = OFFICIAL["users_per_second"]
        trained = "nothing to train"
        if self.loss and self.examples_per_second:
            rows = "" if self.rows_per_second is None else f", {self.rows_per_second:,.1f} rows/s"
            first, last = self.loss
            trained = (
                f"trained: {self.steps} steps, mixed precision {self.precision}, loss {first:.4f} -> {last:.4f}, "
                f"{self.examples_per_second:,.1f} examples/s{rows}"
            )
        return (
            f"dry run of {self.method} on {self.dataset}, preset {self.preset}, {self.device} ({self.config_id})\n"
            f"{trained}\nranked: {self.users_per_second:,.1f} users/s\n"
            f"{self.parameters:,} parameters, {self.peak_memory_mb:,.0f} MB, {self.seconds:.1f} s; nothing is stored. "
            f"GenSR's own code on an A100: {OFFICIAL['rows_per_second']:.0f} rows/s, {low:.0f}-{high:.0f} users/s"
        )


class FirstBatches:
    """A loader's first batches, `total` of them, `steps` an epoch; the loader's epochs follow on each other."""

    def __init__(self, loader: Loader, steps: int, total: int) -> None:
        self.steps, self._total = steps, total
        # One stream, so that the shuffling of millions of positives is paid in the first epoch alone.
        self._stream: Iterator[Batch | SequenceBatch] = chain.from_iterable(map(loader.epoch, count()))

    def epoch(self, epoch: int) -> Iterable[Batch | SequenceBatch]:
        """The stream's next batches; epochs must be asked for in order."""
        return islice(self._stream, min(self.steps, self._total - epoch * self.steps))


def dry_run(config: RunConfig, steps: int, *, device: str | None = None) -> DryRun:
    """Train `steps` optimizer steps, validate and rank a few users.

    Raises:
        ConfigError: `steps` is not 1 or more, or the config cannot work here.
        UnisrError: the training diverged, or the data cannot be had.
    """
    if steps < 1:
        raise ConfigError(f"max steps {steps}: give 1 or more")
    started, device = time.perf_counter(), choose_device(device)
    inputs, scorer = _short(config, steps)
    log = _trained(scorer, inputs, steps, device)
    rate = _examples_per_second(log)
    sampled = rate is not None and scorer.feeds_on == "examples"
    users = _users_per_second(scorer.to(device), inputs, device)
    return DryRun(
        method=config.method, dataset=config.dataset, preset=config.preset, config_id=config.config_id, device=device,
        precision=config.training.precision, steps=log.total("steps"),
        parameters=sum(p.numel() for p in scorer.parameters() if p.requires_grad),
        loss=(log.rows[0]["loss"], log.rows[-1]["loss"]) if log.rows else None, examples_per_second=rate,
        rows_per_second=rate * (1 + config.training.negatives) if sampled else None, users_per_second=users,
        peak_memory_mb=peak_memory_mb(device), seconds=time.perf_counter() - started,
    )  # fmt: skip


def _short(config: RunConfig, steps: int) -> tuple[Inputs, Scorer]:
    """Inputs whose config has few epochs and validation users, and the scorer."""
    epochs = -(-steps // -(-steps // MOST_EPOCHS))
    few = {"epochs": epochs, "patience": epochs, "validation_users": VALIDATED_USERS}
    inputs = prepare_inputs(config.model_copy(update={"training": config.training.model_copy(update=few)}))
    return inputs, _built(config, inputs)


def _built(config: RunConfig, inputs: Inputs) -> Scorer:
    """The method as initialized, with the tables of the methods it requires as they are initialized."""
    tables: Tables = read_tables(config)
    with torch.no_grad():
        tables |= {needed.method: _built(needed, inputs).export() for needed in config.required()}
    return build(registry.method(config.method), config.model, inputs.corpus, seed=config.seed, tables=tables)


def _trained(scorer: Scorer, inputs: Inputs, steps: int, device: str) -> TrainLog:
    settings = inputs.config.training
    if not scorer.trainable:
        return TrainLog([])
    each = -(-steps // settings.epochs) * settings.accumulation
    loader = FirstBatches(inputs.training(scorer), each, steps * settings.accumulation)
    return train(
        scorer, loader, settings, seed=inputs.config.seed, device=device, validate=validation(scorer, inputs, device)
    )


def _examples_per_second(log: TrainLog) -> float | None:
    timed = log.rows[1:] or log.rows
    return sum(row["examples"] for row in timed) / sum(row["seconds"] for row in timed) if timed else None


def _users_per_second(scorer: Scorer, inputs: Inputs, device: str) -> float:
    loaders = {task: islice(loader, RANKED_BATCHES) for task, loader in inputs.evaluation(scorer).items()}
    begin = time.perf_counter()
    ranked = evaluate(scorer, loaders, device=device, full=inputs.config.candidates == "full")
    return len(ranked) / (time.perf_counter() - begin)
