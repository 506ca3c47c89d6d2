"""What stands at the head of a study's page: which runs, how they were trained, what is missing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from unisr import registry
from unisr.config import TrainConfig
from unisr.data.candidates import N_NEGATIVES
from unisr.errors import UnknownNameError
from unisr.evaluation.metrics import chance
from unisr.evaluation.statistics import bootstrap_interval
from unisr.paths import paper_dir
from unisr.report.store import Run
from unisr.variants import STUDIES


def about(name: str, runs: Sequence[Run]) -> str:
    """Markdown: dataset, preset, number of seeds, the training that all runs of a study share beside the preset's own,
    and the variants that are not stored.

    Args:
        name: of the study.
        runs: its stored runs, at least one.
    """
    study, first = STUDIES[name], runs[0].config
    seeds: dict[str, set[int]] = {}
    for run in runs:
        seeds.setdefault(study.name_of(run.config) or "", set()).add(run.config.seed)
    counts = sorted({len(found) for found in seeds.values()})
    own = registry.method(study.method).presets[first.preset][0]
    others = len(seeds) - (study.method in seeds)
    text = (f"**{first.dataset}, preset {first.preset}**: {study.method} and {number(others, 'variant')}, "
            f"{f'{counts[0]} to ' if len(counts) > 1 else ''}{number(counts[-1], 'seed')} each, all trained for "
            f"{length(first.training)}.")  # fmt: skip
    if length(own) != length(first.training):
        text += f" The preset trains longer ({length(own)}): a contrast is fair at equal budgets only, so the whole "
        text += "model was trained again as its variants are."
    if missing := [variant for variant in study.names(first.preset) if variant not in seeds]:
        command = f"unisr reproduce --data {first.dataset} --preset {first.preset} --study {name}"
        text += f" Not stored: {'; '.join(missing)}. Make them with `{command}`."
    if left := [variant for variant in study.changes if variant not in study.names(first.preset)]:
        text += f" Not run at this preset: {len(left)} of the paper's {len(study.changes) + 1} points."
    return text


def length(training: TrainConfig) -> str:
    """How long a training is, in words."""
    examples = "all" if training.epoch_examples is None else f"{training.epoch_examples:,}"
    return f"{number(training.epochs, 'epoch')} of {examples} examples"


def number(count: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def changes(name: str, preset: str) -> pd.DataFrame:
    """Columns variant and settings: what each variant of a study changes in the whole model."""
    study = STUDIES[name]
    told = {variant: [f"{part}.{setting} = {value}" for part, settings in study.changes[variant].items()
                      for setting, value in settings.items()] for variant in study.names(preset)[1:]}  # fmt: skip
    return pd.DataFrame({"variant": list(told), "settings": [", ".join(settings) for settings in told.values()]})


def learned(values: pd.Series, metric: str) -> bool:
    """Whether the 95 % interval of the mean of a metric over queries, among 99 negatives each, lies above chance."""
    low, _ = bootstrap_interval(values.to_numpy())
    return bool(low > chance(np.full(len(values), N_NEGATIVES + 1))[metric])


def per_cent(value: float) -> str:
    """A number of the paper, or a dash where it has none."""
    return "–" if pd.isna(value) else f"{value:.1f}"


def printed(section: str) -> pd.DataFrame:
    """The GenSR paper's numbers of a section (`ablation_sec6.6`, …): dataset, task, method, metric, value.

    Raises:
        UnknownNameError: there is no file of this section.
    """
    path = paper_dir() / f"gensr_{section}.csv"
    if not path.exists():
        raise UnknownNameError("section of the paper", section, [p.stem for p in paper_dir().glob("gensr_*_sec*.csv")])
    return pd.read_csv(path)
