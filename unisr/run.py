"""One config to one stored run: prepare, train, rank the test split, store.

Dataset, histories and candidates do not depend on the config's seed, which sets initial weights, batches and training
negatives only: runs with different seeds rank the same queries and candidates.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import pandas as pd
import torch
from accelerate.utils import wait_for_everyone

from unisr import registry
from unisr.config import CandidateKind, HistoryRule, RunConfig
from unisr.data.candidates import Candidates, Catalog, load_candidates
from unisr.data.corpus import Corpus
from unisr.data.histories import Histories
from unisr.data.loaders import EvaluationLoader, SequenceLoader, TrainLoader
from unisr.data.prepare import load_dataset
from unisr.data.schema import Dataset, Split
from unisr.data.text_vectors import text_vectors
from unisr.errors import ConfigError, StoreError
from unisr.evaluation import METRICS, evaluate, summary
from unisr.lock import exclusive, locked
from unisr.models.base import Scorer, Tables, build
from unisr.progress import progress
from unisr.report import store
from unisr.report.environment import Environment
from unisr.report.store import Cost, Run, Seconds
from unisr.training import TrainLog, train
from unisr.training.checkpoint import code_version

Mode = Literal["reuse", "overwrite", "only-cached"]
DATA_SEED = 0
"""Seed of dataset, user sample and candidates in every run."""
VALIDATED_ON: CandidateKind = "uniform"
"""Candidates of the validation that picks the best epoch. Runs with others rank with the same weights."""


def run(config: RunConfig, *, mode: Mode = "reuse", device: str | None = None) -> Run:
    """The stored run of `config`; trained, ranked and stored where it is missing.

    Methods whose tables the method reads (`Card.requires`) are run first with the same data and seed. With popularity
    or hard candidates nothing is trained: the weights of the run with uniform ones rank these too. A training that
    was killed goes on from its last epoch. Of several processes that ask for one run at a time, one makes it and the
    others wait for it. Under `accelerate launch` all processes train together and the main one stores; start only
    one such job per run.

    Args:
        mode: reuse a stored run, overwrite it, or take only-cached ones and never train.
        device: `cpu` or `cuda`; without it the variable UNISR_DEVICE, then CUDA where there is one, then CPU.

    Raises:
        StoreError: mode is only-cached and there is no stored run; a stored run or a checkpoint is not usable.
        ConfigError: unknown mode or device.
        UnisrError: the training diverged, or the data cannot be had.
    """
    if mode not in get_args(Mode):
        raise ConfigError(f"mode {mode!r} is unknown; allowed: {', '.join(get_args(Mode))}")
    device = choose_device(device)
    folder = store.folder_of(config)
    if mode != "overwrite" and (stored := store.find(config)):
        _tidy(folder)
        return stored
    if mode == "only-cached":
        raise StoreError(f"{folder}: no stored run; make it with mode='reuse', or `unisr run {config.method} …`")
    with nullcontext() if launched_together() else exclusive(folder.with_name(f"{folder.name}.lock")):
        if mode == "reuse" and (stored := store.find(config)):
            return stored
        if config.candidates != VALIDATED_ON:
            return _rank_again(config, device)
        return _make(config, device, fresh=mode == "overwrite")


def _tidy(folder: Path) -> None:
    """Remove the checkpoints and the lock of a process that was killed when it had stored the run already."""
    lock, checkpoints = (folder.with_name(f"{folder.name}.{kind}") for kind in ("lock", "partial"))
    if not (lock.exists() or checkpoints.exists()) or (lock.exists() and locked(lock)):
        return
    # Where nothing may be written they can stay: nothing reads them.
    with suppress(OSError), exclusive(lock):
        shutil.rmtree(checkpoints, ignore_errors=True)


def trained_by(config: RunConfig) -> RunConfig:
    """The config whose run holds the weights that `config` ranks with."""
    return config.model_copy(update={"candidates": VALIDATED_ON})


def with_weights(config: RunConfig, *, device: str | None = None) -> Run:
    """The run of `config`; one stored without weights (as in the repository) is made again."""
    made = run(config, device=device)
    if made.checkpoint is None and made.cost.parameters:
        made = run(config, mode="overwrite", device=device)
    return made


def load_scorer(run: Run, *, device: str = "cpu") -> Scorer:
    """The trained method of a stored run, in evaluation mode. Runs of methods it requires are made where missing.

    Raises:
        StoreError: the run was stored without weights (as in the repository); the message says how to make them.
    """
    trained = run if run.config.candidates == VALIDATED_ON else store.find(trained_by(run.config))
    if trained is None:
        raise StoreError(f"{run.folder}: the run that trained its weights is not there; run {run.config.method} with "
                         f"candidates={VALIDATED_ON!r}")  # fmt: skip
    scorer = build_scorer(trained.config, device)
    if scorer.trainable:
        trained.load_weights(scorer)
    return scorer.to(device).eval()


@dataclass(frozen=True)
class Inputs:
    """What methods are trained and ranked on; loaders are made for one built scorer."""

    config: RunConfig
    dataset: Dataset
    histories: Histories
    corpus: Corpus
    candidates: Candidates | Catalog

    def training(self, scorer: Scorer) -> TrainLoader | SequenceLoader:
        """Batches for `scorer.losses`."""
        kind = SequenceLoader if scorer.feeds_on == "sequences" else TrainLoader
        return kind(
            self.dataset, self.histories, scorer.card.tasks, config=self.config.training,
            history_length=scorer.history_length, seed=self.config.seed,
        )  # fmt: skip

    def evaluation(self, scorer: Scorer, split: Split = Split.TEST) -> dict[str, EvaluationLoader]:
        """A loader per task of the run; validation keeps `training.validation_users` users."""
        settings = self.config.training
        return {
            task: EvaluationLoader(
                self.dataset, self.histories, split, task, self.candidates, scorer.history_length,
                settings.evaluation_batch, max_users=settings.validation_users if split == Split.VALIDATION else None,
            )
            for task in scorer.card.tasks
            if task in (settings.tasks or scorer.card.tasks)
        }  # fmt: skip


def prepare_inputs(config: RunConfig) -> Inputs:
    """Dataset, histories, corpus and candidates of a config; prepared once per process and shared by all methods."""
    dataset, corpus = _dataset(config.dataset, config.max_users)
    histories = _histories(config.dataset, config.max_users, config.histories)
    return Inputs(config, dataset, histories, corpus, _candidates(config.dataset, config.max_users, config.candidates))


@lru_cache(maxsize=4)
def _dataset(name: str, max_users: int | None) -> tuple[Dataset, Corpus]:
    dataset = load_dataset(name, max_users=max_users, seed=DATA_SEED)
    return dataset, Corpus.of(dataset)


@lru_cache(maxsize=4)
def _histories(name: str, max_users: int | None, rule: HistoryRule) -> Histories:
    return Histories(_dataset(name, max_users)[0], rule)


@lru_cache(maxsize=4)
def _candidates(name: str, max_users: int | None, kind: CandidateKind) -> Candidates | Catalog:
    return load_candidates(_dataset(name, max_users)[0], kind, DATA_SEED)


def choose_device(asked: str | None = None) -> str:
    """`cpu` or `cuda`: the argument, else the variable UNISR_DEVICE, else CUDA where there is one, else CPU."""
    device = asked or os.environ.get("UNISR_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"device {device!r} is unknown; allowed: cpu, cuda (choose a GPU with CUDA_VISIBLE_DEVICES)")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda': torch finds no GPU; use cpu, or install a CUDA build of torch")
    return device


def _make(config: RunConfig, device: str, *, fresh: bool) -> Run:
    """Train, rank and store."""
    started = time.perf_counter()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    inputs = prepare_inputs(config)
    scorer = build_scorer(config, device)
    prepared = time.perf_counter() - started
    checkpoints = store.folder_of(config).with_name(f"{store.folder_of(config).name}.partial")
    if fresh:
        shutil.rmtree(checkpoints, ignore_errors=True)
    log = TrainLog([])
    if scorer.trainable and config.training.epochs:
        log = train(
            scorer, inputs.training(scorer), config.training, seed=config.seed, device=device,
            validate=validation(scorer, inputs, device), checkpoints=checkpoints,
            owner=f"config {config.config_id} code {code_version()}",
        )  # fmt: skip
    if main_process():
        cost = Cost(
            seconds=Seconds(train=log.seconds, evaluate=0.0, total=prepared + log.seconds),
            peak_memory_mb=0.0,
            epochs=len(log.rows),
            best_epoch=log.best_epoch,
            parameters=sum(p.numel() for p in scorer.parameters() if p.requires_grad),
            steps=log.total("steps"),
            examples=log.total("examples"),
        )
        _store(inputs, scorer.to(device), log.frame(), cost, device, weights=scorer.trainable)
        shutil.rmtree(checkpoints, ignore_errors=True)
    return _stored(config)


def _rank_again(config: RunConfig, device: str) -> Run:
    """Rank the test split's candidates of another kind with the weights of the run that was trained."""
    trained = with_weights(trained_by(config), device=device)
    if main_process():
        scorer = load_scorer(trained, device=device)
        _store(prepare_inputs(config), scorer, trained.losses, trained.cost, device, weights=False)
    return _stored(config)


