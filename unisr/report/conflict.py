"""Gradient conflict as in Fig. 4 of the GenSR paper: curves, parts, the paper's claims, and aggregators compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from unisr.analysis.gradient_conflict import ConflictSettings, conflict
from unisr.config import Preset, RunConfig
from unisr.data.schema import TASK_TITLES
from unisr.errors import UnisrError
from unisr.random import generator
from unisr.report import comparison
from unisr.report.lineup import named
from unisr.report.store import Run
from unisr.report.studies import number
from unisr.report.verdicts import REFUSED, SUPPORTED, UNDECIDED
from unisr.variants import label

SETTINGS: dict[str, ConflictSettings] = {
    "quick": ConflictSettings(probes=12, epochs=2, epoch_examples=1000),
    "small": ConflictSettings(probes=36, epochs=3, epoch_examples=6000),
    "full": ConflictSettings(probes=100),
    "paper": ConflictSettings(probes=200),
}
"""How trainings of a preset are watched; at quick and small they are shorter than those of the stored runs."""
SEEDS = {"quick": 1, "small": 3, "full": 3, "paper": 3}
"""Trainings that are watched of each method at a preset, with seeds from 0."""
PAPER_LAYER = "the paper's layer"
SEVERE = -0.5
"""The paper: UniSAR dips "often around or below -0.5"."""
OFTEN, SOMETIMES, RARELY = 0.2, 0.05, 0.05
"""Shares of probes: "frequently" negative, "often" severe, and what "consistently positive" may leave out."""
FEWEST = 30
"""Probes of a method below which every verdict is undecided."""
PLAIN = "sum (plain)"
HALVES = {"same users": "within", "other users": "across", "rec with itself": "noise_rec",
          "src with itself": "noise_src"}  # fmt: skip
"""Titles of the columns that compare gradients of half a batch each."""
FAINT = 0.1
"""What a cosine must exceed to be called anything."""


def measured(dataset: str, preset: Preset, methods: str, *, seeds: int = 0) -> pd.DataFrame:
    """`unisr.analysis.gradient_conflict.conflict` of all methods and of seeds from 0; trained where not kept.

    Args:
        methods: registered joint methods with commas between them.
        seeds: how many; 0 takes the preset's number.

    Raises:
        UnknownNameError: no such method or dataset.
        ConfigError: a method does not do both tasks.
    """
    configs = [
        RunConfig(method=name, dataset=dataset, preset=preset, seed=seed)
        for name in named(methods, list(TASK_TITLES)) for seed in range(seeds or SEEDS[preset])
    ]  # fmt: skip
    return pd.concat([conflict(config, SETTINGS[preset]) for config in configs], ignore_index=True)


def parts(frame: pd.DataFrame) -> list[str]:
    """What can be looked at in every method: the paper's layer (where all have one) and the groups."""
    groups = frame[frame["kind"] == "group"]
    found = [part for part in groups["part"].unique() if _has_all(groups[groups["part"] == part], frame)]
    return [PAPER_LAYER, *found] if _has_all(frame[frame["paper"]], frame) else found


def _has_all(rows: pd.DataFrame, frame: pd.DataFrame) -> bool:
    return set(rows["method"]) == set(frame["method"])


def of_part(frame: pd.DataFrame, part: str = PAPER_LAYER) -> pd.DataFrame:
    """The rows of one part, a row per probe (none where a gradient was zero); `number` counts the probes of a training
    from 0.

    Raises:
        UnisrError: no method has this part.
    """
    rows = frame[frame["paper"]] if part == PAPER_LAYER else frame[(frame["kind"] == "group") & (frame["part"] == part)]
    if rows.empty:
        raise UnisrError(f"no method has the part {part!r}; there are {', '.join(parts(frame))}")
    return rows.assign(number=rows.groupby(["method", "seed"]).cumcount()).dropna(subset=["cosine"])


