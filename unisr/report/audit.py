"""The audit in tables: what the papers' printed cells can be, and what each artefact of the released protocol is worth.

A point is a hundredth of a metric: NDCG@10 of 0.345 is 34.5 points.
"""

from __future__ import annotations

import os
from html import escape
from pathlib import Path

import pandas as pd

from unisr.analysis.artefacts import METHODS, SAMPLED, START, AuditSettings, artefacts
from unisr.analysis.query_strings import QueryStringSettings, query_strings
from unisr.config import Preset
from unisr.data.schema import TASK_TITLES
from unisr.data.sources.amazon_kindle import ENVIRONMENT
from unisr.errors import DataError
from unisr.evaluation.metrics import per_query_metrics
from unisr.evaluation.statistics import bootstrap_interval
from unisr.report import paper_audit, widgets
from unisr.report.gains import measure
from unisr.report.lineup import named
from unisr.report.tables import paper_numbers

TABLES = (2, 3, 4)
"""The paper's tables of ranking quality."""
FAST = ("UniSAR", "TEM")
SETTINGS: dict[Preset, AuditSettings] = {
    "quick": AuditSettings(users=100), "small": AuditSettings(users=150), "full": AuditSettings(),
    "paper": AuditSettings(),
}  # fmt: skip
TIES = "ties [% of queries]"
NAMES = {2: "recommendation", 3: "search", 4: "full ranking"}


def measured(dataset: str, preset: Preset, methods: str = "") -> pd.DataFrame:
    """`artefacts` at a preset's settings; trainings that are not stored are made.

    Args:
        methods: names with commas between them; empty takes the audit's four, at the quick preset the fast ones.

    Raises:
        UnknownNameError: no such method.
    """
    names = named(methods, ("rec", "src")) or (FAST if preset == "quick" else METHODS)
    return artefacts(names, SETTINGS[preset], dataset=dataset, preset=preset)