def _store(
    inputs: Inputs, scorer: Scorer, losses: pd.DataFrame, cost: Cost, device: str, *, weights: bool
) -> None:
    """Rank the test split and store the run; `cost` is what the training took."""
    started = time.perf_counter()
    per_query = evaluate(
        scorer, inputs.evaluation(scorer), device=device, full=inputs.config.candidates == "full", progress=progress
    )
    ranked, before = time.perf_counter() - started, cost.seconds
    seconds = Seconds(train=before.train, evaluate=ranked, total=before.total - before.evaluate + ranked)
    cost = cost.model_copy(
        update={"seconds": seconds, "peak_memory_mb": max(cost.peak_memory_mb, peak_memory_mb(device))}
    )
    environment = Environment.capture(device=device, dataset=inputs.dataset, candidates=inputs.candidates)
    store.save(
        inputs.config, per_query=per_query, losses=losses, cost=cost, environment=environment,
        model=scorer if weights else None,
    )  # fmt: skip


def _stored(config: RunConfig) -> Run:
    """The run that this process, or the main one beside it, stored."""
    if launched_together():
        wait_for_everyone()
    stored = store.find(config)
    assert stored is not None, "the run was stored above"
    return stored


def validation(scorer: Scorer, inputs: Inputs, device: str) -> Callable[[], dict[str, float]]:
    loaders = inputs.evaluation(scorer, Split.VALIDATION)

    def validate() -> dict[str, float]:
        means = summary(evaluate(scorer, loaders, device=device))
        return {f"{task}_{metric}": row[metric] for task, row in means.items() for metric in METRICS}

    return validate


