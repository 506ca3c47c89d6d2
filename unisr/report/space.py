"""Notebook 06: how far the tasks' hidden states are apart, beside the paper's claim and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from unisr.analysis import parameter_space
from unisr.analysis.parameter_space import DATA, FINAL, SpaceSettings
from unisr.config import RunConfig
from unisr.errors import StoreError, UnisrError
from unisr.report import lineup, store
from unisr.report.groups import has_preset_settings
from unisr.report.widgets import table

CLAIMS = {"UniSAR": "overlap", "GenSR": "separation"}
"""What the paper says of the tasks' hidden states (Fig. 3b, 3c; on KuaiSAR)."""
UNITS = {"accuracy": "accuracy [0–1], .5 is chance", "silhouette": "silhouette [-1–1]",
         "angle": "mean principal angle [degrees]", "equal": "users whose two states are equal [0–1]"}  # fmt: skip
CEILING = 0.99
"""Accuracy from which an untrained model leaves nothing to gain, so that the silhouette decides."""
COLUMNS = {
    "trained": ("trained", "tasks"), "untrained": ("untrained", "tasks"), "data": ("none", "tasks"),
    "shuffled tasks": ("*", "shuffled"), "halves of a task": ("*", "halves"),
}  # fmt: skip


@dataclass(frozen=True, repr=False)
class Spaces:
    """Tables of `unisr.analysis.parameter_space` of several runs, and which methods have none."""

    numbers: pd.DataFrame
    places: pd.DataFrame
    missing: list[str]

    @property
    def methods(self) -> list[str]:
        """Methods that there are, without the data."""
        return [name for name in self.numbers["method"].unique() if name != DATA]

    def layers(self, method: str) -> list[str]:
        return self.numbers.loc[self.numbers["method"] == method, "layer"].unique().tolist()

    def main(self, method: str) -> str:
        """The layer that stands for the paper's: the shared self-attention layer, or the final state without one."""
        rows = self.numbers[(self.numbers["method"] == method) & self.numbers["main"]]
        return rows["layer"].iloc[0]

    def __repr__(self) -> str:
        seeds = self.numbers[self.numbers["method"] != DATA].groupby("method", sort=False)["seed"].nunique()
        text = "Seeds: " + ", ".join(f"{name} {count}" for name, count in seeds.items()) + "."
        queries = int(self.numbers["queries"].max())
        text += f" {queries} queries, about half of them of each task."
        return text + ("\n\nNot shown: " + "; ".join(self.missing) + "." if self.missing else "")

    _repr_markdown_ = __repr__


def spaces(dataset: str, preset: str, methods: str, settings: SpaceSettings | None = None) -> Spaces:
    """Both tables for every stored run (at the quick preset: for seed 0, trained where missing) and for the data.

    Args:
        methods: names with commas between them; each must do both tasks.

    Raises:
        UnknownNameError, ConfigError: a name is not registered, or does none of the tasks.
        StoreError: no method has a table, or a run to make it of; the message says how to make one.
    """
    settings = settings or of_preset(preset)
    names, missing, tables = lineup.named(methods, ["rec", "src"]), [], []
    configs = [config for name in names for config in _configs(name, dataset, preset)]
    for config in configs:
        try:
            tables.append((parameter_space.numbers(config, settings), parameter_space.coordinates(config, settings)))
        except StoreError as reason:
            missing.append(f"{config.method} seed {config.seed} ({reason})")
    missing += [f"{name} (no stored run)" for name in names if name not in {c.method for c in configs}]
    if not tables:
        command = f"unisr reproduce --data {dataset} --preset {preset} --methods {','.join(names)}"
        raise StoreError(f"no hidden states on {dataset}, preset {preset}: {'; '.join(missing)}; run `{command}`")
    tables.append(parameter_space.data_space(configs[0], settings))
    numbers, places = (pd.concat(part, ignore_index=True) for part in zip(*tables, strict=True))
    return Spaces(numbers, places, missing)


