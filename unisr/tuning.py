"""Hyper-parameter search with one space and one budget for every method, judged on validation alone.

A search draws its settings at random (Bergstra and Bengio, JMLR 2012): trial 0 is the preset as it stands, trial n a
draw keyed by (seed, dataset, method, n), so a search that was killed goes on where it stopped and one with more trials
begins with those of a shorter one. The test split is never ranked. What a search found is a JSON file; the presets
`small` and `full` hold what it chose, and a test compares them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from unisr import registry
from unisr.config import Preset, RunConfig
from unisr.errors import ConfigError, StoreError, UnisrError, UnknownNameError
from unisr.jobs import Job, Outcome, run_jobs
from unisr.random import generator
from unisr.report import searches
from unisr.report.environment import Environment
from unisr.report.searches import Search, Trial
from unisr.run import build_scorer, choose_device, prepare_inputs, validation, with_weights
from unisr.training import TrainLog, train
from unisr.variants import STUDIES, variants

SPACE: dict[str, tuple[float, ...]] = {
    "training.learning_rate": (3e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2),
    "training.weight_decay": (0.0, 0.01, 0.1),
    "model.dropout": (0.0, 0.1, 0.2, 0.3, 0.5),
}
"""What is searched, for every method alike; a method without a dropout has one dimension less."""
SEARCHED = "adaptation"
"""The study whose variants are methods of their own, each with the whole search."""
EPOCH_SHARE = 0.5
"""Epochs of a trial as a share of the preset's."""


def tune(
    method: str,
    *,
    variant: str = "",
    dataset: str = "ml-100k",
    preset: Preset = "small",
    trials: int = 5,
    seed: int = 0,
    device: str | None = None,
) -> Search:
    """The search of `method`, gone on with until it has `trials` trials, and stored after each of them.

    Args:
        variant: of the study `SEARCHED` in place of the method itself; trial 0 has the preset's settings.

    Raises:
        ConfigError: `trials` is less than 1 or more than the space has settings, or the method has nothing to train.
        StoreError: the stored search is damaged or has another space, preset, seed or method version.
    """
    base = _base(method, variant, dataset=dataset, preset=preset, seed=seed)
    space = space_of(base)
    possible = 1
    for values in space.values():
        possible *= len(values)
    if not 1 <= trials <= possible:
        raise ConfigError(f"trials {trials}: allowed are 1 to {possible}, the settings of the space of {base.method}")
    search = _started(base, variant, space)
    while len(search.trials) < trials:
        trial = _try(base, search, choose_device(device))
        search = search.model_copy(update={"trials": (*search.trials, trial), "environment": _made_on(base, device)})
        searches.save(search)
    return search


def _base(method: str, variant: str, *, dataset: str, preset: Preset, seed: int) -> RunConfig:
    """Trial 0: the preset, or a variant with the preset's settings in the dimensions that are searched."""
    own = RunConfig(method=method, dataset=dataset, preset=preset, seed=seed)
    if not variant:
        return own
    found = variants(SEARCHED, dataset=dataset, preset=preset, seed=seed)
    if own.method != STUDIES[SEARCHED].method or variant not in found:
        raise UnknownNameError(f"variant of {own.method} in the study {SEARCHED}", variant, found)
    return with_settings(found[variant], settings_of(own, space_of(own)))


def tune_all(
    methods: Sequence[str],
    *,
    with_variants: bool = False,
    dataset: str = "ml-100k",
    preset: Preset = "small",
    trials: int = 5,
    seed: int = 0,
    jobs: int = 2,
    cluster: str | None = None,
) -> list[Outcome]:
    """`tune` for each of `methods` in processes side by side; runs that a method requires are made first.

    Args:
        with_variants: search the variants of the study `SEARCHED` too, where it is a study of one of the methods.
        cluster: address of a Dask scheduler, whose workers search in place of this machine.

    Raises:
        ClusterError: the cluster cannot be used.
    """
    bases = [RunConfig(method=name, dataset=dataset, preset=preset, seed=seed) for name in methods]
    needed = {required.method: required for base in bases for required in base.required()}
    planned = [Job(f"{name} run", (required, 0, "")) for name, required in needed.items()]
    for base in bases:
        needs = tuple(f"{required.method} run" for required in base.required())
        planned.append(Job(f"{base.method} search", (base, trials, ""), needs))
        if with_variants and base.method == STUDIES[SEARCHED].method:
            planned += [Job(f"{name} search", (base, trials, name), needs) for name in STUDIES[SEARCHED].changes]
    return run_jobs(planned, _job, processes=jobs, cluster=cluster)


