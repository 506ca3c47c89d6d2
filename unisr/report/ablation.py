"""GenSR taken apart (Fig. 5, section 6.6): what leaving a part out costs, beside the paper's drops, with a verdict.

Everything is computed from stored runs of the study `ablation` (`unisr.variants`): the whole model and its variants
under equal training, paired on the same queries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from unisr.data.schema import TASK_TITLES
from unisr.evaluation.statistics import bootstrap_interval
from unisr.report import comparison, gains, studies
from unisr.report.store import Run
from unisr.variants import STUDIES, label

ALONE = "one model per task"
"""The row of the models that are trained on one task: each task has its own."""
PAPER = {
    "CF view only": "single view", "semantic view only": "single view", "without soft filtering": "w/o soft filtering",
    "without contrastive learning": "w/o contrastive learning",
}  # fmt: skip
"""Our variants and the words by which the paper's rows are found."""
VERDICTS = {
    "supported": "the variant is worse: corrected p < {alpha:g}, and worse with every seed",
    "not supported": "the variant is better by the same rule, or no difference is found and the 95 % interval of the "
    "drop leaves out the paper's",
    "undecided": "anything else: this scale cannot tell; always where the whole model's own interval reaches chance",
}
"""What each verdict on "leaving the part out makes the model worse" means."""
ALPHA = 0.01


def part(run: Run) -> str:
    """The row of a run: the variant's name, or `ALONE`."""
    name = label(run.config)
    return ALONE if run.config.training.tasks else name


def table(runs: Sequence[Run], task: str) -> pd.DataFrame:
    """`comparison` of the whole model and its variants in one task, every variant tested against the whole model."""
    return comparison.comparison(runs, task, reference=runs[0].config.method, label=part, alpha=ALPHA)


def drops(runs: Sequence[Run], metric: str) -> pd.DataFrame:
    """One row per task and variant.

    Returns:
        columns task, part, value (mean over queries and seeds), whole (the same of the whole model), seeds, drop
        (100 (whole - value) / whole, in per cent), drop_low, drop_high (its 95 % bootstrap interval over queries, the
        whole model's mean taken as fixed), p (of the paired test on this metric, Holm-corrected over the variants of a
        task), worse (seeds in which the variant is below the whole model of that seed), pairs (seeds that both have),
        learned (whether the whole model's interval lies above chance), paper (its approximate drop of NDCG@5 on
        Amazon, per cent; NaN where it has none) and verdict. The rows of a task stand in the order of the study.

    Raises:
        TableError: no run has results, or the runs are not of one protocol.
    """
    whole = STUDIES["ablation"].method
    frames = []
    for task in (t for t in TASK_TITLES if any(t in run.metrics for run in runs)):
        tidy = comparison.comparison(runs, task, metrics=[metric], reference=whole, label=part, alpha=ALPHA)
        wide = gains.values(runs, task, metric, label=part)
        mean = wide[whole].mean()
        lost = wide.drop(columns=whole).rsub(wide[whole], axis=0) * (100 / max(mean, 1e-12))
        low, high = bootstrap_interval(lost.to_numpy()) if len(lost.columns) else ([], [])
        rows = tidy.set_index("method").loc[lost.columns]
        below, pairs = zip(*(_seeds(runs, task, metric, name) for name in lost), strict=True) if len(rows) else ((), ())
        frames.append(pd.DataFrame({
            "task": task, "part": lost.columns, "value": rows["value"].to_numpy(), "whole": mean,
            "seeds": rows["seeds"].to_numpy(), "drop": lost.mean().to_numpy(), "drop_low": low, "drop_high": high,
            "p": rows["p_adjusted"].to_numpy(), "worse": below, "pairs": pairs,
            "learned": studies.learned(wide[whole], metric), "paper": [paper_drop(name, task) for name in lost.columns],
        }))  # fmt: skip
    frame = pd.concat(frames, ignore_index=True)
    return frame.assign(verdict=[verdict(row) for row in frame.to_dict("records")])


