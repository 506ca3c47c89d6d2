"""GenSR's τ and β turned (Fig. 6, section 6.7): curves, a heat map, and whether the paper's peaks are there.

Everything is computed from stored runs of the study `sensitivity` (`unisr.variants`) under equal training; the grid
point of GenSR's own τ and β is the whole model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from unisr.data.schema import TASK_TITLES
from unisr.errors import UnisrError
from unisr.evaluation.statistics import bootstrap_interval, holm, paired_test
from unisr.report import gains, studies
from unisr.report.store import Run
from unisr.variants import BETAS, OWN, TAUS, point

Axis = Literal["τ", "β"]
AXES: dict[Axis, str] = {"τ": "tau", "β": "beta"}
"""The symbol and its column."""
CLAIMED: dict[Axis, tuple[float, ...]] = {"τ": (TAUS[0], TAUS[-1]), "β": (BETAS[0],)}
"""Ends of the ranges that the paper calls worse than its peak: both of τ, and the lower of β (at the upper it
"stabilizes or slightly declines")."""
ALPHA = 0.01
VERDICTS = {
    "supported": "every end that the paper calls worse is below the best point inside the range, corrected "
    "p < {alpha:g}",
    "not supported": "such an end is above it by the same rule, or no difference is found and the 95 % intervals leave "
    "out the paper's drops",
    "undecided": "anything else: this scale cannot tell; always where the best point's own interval reaches chance",
}
"""What each verdict on "there is a peak inside the range" means."""


def name(run: Run) -> str:
    """The grid point of a run."""
    return point(run.config.model.temperature, run.config.model.beta)


def points(runs: Sequence[Run], task: str, metric: str) -> pd.DataFrame:
    """Mean, 95 % bootstrap interval over queries and number of seeds of every grid point that is stored.

    Returns:
        columns tau, beta, value, low, high, seeds, n (queries), difference (from the whole model on the same queries)
        and p (of the paired test against it, not corrected; NaN for the whole model).

    Raises:
        TableError: no run has the task, or the runs are not of one protocol.
        UnisrError: the whole model is not stored.
    """
    wide = gains.values(runs, task, metric, label=name)
    own = point(*OWN)
    if own not in wide:
        raise UnisrError(f"the whole model ({own}), with which points are compared, is none of the {len(runs)} runs")
    low, high = bootstrap_interval(wide.to_numpy())
    known = {name(run): (run.config.model.temperature, run.config.model.beta) for run in runs}
    seeds = pd.Series([name(run) for run in runs]).value_counts()
    tests = [paired_test(wide[column].to_numpy(), wide[own].to_numpy()) for column in wide]
    frame = pd.DataFrame({
        "tau": [known[column][0] for column in wide], "beta": [known[column][1] for column in wide],
        "value": wide.mean().to_numpy(), "low": low, "high": high, "seeds": seeds[wide.columns].to_numpy(),
        "n": len(wide), "difference": [test[2] for test in tests],
        "p": [np.nan if column == own else test[1] for column, test in zip(wide, tests, strict=True)],
    })  # fmt: skip
    return frame.sort_values(["tau", "beta"], ignore_index=True)


def curve(frame: pd.DataFrame, axis: Axis) -> pd.DataFrame:
    """The points along one axis, the other setting as GenSR's own; column `x`, ascending."""
    other, own = ("beta", OWN[1]) if axis == "τ" else ("tau", OWN[0])
    rows = frame[frame[other] == own]
    return rows.assign(x=rows[AXES[axis]]).sort_values("x", ignore_index=True)


def ends(runs: Sequence[Run], metric: str) -> pd.DataFrame:
    """Each end of each range against the best point inside it, on the same queries.

    Returns:
        columns axis, task, end (the setting), peak (the setting of the best point inside), value (there), drop
        (100 (peak - end) / peak, per cent), drop_low, drop_high (95 % bootstrap over queries), p (paired t-test,
        Holm-corrected over all rows), paper (its drop of NDCG@5 on Amazon, per cent; NaN where it has none), claimed
        (whether it calls this end worse) and learned (whether the peak's interval lies above chance). As the best point
        is picked by the queries that test it, drops and tests are a little generous to the claim. Ranges whose ends or
        inside are not stored are left out.
    """
    rows = []
    for task in (t for t in TASK_TITLES if any(t in run.metrics for run in runs)):
        frame, wide = points(runs, task, metric), gains.values(runs, task, metric, label=name)
        for axis, whole_range in (("τ", TAUS), ("β", BETAS)):
            line = curve(frame, axis)
            inside = line[~line["x"].isin([whole_range[0], whole_range[-1]])]
            if inside.empty:
                continue
            peak = inside.loc[inside["value"].idxmax()]
            best = wide[point(peak["tau"], peak["beta"])]
            for end in line[~line["x"].isin(inside["x"])].itertuples():
                lost = (best - wide[point(end.tau, end.beta)]).to_numpy()
                low, high = (100 * bound / max(peak["value"], 1e-12) for bound in bootstrap_interval(lost))
                rows.append({
                    "axis": axis, "task": task, "end": end.x, "peak": peak["x"], "value": peak["value"],
                    "drop": 100 * lost.mean() / max(peak["value"], 1e-12), "drop_low": low, "drop_high": high,
                    "p": paired_test(lost, np.zeros_like(lost))[1], "paper": _paper_drop(axis, end.x, task),
                    "claimed": end.x in CLAIMED[axis], "learned": studies.learned(best, metric),
                })  # fmt: skip
    found = pd.DataFrame(rows)
    return found.assign(p=holm(found["p"])) if len(found) else found