def build_scorer(config: RunConfig, device: str) -> Scorer:
    """The method as initialised by the config's seed, with the tables it requires."""
    method = registry.method(config.method)
    corpus = prepare_inputs(config).corpus
    return build(method, config.model, corpus, seed=config.seed, tables=_tables(config, device))


def _tables(config: RunConfig, device: str) -> Tables:
    """`read_tables`, and what the methods it requires export."""
    tables = read_tables(config)
    for needed in config.required():
        required = load_scorer(with_weights(needed, device=device))
        with torch.no_grad():
            tables[needed.method] = required.export()
    return tables


def read_tables(config: RunConfig) -> Tables:
    """Text vectors and general prose where the method's config names an encoder or a causal language model of its own.
    """
    tables: Tables = {}
    if encoder := getattr(config.model, "text_encoder", None):
        tables["texts"] = {"items": torch.from_numpy(text_vectors(prepare_inputs(config).corpus.item_texts, encoder))}
    if lm := getattr(config.model, "lm", None):
        # Imported here because it takes seconds, which other methods need not pay.
        from unisr.models.causal_lm import general_blocks

        tables["prose"] = {"projection": general_blocks(lm)}
    return tables


def main_process() -> bool:
    """Whether this process is the one that stores."""
    return int(os.environ.get("RANK", "0")) == 0


def launched_together() -> bool:
    """Whether this is one of several processes of an `accelerate launch`."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def peak_memory_mb(device: str) -> float:
    """Most memory held so far, in MB (10^6 bytes): of the GPU by torch's tensors, or of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    if sys.platform == "win32":
        return 0.0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