def views(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """What can be chosen to look at: words -> (method, task), in the order of `measured`."""
    pairs = frame[["method", "task"]].drop_duplicates().itertuples(index=False)
    return {f"{method}, {TASK_TITLES[task]}": (method, task) for method, task in pairs}


def ratios() -> pd.DataFrame:
    """`paper_audit.ratios` of `TABLES`, with columns table and row (dataset, task and method in words) in front."""
    parts = []
    for number in TABLES:
        found = paper_audit.ratios(paper_numbers(number))
        row = found["method"] + ", " + found["dataset"]
        row = row + (", " + found["task"] if number == 4 else "")
        parts.append(found.assign(table=number, row=row))
    frame = pd.concat(parts, ignore_index=True)
    return frame[["table", "row", *(c for c in frame if c not in ("table", "row"))]]


def impossible(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of `ratios` that one target per query cannot give, in words."""
    rows = frame[~frame["possible"]]
    return pd.DataFrame({
        "table": rows["table"], "row": rows["row"],
        "ΔNDCG / ΔRecall": rows["ratio"].map("{:.3f}".format),
        "with rounding": [f"{r.low:.3f} to {r.high:.3f}" for r in rows.itertuples()],
    })  # fmt: skip


def counted(frame: pd.DataFrame) -> str:
    """Markdown: how many rows of each table of `ratios` are impossible."""
    low, high = paper_audit.WINDOW
    lines = [f"Possible are ratios from {low:.3f} to {high:.3f}, up to the rounding of four decimals."]
    for number, rows in frame.groupby("table"):
        lines.append(f"- Table {number} ({NAMES[number]}): **{int((~rows['possible']).sum())} of {len(rows)}** rows "
                     "cannot come from one target per query.")  # fmt: skip
    return "\n".join(lines)


def waterfall(frame: pd.DataFrame, method: str, task: str, metric: str = "NDCG@10") -> pd.DataFrame:
    """The steps of one method and task, in points.

    Args:
        frame: from `unisr.analysis.artefacts.artefacts`.

    Returns:
        one row per step: removed, value (mean over queries), change from the step before, low and high (its 95 %
        bootstrap interval over queries, both steps on the same ones; NaN at the start and where padding is removed,
        which is no query), tied (share of queries whose target ties, per cent).
    """
    own = frame[(frame["method"] == method) & (frame["task"] == task)]
    own = own.assign(value=100 * measure(metric)(own["rank"].to_numpy()))
    rows, before = [], None
    for _, part in own.groupby("step"):
        queries = part.set_index("event")["value"]
        change = 0.0 if before is None else queries.mean() - before.mean()
        row = {"removed": part["removed"].iloc[0], "value": queries.mean(), "change": change, "low": None, "high": None,
               "tied": 100 * part["tied"].mean()}  # fmt: skip
        if before is not None and set(before.index) == set(queries.index):
            row["low"], row["high"] = map(float, bootstrap_interval((queries - before[queries.index]).to_numpy()))
        rows.append(row)
        before = queries
    found = pd.DataFrame(rows).astype({"low": float, "high": float})
    return found


def clean(found: pd.DataFrame) -> float:
    """The value of a `waterfall` under the clean protocol with sampled negatives, points."""
    return float(found.loc[found["removed"] != SAMPLED, "value"].iloc[-1])


def table(found: pd.DataFrame) -> pd.DataFrame:
    """`waterfall` in words."""
    return pd.DataFrame({
        "artefact removed": found["removed"],
        "points after it": found["value"].map("{:.1f}".format),
        "change": [_change(row) for row in found.itertuples()],
        TIES: found["tied"].map("{:.1f}".format),
    })  # fmt: skip


def _change(row: tuple) -> str:
    if row.removed == START:
        return "–"
    return f"{row.change:+.1f}" + ("" if pd.isna(row.low) else f" ({row.low:+.1f} to {row.high:+.1f})")


def reading(frame: pd.DataFrame, metric: str = "NDCG@10") -> str:
    """Markdown: per method and task, the way from the released to the clean protocol and the steps that matter."""
    lines = []
    for (method, task), _ in frame.groupby(["method", "task"], sort=False):
        found = waterfall(frame, method, task, metric)
        told = [f"{r.removed} {r.change:+.1f}" for r in found.itertuples()
                if r.removed not in (START, SAMPLED) and (r.low > 0 or r.high < 0)]  # fmt: skip
        full = found.loc[found["removed"] == SAMPLED, "value"].iloc[0]
        lines.append(f"- **{method}, {TASK_TITLES[task]}**: {found['value'].iloc[0]:.1f} points as released, "
                     f"{clean(found):.1f} clean, {full:.1f} in full ranking. Of the steps, "
                     f"{', '.join(told) if told else 'none'} {'are' if len(told) > 1 else 'is'} more than chance "
                     "between queries.")  # fmt: skip
    return "\n".join(lines)


def untrained(frame: pd.DataFrame, shaped: pd.DataFrame, metric: str = "NDCG@10") -> pd.DataFrame:
    """What scores that nobody trained get, in points, by the expected and by the released rank.

    Args:
        frame, shaped: from `artefacts.untrained` and `artefacts.underflow`.
    """
    shaped = shaped.assign(method="P(Yes), flan-t5-base's width", task="")
    rows = []
    for (method, task), part in pd.concat([frame, shaped]).groupby(["method", "task"], sort=False):
        ours, theirs = (measure(metric)(part[name].to_numpy()).mean() for name in ("rank", "released"))
        rows.append({"untrained": method, "task": TASK_TITLES.get(task, "–"), "expected rank": f"{100 * ours:.1f}",
                     "released rank": f"{100 * theirs:.1f}", TIES: f"{100 * part['tied'].mean():.0f}"})  # fmt: skip
    return pd.DataFrame(rows)


def perfect(shaped: pd.DataFrame) -> str:
    """Markdown: how many untrained models of `artefacts.underflow` the released rank calls perfect."""
    models = shaped.groupby("model")
    zero, first = (models["zeros"].min() == 1).sum(), (models["released"].max() == 1).sum()
    return (f"Of {models.ngroups} untrained models with a head as flan-t5-base has, {zero} give P(Yes) = 0 for every "
            f"candidate of every query; the released rank puts the target first everywhere for {first} of them, the "
            "expected rank in the middle.")  # fmt: skip


def strings(frame: pd.DataFrame) -> pd.DataFrame:
    """`query_strings` beside the paper's search rows on Amazon, best NDCG@10 first; all numbers as printed there."""
    cells = paper_audit.CELLS
    printed = paper_numbers(3)
    wide = printed[printed["dataset"] == "Amazon"].pivot(index="method", columns="metric", values="value")[cells]
    for name, column in (("expected rank", "rank"), ("released rank", "released")):
        own = per_query_metrics(frame.assign(rank=frame[column]))[cells].mean()
        wide.loc[f"query string alone, {name} (ours)"] = own
    wide = wide.dropna().sort_values("NDCG@10", ascending=False)
    return wide.map("{:.4f}".format).rename_axis(columns=None).reset_index()


def strings_page() -> str:
    """HTML: `strings` and its reading; or what is missing, where neither the table nor the query files are at hand."""
    folder = os.environ.get(ENVIRONMENT)
    try:
        frame = query_strings(QueryStringSettings(), Path(folder) if folder else None)
    except DataError as reason:
        return f"<p>{escape(str(reason))}</p>"
    return f"<p>{escape(strings_reading(frame))}</p>{widgets.table(strings(frame))}"


def strings_reading(frame: pd.DataFrame) -> str:
    """How far the query string alone goes."""
    found, also, tied = (100 * frame[name].mean() for name in ("found", "also", "tied"))
    return (f"In {len(frame):,} searches, {found:.0f} % of the targets and {also:.1f} % of the other candidates were "
            f"bought by somebody else after the same query string; {tied:.0f} % of the targets tie with another "
            "candidate.")  # fmt: skip