def of_preset(preset: str) -> SpaceSettings:
    """Few queries, the main layers and no UMAP at the quick preset."""
    quick = SpaceSettings(queries=100, layers="main", shuffles=3, points=60, umap=False)
    return quick if preset == "quick" else SpaceSettings()


def _configs(method: str, dataset: str, preset: str) -> list[RunConfig]:
    if preset == "quick":
        return [RunConfig(method=method, dataset=dataset, preset="quick")]
    runs = [run for run in store.runs(dataset, preset, method) if has_preset_settings(run)]
    return [run.config for run in runs if run.config.candidates == "uniform"]


def chosen(all_: Spaces, method: str, layer: str, projection: str, weights: str) -> pd.DataFrame:
    """Points of the lowest seed: columns task, x, y.

    Raises:
        UnisrError: the table lacks the choice; the message says what the method has.
    """
    own = all_.places[all_.places["method"] == method]
    rows = own[(own["layer"] == layer) & (own["projection"] == projection) & (own["weights"] == weights)]
    if rows.empty:
        there = "; ".join(f"{name}: {', '.join(some.unique())}" for name, some in own.groupby("layer")["projection"])
        raise UnisrError(f"{method} has no {projection} of layer {layer!r} here; it has {there}")
    return rows[rows["seed"] == rows["seed"].min()]


def numbers_table(all_: Spaces, method: str, layer: str) -> str:
    """HTML: every measure of a layer with its controls, means over seeds and the widest interval."""
    rows = all_.numbers[(all_.numbers["method"] == method) & (all_.numbers["layer"] == layer)]
    shown = []
    for measure, unit in UNITS.items():
        cells = {name: _cell(rows, measure, *key) for name, key in COLUMNS.items()}
        shown.append({"measure": unit, **cells})
    frame = pd.DataFrame(shown)
    return table(frame.loc[:, (frame != "").any()], caption=f"{method}, {layer}")


def _cell(rows: pd.DataFrame, measure: str, weights: str, labels: str) -> str:
    rows = rows[(rows["measure"] == measure) & (rows["labels"] == labels)]
    rows = rows[rows["weights"] != "untrained"] if weights == "*" else rows[rows["weights"] == weights]
    digits = 1 if measure == "angle" else 2
    if rows.empty:
        return ""
    ends = rows["value"].mean(), rows["low"].min(), rows["high"].max()
    value, low, high = (f"{round(x, digits) + 0.0:.{digits}f}" for x in ends)  # + 0.0: no minus before a zero
    return f"{value} ({low} to {high})"


def beside_paper(all_: Spaces) -> pd.DataFrame:
    """One row per method and layer kind (the shared layer, the final state): the paper's claim and ours.

    Columns method, layer, seeds, paper, accuracy, untrained, shuffled, silhouette, silhouette untrained, verdict; the
    verdicts follow `verdict`.
    """
    rows = []
    for method in all_.methods:
        for layer in dict.fromkeys([all_.main(method), FINAL]):
            own = all_.numbers[(all_.numbers["method"] == method) & (all_.numbers["layer"] == layer)]
            rows.append({
                "method": method, "layer": layer, "seeds": own["seed"].nunique(), "paper": CLAIMS.get(method, "–"),
                "accuracy": _cell(own, "accuracy", "trained", "tasks"),
                "untrained": _cell(own, "accuracy", "untrained", "tasks"),
                "shuffled": _cell(own, "accuracy", "*", "shuffled"),
                "silhouette": _cell(own, "silhouette", "trained", "tasks"),
                "silhouette, untrained": _cell(own, "silhouette", "untrained", "tasks"),
                "verdict": verdict(own, CLAIMS.get(method, "")),
            })  # fmt: skip
    return pd.DataFrame(rows)


