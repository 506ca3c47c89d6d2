"""What one model for both tasks costs either, and what GenSAR's parts are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from unisr import registry
from unisr.data.schema import TASK_TITLES
from unisr.report import cost
from unisr.report.store import Run

BESIDE = ("SASRec", "TEM", "UniSAR", "GenSR", "GenSR-full", "GenSAR")
"""Methods of notebook 12's trade-off: a strong one of each single task, and those of both."""
FAST = ("SASRec", "TEM", "UniSAR", "GenSAR")
"""Those that the notebook trains by itself at the quick preset."""


def means(runs: Sequence[Run], metric: str) -> pd.DataFrame:
    """Columns method, family, rec and src: the mean over queries and seeds, NaN where a method does not do the task."""
    quality = cost.quality(runs)
    wide = quality[quality["metric"] == metric].pivot(index="method", columns="task", values="value")
    wide = wide.reindex(columns=list(TASK_TITLES)).reset_index()
    wide.insert(1, "family", [registry.method(name).card.family for name in wide["method"]])
    return wide.rename_axis(None, axis=1)


def fewer_collisions(report: pd.DataFrame) -> bool:
    """Whether the whole ids of one task collide no more after collision handling than before it."""
    last = report[report["level"] == report["level"].max()].set_index("stage")["collision_rate"]
    return bool(last["after"] <= last["before"])


def reading(parts: Mapping[str, pd.DataFrame], beside: pd.DataFrame, metric: str) -> str:
    """Markdown: what each part adds by the paired test, and which methods give up nothing for doing both tasks."""
    lines = [_parts(TASK_TITLES[task], tidy[tidy["metric"] == metric].set_index("method"), metric)
             for task, tidy in parts.items()]  # fmt: skip
    return "\n".join([*lines, _cost(beside, metric)])


def _parts(task: str, rows: pd.DataFrame, metric: str) -> str:
    whole, others = rows.iloc[0], rows.iloc[1:]
    if others.empty:
        return f"- **{task}**: no variant is stored."
    values = others["value"].items()
    told = ", ".join(f"{name} {value:.3f} ({value - whole['value']:+.3f})" for name, value in values)
    best = rows["value"].idxmax()
    clear = "clearly" if rows.loc[best, "significant"] else "not clearly"
    return (f"- **{task}**: {rows.index[0]} {whole['value']:.3f} {metric}; {told}. {best} is highest, {clear} by the "
            f"corrected test against {rows.loc[best, 'against']}.")  # fmt: skip


def _cost(beside: pd.DataFrame, metric: str) -> str:
    both = beside.dropna(subset=["rec", "src"])
    single = {task: beside[beside[other].isna()] for task, other in (("rec", "src"), ("src", "rec"))}
    if both.empty or any(rows.empty for rows in single.values()):
        return "- **trade-off**: a method of both tasks or one of a single task is not stored."
    best = {task: rows.loc[rows[task].idxmax()] for task, rows in single.items()}
    above = both[np.logical_and(*(both[task] >= best[task][task] for task in best))]["method"].tolist()
    lines = ", ".join(f"{best[task]['method']} {best[task][task]:.3f} in {TASK_TITLES[task]}" for task in best)
    reached = f"{', '.join(above)} reach both." if above else "no method of both tasks reaches both of them."
    return f"- **trade-off**: the best methods of one task are {lines} ({metric}); {reached}"
