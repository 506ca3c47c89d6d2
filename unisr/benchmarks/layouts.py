"""GenSR's joint and packed layouts on real data: same rows, same seeds, a paired test over queries.

    unisr bench layouts [--dataset ml-100k] [--seeds 3] [--jobs 2]

Both layouts train on the same number of positives and rank the same candidates; everything else is the preset's.
The runs are stored like any other, beside those of the preset, and are reused.
"""

from __future__ import annotations

import argparse

import pandas as pd

from unisr.config import RunConfig
from unisr.data.schema import TASK_TITLES
from unisr.jobs import Job, run_jobs
from unisr.paths import results_dir
from unisr.report import store, tables
from unisr.run import run, with_weights

LAYOUTS = ("joint", "packed")
PRESET = "full"
BUDGET = {"epochs": 5, "epoch_examples": 20_000, "validation_users": 200}
"""About one pass over ML-100K's training events of both tasks."""


def main() -> None:
    """Run what is missing, write the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    tidy = compare_layouts(given.dataset, seeds=given.seeds, jobs=given.jobs)
    print(tidy.pivot(index=["task", "metric"], columns="method", values="value").round(4).to_string())
    speed = tidy.drop_duplicates("method")[["method", "train_seconds", "rows_per_second"]]
    print(speed.round(1).to_string(index=False))


def compare_layouts(dataset: str, *, seeds: int, jobs: int) -> pd.DataFrame:
    """Run what is missing and write `layouts.csv` and `.md` into the results.

    Returns:
        `tables.comparison` of both tasks (methods are the layouts), with mean training seconds and rows/s.
    """
    configs = [layout_config(layout, seed, dataset) for seed in range(seeds) for layout in LAYOUTS]
    planned = [Job(f"GenSR {c.model.layout} seed {c.seed}", c) for c in configs if store.find(c) is None]
    required = [Job("LightGCN", lightgcn) for lightgcn in _required(configs)]
    for group, work in ((required, _run_with_weights), (planned, _run)):
        for outcome in run_jobs(group, work, processes=jobs):
            print(outcome)
    runs = [run(config) for config in configs]
    compared = {task: tables.comparison(runs, task, label=layout_of) for task in TASK_TITLES}
    speed = _speed(runs)
    tidy = pd.concat(compared.values(), ignore_index=True).merge(speed, on="method")
    folder = results_dir() / dataset / PRESET / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    tidy.to_csv(folder / "layouts.csv", index=False)
    parts = [f"## {TASK_TITLES[task]}\n\n{tables.to_markdown(found)}" for task, found in compared.items()]
    parts.append(f"```\n{speed.round(1).to_string(index=False)}\n```\n")
    (folder / "layouts.md").write_text("\n\n".join(parts), encoding="utf-8")
    return tidy


def layout_config(layout: str, seed: int, dataset: str = "ml-100k") -> RunConfig:
    """GenSR's preset with this layout and the benchmark's budget."""
    return RunConfig(
        method="GenSR", dataset=dataset, preset=PRESET, seed=seed, training=BUDGET, model={"layout": layout}
    )


def layout_of(run: store.Run) -> str:
    """The row a run belongs to."""
    return run.config.model.layout


def _required(configs: list[RunConfig]) -> list[RunConfig]:
    """LightGCN's runs, made before the layouts so that no two processes train the same one."""
    needed = [needed for config in configs for needed in config.required()]
    return list({c.config_id: c for c in needed}.values())


def _run(config: RunConfig) -> str:
    return run(config).folder.name


def _run_with_weights(config: RunConfig) -> str:
    return with_weights(config).folder.name


def _speed(runs: list[store.Run]) -> pd.DataFrame:
    rows = [
        {"method": layout_of(r), "train_seconds": r.cost.seconds.train,
         "rows_per_second": r.cost.examples * (1 + r.config.training.negatives) / r.cost.seconds.train}
        for r in runs
    ]  # fmt: skip
    return pd.DataFrame(rows).groupby("method", as_index=False).mean()


if __name__ == "__main__":
    main()