RULE = (
    "Tasks are apart where the accuracy's interval lies above that of shuffled tasks, and together where it does not. "
    "Separation counts as learned where the interval lies above the untrained model's; where that one has an accuracy "
    f"of {CEILING} or more already, the silhouette decides. *Overlap* is supported where the tasks are together in "
    "every seed, not supported where they are apart in every seed; undecided where most users' two states are equal: "
    "then the layer does not see the task, and would overlap whatever is learned. *Separation* is supported where it "
    "is learned in every seed, and not supported where it is in none. All else is undecided."
)


def verdict(rows: pd.DataFrame, claim: str) -> str:
    """The verdict on one layer of one method by `RULE`, with its reason; empty without a claim.

    Args:
        rows: of `Spaces.numbers`, one method and layer.
    """
    if not claim:
        return ""
    seeds = [own for _, own in rows.groupby("seed")]
    apart = [_above(_pick(s, "accuracy", "trained"), _pick(s, "accuracy", "trained", "shuffled")) for s in seeds]
    if claim == "overlap":
        if any(_pick(s, "equal", "trained")["value"] > 0.5 for s in seeds):
            return "undecided: the layer does not see the task"
        return _word([not a for a in apart], "together" if not any(apart) else "apart")
    learned = [a and _learned(s) for a, s in zip(apart, seeds, strict=True)]
    reason = "more apart than untrained" if any(learned) else "apart, but so is the untrained model"
    return _word(learned, reason if any(apart) else "together")


def _word(holds: Sequence[bool], reason: str) -> str:
    word = "supported" if all(holds) else "undecided" if any(holds) else "not supported"
    return f"{word}: {reason}" if word != "undecided" else "undecided: the seeds disagree"


def _learned(rows: pd.DataFrame) -> bool:
    full = _pick(rows, "accuracy", "untrained")["value"] >= CEILING
    measure = "silhouette" if full else "accuracy"
    return _above(_pick(rows, measure, "trained"), _pick(rows, measure, "untrained"))


def _pick(rows: pd.DataFrame, measure: str, weights: str, labels: str = "tasks") -> pd.Series:
    found = rows[(rows["measure"] == measure) & (rows["weights"] == weights) & (rows["labels"] == labels)]
    return found.iloc[0]


def _above(one: pd.Series, other: pd.Series) -> bool:
    return bool(one["low"] > other["high"])


def reading(all_: Spaces) -> str:
    """Markdown: the verdicts with their seeds, and what the controls take away from what the eye sees."""
    compared = beside_paper(all_)
    lines = [f"- **{row.method}, {row.layer}**: {row.verdict} (paper: {row.paper}; seeds: {row.seeds})."
             for row in compared.itertuples() if row.verdict]  # fmt: skip
    data = all_.numbers[(all_.numbers["method"] == DATA) & (all_.numbers["labels"] == "tasks")]
    for layer, rows in data.groupby("layer", sort=False):
        values = rows.set_index("measure")["value"]
        lines.append(f"- **data, {layer}**: a linear rule names the task of {values['accuracy']:.0%} of the queries "
                     f"before any model; {values['equal']:.0%} of the users have the same for both tasks.")  # fmt: skip
    for method in all_.methods:
        own = all_.numbers[(all_.numbers["method"] == method) & (all_.numbers["layer"] == all_.main(method))]
        cells = {name: _cell(own, "angle", *key) for name, key in COLUMNS.items()}
        told = ", ".join(f"{name} {cell}" for name, cell in cells.items() if cell)
        lines.append(f"- **{method}, {all_.main(method)}, principal angle [degrees]**: {told}.")
    words = [row.verdict.split(":")[0] for row in compared.itertuples() if row.verdict]
    whole = "supported" if set(words) == {"supported"} else "undecided" if "supported" in words else "not supported"
    told = (f"The paper's contrast as a whole: **{whole}**; {words.count('supported')} of {len(words)} rows "
            "with a claim support it (supported where all do, not supported where none does, undecided else).")
    return "\n".join([*lines, "", *([told, ""] if words else []), f"Rule: {RULE}"])
