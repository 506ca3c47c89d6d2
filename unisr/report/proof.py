"""The proof of Theorem 4.1 step by step: what each step says, what the simulation gives, and a verdict by one rule.

Rule: a step claims something for all settings. It is not supported where more than `CHANCE` of the settings have a 95 %
interval on the wrong side, supported where at most that many do and more than half have it on the right side, and
undecided else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from unisr.analysis import theory

CHANCE = 0.05
"""Share of settings whose interval may lie on the wrong side by chance."""
TOLERANCE = 0.06
"""Nats within which a closed form agrees with the measured information."""


@dataclass(frozen=True)
class Shares:
    """Shares of settings whose interval is on the claimed side, on the other, and neither."""

    right: float
    wrong: float
    count: int

    @property
    def verdict(self) -> str:
        if self.wrong > CHANCE:
            return "not supported"
        return "supported" if self.right > 0.5 else "undecided"

    def __str__(self) -> str:
        return f"clearly so in {self.right:.0%} of {self.count} settings, clearly not in {self.wrong:.0%}"


def shares(grid: pd.DataFrame, measure: str, *, lower: bool) -> Shares:
    """How often the vector per task is clearly lower (or higher) than the shared one.

    Args:
        grid: from `theory.grid`; settings without a finite difference are left out.
    """
    rows = grid[(grid["measure"] == measure) & grid["low"].notna()]
    below, above = float((rows["high"] < 0).mean()), float((rows["low"] > 0).mean())
    return Shares(*((below, above) if lower else (above, below)), len(rows))


def steps(grid: pd.DataFrame, terms: pd.DataFrame, channel: pd.DataFrame) -> pd.DataFrame:
    """One row per step: columns step, kind (assumed or derived), simulation, verdict.

    Args:
        grid: from `theory.grid`; terms: from `expansion`; channel: from `unisr.report.theorem.channel`.
    """
    hessian, own = shares(grid, "hessian", lower=True), shares(grid, "own", lower=True)
    error, agree = shares(grid, "error", lower=True), _agreement(grid)
    squared, label = shares(grid, "squared", lower=False), shares(grid, "label", lower=False)
    bound = _within_bound(grid)
    rows = [
        ("Taylor: the linear part of the expansion dominates", "assumed", *_linear(terms)),
        ("Taylor: Δ ≈ -H⁻¹R, without the gradient at w*", "assumed", *_remainder(terms)),
        ("the generative inverse Hessian is not larger", "assumed", str(hessian), hessian.verdict),
        ("Eq. 14, each error from its own true parameter", "derived", str(own), own.verdict),
        ("Eq. 14, both errors from the tasks' w_t", "derived", f"{error}; {_edge(grid)}", error.verdict),
        ("Eq. 15 as printed, with w", "quoted", *_channel(channel, "printed")),
        ("Eq. 15 with w² in place of w", "quoted", *_channel(channel, "squared")),
        ("a smaller error gives a higher I (Eq. 15, w²)", "derived",
         f"so in {agree.right:.0%} of {agree.count} settings where both differ clearly", agree.verdict),
        ("I(X; Ŷ) nears I(X; Y) from below", "derived",
         f"below it in {bound.right:.0%} of {bound.count} settings, above it in {bound.wrong:.0%}", bound.verdict),
        ("Eq. 4, by Eq. 15 with w²", "conclusion", str(squared), squared.verdict),
        ("Eq. 4, by what the prediction tells of Y", "conclusion", str(label), label.verdict),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["step", "kind", "simulation", "verdict"])


def reading(table: pd.DataFrame, grid: pd.DataFrame) -> str:
    """Markdown: the steps the simulation supports, those it does not, and what carries the conclusion.

    Args:
        table: from `steps`.
    """
    named = {verdict: rows["step"].tolist() for verdict, rows in table.groupby("verdict")}
    lines = [f"- **{verdict}**: {'; '.join(named.get(verdict, ['none']))}."
             for verdict in ("supported", "not supported", "undecided")]  # fmt: skip
    assumed = table[(table["kind"] == "assumed") & (table["verdict"] != "supported")]["step"].tolist()
    carried = (f"Eq. 14 rests on what does not hold here: {'; '.join(assumed)}. Across two paradigms with different "
               "true parameters no inequality holds in general: sharing adds a bias that grows with the tasks' "
               "difference, and saves variance that grows with noise and with dimension over samples."
               if assumed else "The assumptions about both paradigms hold in this simulation.")  # fmt: skip
    return "\n".join([*lines, "", carried, "", _other_reason(grid)])


def verdict(table: pd.DataFrame) -> str:
    """Markdown: the theorem's verdict, by the conclusion's two readings."""
    last = table[table["kind"] == "conclusion"]["verdict"].tolist()
    whole = last[0] if len(set(last)) == 1 else "not supported" if "not supported" in last else "undecided"
    return (f"Theorem 4.1 as a statement for all settings of its own model: **{whole}** (Eq. 4 by Eq. 15 with w²: "
            f"{last[0]}; by I(ŵX; Y): {last[1]}). Rule: not supported where more than {CHANCE:.0%} of the settings "
            "have a 95 % interval on the wrong side; supported where at most that many do and more than half are "
            "clearly on the right side; undecided else.")  # fmt: skip


def _linear(terms: pd.DataFrame) -> tuple[str, str]:
    part = terms["dropped"] / terms["error"]
    told = f"logistic loss, {_sizes(terms)}: -H⁻¹∇L is {part.iloc[0]:.0%} to {part.iloc[-1]:.0%} of the error's length"
    return told, "supported" if part.min() > 0.5 else "not supported"


def _remainder(terms: pd.DataFrame) -> tuple[str, str]:
    part = terms["kept"] / terms["error"]
    told = (f"squared loss: R = 0, so the error would be 0; logistic loss, {_sizes(terms)}: -H⁻¹R is "
            f"{part.iloc[0]:.0%} to {part.iloc[-1]:.0%} of the error's length")  # fmt: skip
    return told, "supported" if part.min() > 0.5 else "not supported"


def _sizes(terms: pd.DataFrame) -> str:
    return f"{terms['samples'].min()} to {terms['samples'].max()} samples"


def _channel(channel: pd.DataFrame, form: str) -> tuple[str, str]:
    """A form of Eq. 15 against what samples give; no value counts as wrong."""
    off = (channel[form] - channel["measured"]).abs()
    wrong = channel["w"][~(off <= TOLERANCE)].tolist()
    told = (f"off by more than {TOLERANCE} nats at w = {', '.join(f'{w:g}' for w in wrong)}" if wrong else
            f"within {off.max():.2f} nats of what samples give at every w")  # fmt: skip
    return told, "not supported" if wrong else "supported"


def _agreement(grid: pd.DataFrame) -> Shares:
    """Settings where error and I both differ clearly: does the smaller error have the larger I?"""
    at = ["dimension", "samples", "noise", "similarity"]
    sign = grid.assign(sign=np.sign(grid["low"]) * (np.sign(grid["low"]) == np.sign(grid["high"])))
    wide = sign.pivot(index=at, columns="measure", values="sign")
    clear = wide[(wide["error"] != 0) & (wide["squared"] != 0)]
    right = float((clear["error"] == -clear["squared"]).mean()) if len(clear) else 0.0
    return Shares(right, 1 - right if len(clear) else 0.0, len(clear))


def _within_bound(grid: pd.DataFrame) -> Shares:
    rows = grid[grid["measure"] == "squared"]
    above = float((rows["estimator"] > 2 * theory.information(1.0, rows["noise"].to_numpy())).mean())
    return Shares(1 - above, above, len(rows))


def _edge(grid: pd.DataFrame) -> str:
    """How the exact break-even similarity agrees with the settings that are clear."""
    rows = grid[(grid["measure"] == "error") & ((grid["high"] < 0) | (grid["low"] > 0))]
    edges = np.array([theory.break_even(int(r.dimension), int(r.samples), float(r.noise)) for r in rows.itertuples()])
    known = np.isfinite(edges)
    right = ((rows["similarity"] < edges) == (rows["high"] < 0))[known]
    return f"it holds below a break-even similarity, whose closed form is right in {right.mean():.0%} of the clear ones"


def _other_reason(grid: pd.DataFrame) -> str:
    """Where the conclusion holds although its reason does not."""
    at = ["dimension", "samples", "noise", "similarity"]
    wide = {m: grid[grid["measure"] == m].set_index(at) for m in ("error", "squared")}
    worse, more = wide["error"]["low"] > 0, wide["squared"]["low"] > 0
    equal = wide["error"].index.get_level_values("similarity") == 1.0
    return (f"In {(worse & more).mean():.0%} of the settings the vector per task has the clearly larger error and "
            "yet the clearly larger I by Eq. 15: that formula knows the length of ŵ only, which noise adds to and "
            "averaging two tasks takes from, and not where ŵ points. With equal tasks sharing has the clearly smaller "
            f"error in {worse[equal].mean():.0%} of the settings, and the vector per task the clearly larger I in "
            f"{more[equal].mean():.0%}.")  # fmt: skip