def verdicts(found: pd.DataFrame) -> pd.DataFrame:
    """One row per axis and task of `ends`: columns axis, task, peak and verdict, one of `VERDICTS`."""
    rows = [
        {"axis": axis, "task": task, "peak": part["peak"].iloc[0], "verdict": _verdict(axis, part[part["claimed"]])}
        for (axis, task), part in found.groupby(["axis", "task"], sort=False)
    ]
    return pd.DataFrame(rows)


def _verdict(axis: Axis, claimed: pd.DataFrame) -> str:
    if not claimed["learned"].all():
        return "undecided"
    clear = claimed["p"] < ALPHA
    if (clear & (claimed["drop"] < 0)).any():
        return "not supported"
    if len(claimed) < len(CLAIMED[axis]):
        return "undecided"
    if (clear & (claimed["drop"] > 0)).all():
        return "supported"
    beyond = ~clear & (claimed["drop_high"] < claimed["paper"])
    return "not supported" if beyond.all() else "undecided"


def _paper_drop(axis: Axis, end: float, task: str) -> float:
    rows = studies.printed("sensitivity_sec6.7")
    found = rows[(rows["method"] == f"GenSR {AXES[axis]}={end:g}") & (rows["task"] == TASK_TITLES[task])]
    return float(found["value"].iloc[0]) if len(found) else float("nan")


def shown(found: pd.DataFrame) -> pd.DataFrame:
    """`ends` in words for a reader."""
    return pd.DataFrame({
        "range": found["axis"], "task": found["task"].map(TASK_TITLES), "best inside": found["peak"].map("{:g}".format),
        "end": found["end"].map("{:g}".format),
        "drop at the end [%]": [f"{d:.1f} ({a:.1f} to {b:.1f})" for d, a, b in
                                found[["drop", "drop_low", "drop_high"]].to_numpy()],
        "paper, about [%]": [studies.per_cent(v) for v in found["paper"]],
        "corrected p": found["p"].map("{:.2g}".format),
        "worse in the paper": found["claimed"].map({True: "yes", False: "no claim"}),
    })  # fmt: skip


def at(runs: Sequence[Run], tau: float, beta: float, metric: str) -> pd.DataFrame:
    """One grid point in both tasks, beside the whole model.

    Raises:
        UnisrError: no run of this point is stored.
    """
    rows = []
    for task in (t for t in TASK_TITLES if any(t in run.metrics for run in runs)):
        frame = points(runs, task, metric)
        here = frame[(frame["tau"] == tau) & (frame["beta"] == beta)]
        if here.empty:
            raise UnisrError(f"no stored run of {point(tau, beta)} at preset {runs[0].config.preset}; stored: "
                             + "; ".join(point(*pair) for pair in frame[["tau", "beta"]].to_numpy()))  # fmt: skip
        row = here.iloc[0]
        rows.append({"task": TASK_TITLES[task], metric: row["value"],
                     "interval": f"{row['low']:.3f} to {row['high']:.3f}",
                     "minus the whole model": f"{row['difference']:+.3f}", "seeds": int(row["seeds"]),
                     "p, not corrected": "–" if np.isnan(row["p"]) else f"{row['p']:.2g}"})  # fmt: skip
    return pd.DataFrame(rows)


def reading(runs: Sequence[Run], metric: str) -> str:
    """Markdown: where the peaks are, how far the whole grid spreads, the verdicts and their rule."""
    found, lines = ends(runs, metric), []
    judged = verdicts(found)
    for task in (t for t in TASK_TITLES if any(t in run.metrics for run in runs)):
        frame = points(runs, task, metric)
        best, worst = frame.loc[frame["value"].idxmax()], frame.loc[frame["value"].idxmin()]
        text = (f"- **{TASK_TITLES[task]}**: over {len(frame)} points {metric} goes from {worst['value']:.3f} "
                f"({point(worst['tau'], worst['beta'])}) to {best['value']:.3f} ({point(best['tau'], best['beta'])}); "
                f"a single point's interval is {(frame['high'] - frame['low']).mean():.3f} wide.")  # fmt: skip
        for row in judged[judged["task"] == task].itertuples() if len(judged) else ():
            text += f" A peak inside the range of {row.axis}: best inside at {row.peak:g}, **{row.verdict}**."
        lines.append(text)
    if len({run.config.seed for run in runs}) == 1:
        lines.append("- One seed: intervals and tests know the noise of queries, not of trainings.")
    rule = "; ".join(f"*{verdict}*: {text.format(alpha=ALPHA)}" for verdict, text in VERDICTS.items())
    paper = "The paper's drops are of NDCG@5 on Amazon Kindle with flan-t5-base."
    return "\n".join([*lines, f"\nVerdicts: {rule}. {paper}"])