def _job(payload: tuple[RunConfig, int, str]) -> str:
    config, trials, variant = payload
    if not trials:
        return with_weights(config).folder.name
    made = tune(
        config.method, variant=variant, dataset=config.dataset, preset=config.preset, trials=trials, seed=config.seed
    )
    chosen = made.chosen
    return f"trial {chosen.number} of {len(made.trials)}, validation NDCG@5 {chosen.value:.4f}: {chosen.settings}"


def trainable() -> list[str]:
    """Names of the methods that have something to train: all but the sanity rows."""
    return [name for name, method in registry.methods().items() if method.card.family != "reference"]


def space_of(config: RunConfig) -> dict[str, tuple[float, ...]]:
    """The dimensions of `SPACE` that this config has."""
    parts = {"training": config.training, "model": config.model}
    kept = {}
    for path, values in SPACE.items():
        part, name = path.split(".")
        if name in type(parts[part]).model_fields:
            kept[path] = values
    return kept


def settings_of(config: RunConfig, space: Mapping[str, tuple[float, ...]]) -> dict[str, float]:
    """The config's values in the space's dimensions."""
    parts = {"training": config.training, "model": config.model}
    return {path: getattr(parts[path.split(".")[0]], path.split(".")[1]) for path in space}


def with_settings(base: RunConfig, settings: Mapping[str, float], *, epochs: int | None = None) -> RunConfig:
    """`base` with other settings, and with other epochs where given."""
    changes: dict[str, dict[str, float]] = {"training": {} if epochs is None else {"epochs": epochs}, "model": {}}
    for path, value in settings.items():
        part, name = path.split(".")
        changes[part][name] = value
    parts = {part: getattr(base, part).model_copy(update=update) for part, update in changes.items()}
    return RunConfig(**base.model_dump(exclude={"training", "model"}), **parts)


def draw(base: RunConfig, space: Mapping[str, tuple[float, ...]], number: int) -> dict[str, float]:
    """The settings of trial `number`: the preset's for 0, else a draw that no earlier trial has."""
    used = [settings_of(base, space)]
    for n in range(1, number + 1):
        rng = generator(base.seed, "tuning", base.dataset, base.method, n)
        while (drawn := {path: values[rng.integers(len(values))] for path, values in space.items()}) in used:
            pass
        used.append(drawn)
    return used[number]


def _started(base: RunConfig, variant: str, space: dict[str, tuple[float, ...]]) -> Search:
    """The stored search, or an empty one."""
    epochs = max(1, round(base.training.epochs * EPOCH_SHARE))
    version = registry.method(base.method).card.version
    asked = Search(
        method=base.method, variant=variant, method_version=version, dataset=base.dataset, preset=base.preset,
        seed=base.seed, epochs=epochs, space=space,
    )  # fmt: skip
    found = searches.find(base.dataset, base.method, variant)
    if found is None:
        return asked
    ours = asked.model_dump(exclude={"environment", "trials"})
    theirs = found.model_dump(exclude={"environment", "trials"})
    if different := [f"{k} {theirs[k]!r} instead of {ours[k]!r}" for k in ours if ours[k] != theirs[k]]:
        path = searches.path_of(base.dataset, base.method, variant)
        raise StoreError(f"{path}: a search with {'; '.join(different)}; delete the file to start over")
    return found


def _try(base: RunConfig, search: Search, device: str) -> Trial:
    """Train the next trial and see its best validation."""
    number = len(search.trials)
    settings = draw(base, search.space, number)
    config = with_settings(base, settings, epochs=search.epochs)
    started, error, log = time.perf_counter(), "", TrainLog([])
    inputs = prepare_inputs(config)
    scorer = build_scorer(config, device)
    if not scorer.trainable:
        raise ConfigError(f"{config.method} has nothing to train, so there is nothing to tune")
    try:
        log = train(
            scorer, inputs.training(scorer), config.training, seed=config.seed, device=device,
            validate=validation(scorer, inputs, device),
        )  # fmt: skip
    except UnisrError as raised:
        error = str(raised)
    frame = log.frame()
    watched = [c for c in frame if c.startswith("validation_") and c.endswith("NDCG@5")]
    value = None if error else float(frame[watched].mean(axis=1).max())
    return Trial(
        number=number, settings=settings, value=value, epochs=len(frame), best_epoch=log.best_epoch,
        seconds=time.perf_counter() - started, error=error,
    )  # fmt: skip


def _made_on(base: RunConfig, device: str | None) -> dict[str, Any]:
    """Versions, machine and data of a search."""
    inputs = prepare_inputs(base)
    made = Environment.capture(device=choose_device(device), dataset=inputs.dataset, candidates=inputs.candidates)
    return asdict(made)