def layers(frame: pd.DataFrame) -> pd.DataFrame:
    """What stands for the paper's layer in every method, and the training that was watched."""
    rows = []
    for name, own in frame.groupby("method", sort=False):
        chosen = own.loc[own["paper"], "part"]
        rows.append({
            "method": name, "layer": chosen.iloc[0] if len(chosen) else "none: has no shared self-attention layer",
            "seeds": own["seed"].nunique(), "epochs": int(own["trained_epochs"].iloc[0]),
            "examples per epoch": int(own["epoch_examples"].iloc[0]), "steps": int(own["step"].max()) + 1,
            "probes per seed": own.groupby("seed")["step"].nunique().max(),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _share(hits: pd.Series) -> tuple[float, float, float]:
    """A share of probes with its 95 % Wilson interval, which takes probes as independent."""
    low, high = proportion_confint(int(hits.sum()), len(hits), method="wilson")
    return float(hits.mean()), float(low), float(high)


def summary(frame: pd.DataFrame, part: str = PAPER_LAYER) -> pd.DataFrame:
    """One row per method: probes, shares of negative and of severe cosines with intervals, mean and standard deviation
    of the cosine; like for like at half the batch, the tasks on the same and on other users and each task with itself
    on other users; the median norm ratio.
    """
    rows = []
    for name, own in of_part(frame, part).groupby("method", sort=False):
        negative, severe = _share(own["cosine"] < 0), _share(own["cosine"] <= SEVERE)
        rows.append({
            "method": name, "seeds": own["seed"].nunique(), "probes": len(own),
            "negative": _interval(negative), f"at or below {SEVERE}": _interval(severe),
            "mean cosine": float(own["cosine"].mean()), "sd": float(own["cosine"].std()),
            **{title: float(own[column].mean()) for title, column in HALVES.items()},
            "norm src / rec": float(own["norm_ratio"].median()),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _interval(values: tuple[float, float, float]) -> str:
    share, low, high = values
    return f"{share:.0%} ({low:.0%} to {high:.0%})"


@dataclass(frozen=True)
class Claim:
    """A statement of the paper, what we find, and whether the numbers support it."""

    paper: str
    ours: str
    verdict: str
    rule: str


def claims(frame: pd.DataFrame, part: str = PAPER_LAYER, *, generative: str = "GenSR",
           discriminative: str = "UniSAR") -> pd.DataFrame:  # fmt: skip
    """Section 6.5's statements on the two methods beside ours: columns paper, ours, verdict, rule."""
    rows = of_part(frame, part)
    found = {name: rows[rows["method"] == name] for name in (discriminative, generative)}
    known = [name for name, own in found.items() if len(own)]
    listed = []
    if discriminative in known:
        own = found[discriminative]["cosine"]
        listed += [
            _share_claim(f"{discriminative} frequently dips into the negative range", own < 0, OFTEN, above=True),
            _share_claim(f"{discriminative} is often around or below {SEVERE}", own <= SEVERE, SOMETIMES, above=True),
        ]
    if generative in known:
        own = found[generative]["cosine"]
        listed.append(_share_claim(f"{generative} is consistently positive", own < 0, RARELY, above=False))
    if len(known) == 2:
        listed += _contrasts(found[discriminative], found[generative], discriminative, generative)
    return pd.DataFrame([vars(claim) for claim in listed], columns=["paper", "ours", "verdict", "rule"])


def _share_claim(text: str, hits: pd.Series, threshold: float, *, above: bool) -> Claim:
    share, low, high = _share(hits)
    side = "above" if above else "below"
    rule = f"the share's whole interval lies {side} {threshold:.0%}; not supported if on the other side"
    ours = f"{_interval((share, low, high))} of {len(hits)} probes"
    inside = low > threshold if above else high < threshold
    outside = high < threshold if above else low > threshold
    return Claim(text, ours, _verdict(inside, outside, len(hits)), rule)


def _contrasts(first: pd.DataFrame, second: pd.DataFrame, one: str, other: str) -> list[Claim]:
    """The second method's cosines are higher, and vary less; probes of one number and seed are a pair."""
    both = first.merge(second, on=["seed", "number"], suffixes=("_one", "_other"))[["cosine_one", "cosine_other"]]
    pairs = both.dropna().to_numpy()
    rng = generator(0, "gradient conflict", "bootstrap")
    draws = pairs[rng.integers(0, len(pairs), (2000, len(pairs)))]
    gaps = draws[..., 1].mean(1) - draws[..., 0].mean(1)
    spreads = draws[..., 1].std(1) / np.maximum(draws[..., 0].std(1), 1e-12)
    (low, high), (least, most) = (np.quantile(values, [0.025, 0.975]) for values in (gaps, spreads))
    gap, spread = pairs[:, 1].mean() - pairs[:, 0].mean(), pairs[:, 1].std() / max(pairs[:, 0].std(), 1e-12)
    rule = "95 % bootstrap interval over pairs of probes excludes {}"
    return [
        Claim(f"{other} has less conflict than {one}", f"mean cosine {gap:+.2f} ({low:+.2f} to {high:+.2f})",
              _verdict(low > 0, high < 0, len(pairs)), rule.format("0")),
        Claim(f"{other}'s curve has a smaller amplitude",
              f"standard deviation {spread:.2f} times {one}'s ({least:.2f} to {most:.2f})",
              _verdict(most < 1, least > 1, len(pairs)), rule.format("1")),
    ]  # fmt: skip


def _verdict(supported: bool, refuted: bool, probes: int) -> str:
    if probes < FEWEST:
        return f"{UNDECIDED}: {probes} probes, fewer than {FEWEST}"
    return SUPPORTED if supported else REFUSED if refuted else UNDECIDED


def reading(frame: pd.DataFrame, part: str = PAPER_LAYER) -> str:
    """Markdown: where each method's cosines stand against zero and against what noise alone leaves."""
    return "\n".join(f"- **{row['method']}**: {_told(row)}" for row in summary(frame, part).to_dict("records"))


def _told(row: dict[str, float]) -> str:
    between, itself = row["other users"], min(row["rec with itself"], row["src with itself"])
    text = (f"the tasks' gradients agree by {between:+.2f} on different users, while each task agrees with itself "
            f"by at least {itself:+.2f}. ")  # fmt: skip
    if itself < FAINT:
        text += "The gradients of one task hardly agree with themselves: noise hides whatever the tasks do. "
    elif abs(between) < FAINT * itself:
        text += "Between the tasks there is neither conflict nor help to speak of. "
    else:
        text += f"On the whole one task {'opposes' if between < 0 else 'helps'} the other. "
    if row["same users"] - between > FAINT:
        text += (f"On the same users they agree by {row['same users']:+.2f}: the rest is noise of the users drawn, "
                 "which both tasks share; a curve of one mini-batch looks better than the tasks agree. ")  # fmt: skip
    return text.strip()


def aggregators(runs: Sequence[Run], task: str) -> pd.DataFrame:
    """`comparison` of one task between aggregators (study `aggregators`), each tested against the plain sum."""

    def row(run: Run) -> str:
        name = label(run.config)
        return PLAIN if name == run.config.method else name

    return comparison.comparison(runs, task, reference=PLAIN, label=row)


def repair_reading(found: Mapping[str, pd.DataFrame], metric: str = "NDCG@10") -> str:
    """Markdown: which aggregators differ clearly from the plain sum, by task."""
    lines = []
    for task, tidy in found.items():
        rows = tidy[tidy["metric"] == metric].set_index("method")
        others = rows.drop(index=PLAIN, errors="ignore")
        told = ", ".join(f"{name} {row['value']:.3f} ({row['difference']:+.3f}"
                         f"{', clear' if row['significant'] else ''})" for name, row in others.iterrows())  # fmt: skip
        lines.append(f"- **{TASK_TITLES[task]}**: plain sum {rows.loc[PLAIN, 'value']:.3f} {metric}; {told}. "
                     f"{'Some differ' if others['significant'].any() else 'None differs'} from the sum by the "
                     f"corrected paired test; {number(int(rows['seeds'].min()), 'seed')}.")  # fmt: skip
    return "\n".join(lines)