def verdict(row: dict[str, float]) -> str:
    """One of `VERDICTS` for a row of `drops`."""
    if not row["learned"]:
        return "undecided"
    if row["p"] < ALPHA and row["drop"] > 0 and row["worse"] == row["pairs"]:
        return "supported"
    if row["p"] < ALPHA and row["drop"] < 0 and row["worse"] == 0:
        return "not supported"
    beyond = not np.isnan(row["paper"]) and row["p"] >= ALPHA and row["drop_high"] < row["paper"]
    return "not supported" if beyond else "undecided"


def _seeds(runs: Sequence[Run], task: str, metric: str, name: str) -> tuple[int, int]:
    """In how many seeds a variant is below the whole model, of how many that both have."""
    means: dict[str, dict[int, float]] = {}
    for run in runs:
        if task in run.metrics:
            means.setdefault(part(run), {})[run.config.seed] = run.metrics[task][metric]
    whole, other = means[STUDIES["ablation"].method], means[name]
    both = [seed for seed in other if seed in whole]
    return sum(other[seed] < whole[seed] for seed in both), len(both)


def paper_drop(name: str, task: str) -> float:
    """The paper's approximate drop of NDCG@5 on Amazon in per cent; NaN where it gives none."""
    rows = studies.printed("ablation_sec6.6")
    words = PAPER.get(name)
    if words is None:
        return float("nan")
    found = rows[(rows["task"] == TASK_TITLES[task]) & rows["method"].str.contains(words, regex=False)]
    return float(found["value"].iloc[0])


def shown(frame: pd.DataFrame) -> pd.DataFrame:
    """`drops` in words for a reader: the drop with its interval, the paper's, the test and the verdict."""
    return pd.DataFrame({
        "task": frame["task"].map(TASK_TITLES), "variant": frame["part"], "whole": frame["whole"],
        "value": frame["value"],
        "drop [%]": [f"{r.drop:.1f} ({r.drop_low:.1f} to {r.drop_high:.1f})" for r in frame.itertuples()],
        "paper, about [%]": [studies.per_cent(v) for v in frame["paper"]],
        "corrected p": frame["p"].map("{:.2g}".format),
        "worse in seeds": [f"{r.worse} of {r.pairs}" for r in frame.itertuples()],
        "worse without it?": frame["verdict"],
    })  # fmt: skip


def reading(frame: pd.DataFrame, metric: str) -> str:
    """Markdown: a line per task with the largest loss and what the test tells, the paper's order, and the verdicts."""
    lines = []
    for task, rows in frame.groupby("task", sort=False):
        worst = rows.loc[rows["drop"].idxmax()]
        clear = "; ".join(f"{v}: {', '.join(g['part'])}" for v, g in rows.groupby("verdict", sort=False))
        few = "" if rows["pairs"].max() > 1 else " One seed: the test knows the noise of queries, not of trainings."
        lines.append(f"- **{TASK_TITLES[task]}**: {metric} of the whole model is {worst['whole']:.3f}. The largest "
                     f"loss comes with *{worst['part']}*, {worst['drop']:.1f} % ({worst['drop_low']:.1f} to "
                     f"{worst['drop_high']:.1f}). Worse without it? {clear}.{_beside(rows)}{few}")  # fmt: skip
    rule = "; ".join(f"*{name}*: {text.format(alpha=ALPHA)}" for name, text in VERDICTS.items())
    paper = "The paper's drops are of NDCG@5 on Amazon Kindle with flan-t5-base."
    return "\n".join([*lines, f"\nVerdicts: {rule}. {paper}"])


def _beside(rows: pd.DataFrame) -> str:
    """How many of the paper's drops lie in our intervals."""
    known = rows.dropna(subset=["paper"])
    inside = known[(known["drop_low"] <= known["paper"]) & (known["paper"] <= known["drop_high"])]
    if known.empty:
        return ""
    smaller = ", ".join(known.loc[known["drop_high"] < known["paper"], "part"])
    text = f" The paper's drop lies within our interval for {len(inside)} of {len(known)} parts"
    return text + (f"; ours is smaller for {smaller}." if smaller else ".")
