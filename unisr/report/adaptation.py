"""GEMS beside other ways to tune one language model for search and recommendation: quality, what is left of general
knowledge, cost, and the claims of the abstract with a verdict computed from stored runs.

Runs are those of the study `adaptation` (`unisr.variants`): one language model, one budget of steps and of tuning.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from ipywidgets import SelectionSlider

from unisr.analysis.general_knowledge import LM, KnowledgeSettings, knowledge
from unisr.analysis.null_space import simulated_leakage
from unisr.analysis.subspace_conflict import SubspaceConflictSettings, subspace_conflict
from unisr.config import Preset, RunConfig
from unisr.data.schema import TASK_TITLES
from unisr.report import comparison, lineup, widgets
from unisr.report.cost import run_cost
from unisr.report.store import Run
from unisr.report.verdicts import REFUSED, SUPPORTED, UNDECIDED
from unisr.run import build_scorer
from unisr.training.bases import state_numbers
from unisr.variants import STUDIES, label

WHOLE = STUDIES["adaptation"].method
FULL, PEFT = "full fine-tuning", ("LoRA", "DoRA", "a LoRA per task")
AT_ONCE = (FULL, "LoRA", "without null space")
"""Variants that notebook 11 trains by itself at the quick preset."""
METRIC, ALPHA = "NDCG@10", 0.01
READ: dict[Preset, KnowledgeSettings] = {
    "quick": KnowledgeSettings(tokens=6000),
    "small": KnowledgeSettings(tokens=8000),
    "full": KnowledgeSettings(tokens=10_000),
}
"""Less of the general prose, where all of it takes too long."""
WATCHED: dict[Preset, SubspaceConflictSettings] = {
    "quick": SubspaceConflictSettings(probes=4, epochs=1, epoch_examples=300),
    "full": SubspaceConflictSettings(probes=6, users=32, epochs=1, epoch_examples=1600),
}
"""Shorter trainings than the preset's, where a probe costs as much as many steps or time is short."""
BY_LAYER = {
    "weights": "weights changed [of their norm]", "leakage": "share outside the null space",
    "protected": "outputs moved, protected", "free": "outputs moved, free", "null_energy": "energy in the null space",
}  # fmt: skip
"""Measures of `unisr.analysis.null_space` and their columns in `by_layer`."""
EXPECTED_LEAKS = (
    ((64, 64), 16, 40, "33 %"), ((64, 64), 64, 40, "24 %"), ((128, 64), 16, 80, "33 %"), ((64, 128), 16, 40, "none"),
)  # fmt: skip
"""Weight, rank, dimensions of the null space, and what our reading of the released code expects of it."""


def to_make(dataset: str, preset: Preset) -> list[RunConfig]:
    """Configs that notebook 11 runs before it shows anything: none but at the quick preset."""
    if preset != "quick":
        return []
    found = STUDIES["adaptation"].configs(preset, dataset=dataset)
    return [found[variant] for variant in (WHOLE, *AT_ONCE)]


def name(run: Run) -> str:
    """The row of a run: the variant's name, or the method's."""
    return label(run.config)


def quality(runs: Sequence[Run], task: str) -> pd.DataFrame:
    """`comparison` of one task, every row tested against GEMS."""
    return comparison.comparison(runs, task, reference=WHOLE, label=name, alpha=ALPHA)


def known(runs: Sequence[Run]) -> pd.DataFrame:
    """`knowledge` of every run (kept, or computed where it is not), with a column variant."""
    settings = READ.get(runs[0].config.preset, KnowledgeSettings())
    return pd.concat([knowledge(run.config, settings).assign(variant=name(run)) for run in runs], ignore_index=True)


def kept_knowledge(frame: pd.DataFrame) -> pd.DataFrame:
    """What tuning did to general knowledge, one row per variant, means over seeds and over the adapters of tasks.

    Args:
        frame: of `known`.

    Returns:
        columns variant, perplexity (after), nats, nats_low, nats_high (change per token of general prose; more is
        worse), cloze, cloze_low, cloze_high (change of the share answered rightly), distance (relative, of the last
        hidden state), leakage (mean over layers; NaN where no weight changed). Intervals are the outermost ones.
    """
    change, after = frame[frame["weights"] == "change"], frame[frame["weights"] == "after"]
    last = change[change["measure"] == "distance"]
    last = last[last["part"].astype(int) == last["part"].astype(int).max()]
    columns = {"perplexity": after[after["measure"] == "perplexity"].groupby("variant")["value"].mean()}
    for measure in ("nats", "cloze"):
        rows = change[(change["measure"] == measure) & (change["part"] == LM)].groupby("variant")
        columns[measure] = rows["value"].mean()
        columns |= {f"{measure}_low": rows["low"].min(), f"{measure}_high": rows["high"].max()}
    columns["distance"] = last.groupby("variant")["value"].mean()
    columns["leakage"] = change[change["measure"] == "leakage"].groupby("variant")["value"].mean()
    return pd.DataFrame(columns).reindex(dict.fromkeys(frame["variant"])).rename_axis("variant").reset_index()


def before(frame: pd.DataFrame) -> dict[str, float]:
    """Perplexity and cloze accuracy of the language model as it came."""
    rows = frame[frame["weights"] == "before"].groupby("measure")["value"].mean()
    return {"perplexity": float(rows["perplexity"]), "cloze": float(rows["cloze"])}


def means(runs: Sequence[Run]) -> pd.DataFrame:
    """Columns variant, rec and src: `METRIC`, the mean over queries and seeds."""
    rows = [{"variant": name(run), **{task: run.metrics[task][METRIC] for task in TASK_TITLES}} for run in runs]
    return pd.DataFrame(rows).groupby("variant", sort=False).mean().reset_index()


def by_layer(frame: pd.DataFrame, variant: str) -> pd.DataFrame:
    """What tuning changed in each layer of a variant (see `unisr.analysis.null_space.layer_changes`), means over seeds.

    Args:
        frame: of `known`.
    """
    rows = frame[(frame["variant"] == variant) & (frame["weights"] == "change") & frame["measure"].isin(BY_LAYER)]
    wide = rows.pivot_table(index="part", columns="measure", values="value", sort=False)
    return wide.reindex(columns=list(BY_LAYER)).rename(columns=BY_LAYER).rename_axis("layer").reset_index()


def conflict(config: RunConfig, preset: Preset) -> pd.DataFrame:
    """`subspace_conflict` of GEMS' training, watched as `WATCHED` tells, else as the preset trains."""
    return subspace_conflict(config, WATCHED.get(preset, SubspaceConflictSettings()))


def costs(runs: Sequence[Run]) -> pd.DataFrame:
    """Columns variant, trained (numbers), state (numbers the optimizer keeps for them, moments and bases), of_adamw
    (state, relative to AdamW's on the same trained weights), step (seconds), peak_mb; means over seeds."""
    rows = []
    for run in runs:
        found = run_cost(run)
        sizes = _sizes(run.config)
        rows.append({"variant": name(run), **sizes, "step": found["seconds_step"], "peak_mb": found["peak_mb"]})
    return pd.DataFrame(rows).groupby("variant", sort=False).mean().reset_index()


def _sizes(config: RunConfig) -> dict[str, float]:
    scorer = build_scorer(config, "cpu")
    trained = [p for p in scorer.parameters() if p.requires_grad]
    subspace = config.training.subspace
    covered = {layer.weight for layer in scorer.covered().values()} if subspace else set()
    state = sum(state_numbers(p, subspace) if p in covered else 2 * p.numel() for p in trained)
    numbers = sum(p.numel() for p in trained)
    return {"trained": numbers, "state": state, "of_adamw": state / (2 * numbers)}


def summary(means_: pd.DataFrame, knowledge_: pd.DataFrame) -> pd.DataFrame:
    """Quality and knowledge in words, one row per variant in the order of the study.

    Args:
        means_, knowledge_: of `means` and `kept_knowledge`.
    """
    rows = []
    for k in knowledge_.merge(means_, on="variant").itertuples():
        rows.append({
            "tuned by": k.variant, **{f"{METRIC} {title}": getattr(k, task) for task, title in TASK_TITLES.items()},
            "perplexity": f"{k.perplexity:.1f}",
            "change [nats a token]": f"{k.nats:+.3f} ({k.nats_low:+.3f} to {k.nats_high:+.3f})",
            "cloze [points]": f"{100 * k.cloze:+.1f} ({100 * k.cloze_low:+.1f} to {100 * k.cloze_high:+.1f})",
            "states moved [%]": f"{100 * k.distance:.1f}", "outside the null space [%]": _per_cent(k.leakage),
        })  # fmt: skip
    return pd.DataFrame(rows)


def thrift(cost_: pd.DataFrame) -> pd.DataFrame:
    """`costs` in words."""
    rows = [{"tuned by": c.variant, "trained numbers": f"{c.trained:,.0f}", "optimizer state": f"{c.state:,.0f}",
             "of AdamW's on the same": f"{c.of_adamw:.2f}", "ms a step": f"{1000 * c.step:.0f}",
             "peak MB": f"{c.peak_mb:,.0f}"} for c in cost_.itertuples()]  # fmt: skip
    return pd.DataFrame(rows)


def _per_cent(share: float) -> str:
    return "–" if pd.isna(share) else f"{100 * share:.3g}"


def claims(runs: Sequence[Run], knowledge_: pd.DataFrame, cost_: pd.DataFrame, conflict: pd.DataFrame) -> pd.DataFrame:
    """The abstract's claims: columns claim, rule, measured, verdict.

    Args:
        knowledge_, cost_: of `kept_knowledge` and `costs`.
        conflict: of `unisr.analysis.subspace_conflict.subspace_conflict`, of one run or several.
    """
    found = [_better(quality(runs, task), TASK_TITLES[task]) for task in TASK_TITLES]
    found += [_conflicts(conflict), _keeps(knowledge_), _thrifty(cost_)]
    return pd.DataFrame(found, columns=["claim", "rule", "measured", "verdict"])


def reading(found: pd.DataFrame) -> str:
    """Markdown: `claims`, one after the other."""
    return "\n".join(
        f"- **{row.claim}**: {row.measured}. *{row.verdict}* (supported if: {row.rule})" for row in found.itertuples()
    )


def _better(tidy: pd.DataFrame, task: str) -> tuple[str, str, str, str]:
    rows = tidy[tidy["metric"] == METRIC].set_index("method")
    own = rows.loc[WHOLE, "value"]
    others = rows.loc[[v for v in (FULL, *PEFT) if v in rows.index]]
    told = ", ".join(f"{v} {r['value']:.3f}{'*' if r['significant'] else ''}" for v, r in others.iterrows())
    clear = others[others["significant"]]
    verdict = UNDECIDED
    if len(clear) == len(others) and (others["value"] < own).all():
        verdict = SUPPORTED
    elif (clear["value"] > own).any():
        verdict = REFUSED
    rule = f"above each of them, corrected p < {ALPHA:g} (*); not supported if one is clearly above it"
    return f"better {task} than full fine-tuning and PEFT", rule, f"{WHOLE} {own:.3f}; {told} ({METRIC})", verdict


def _conflicts(frame: pd.DataFrame) -> tuple[str, str, str, str]:
    rows = frame[(frame["space"] == "whole") & (frame["layer"] != "all")].dropna(subset=["cosine"])
    share, mean = float((rows["cosine"] < 0).mean()), float(rows["cosine"].mean())
    floor = float(rows[["noise_rec", "noise_src"]].mean().mean())
    verdict = SUPPORTED if share > 0.5 else REFUSED if share < 0.05 else UNDECIDED
    rule = "cosine of the tasks' gradients negative in most layers and probes; not supported below 5 % of them"
    measured = f"negative in {100 * share:.0f} %, mean {mean:.2f}; two halves of one task: {floor:.2f}"
    return "the tasks' gradients conflict", rule, measured, verdict


def _keeps(frame: pd.DataFrame) -> tuple[str, str, str, str]:
    rows = frame.set_index("variant")
    own = rows.loc[WHOLE]
    others = rows.loc[[v for v in (FULL, *PEFT) if v in rows.index]]
    told = ", ".join(f"{v} {r['nats']:+.3f}" for v, r in others.iterrows())
    lower, higher = (own["nats_high"] < others["nats_low"]).all(), (own["nats_low"] > others["nats_high"]).any()
    verdict = SUPPORTED if lower else REFUSED if higher else UNDECIDED
    rule = "interval of the change in nats below that of full fine-tuning, LoRA and DoRA; not supported if above one"
    measured = f"{WHOLE} {own['nats']:+.3f} nats a token; {told}"
    return "keeps more general knowledge than full fine-tuning and PEFT", rule, measured, verdict


def _thrifty(frame: pd.DataFrame) -> tuple[str, str, str, str]:
    rows = frame.set_index("variant")
    own, full = rows.loc[WHOLE], rows.loc[FULL]
    share, pace = own["state"] / full["state"], own["step"] / full["step"]
    verdict = SUPPORTED if share <= 0.5 and pace <= 1.5 else REFUSED if share >= 1 else UNDECIDED
    rule = "at most half of full fine-tuning's optimizer state, and at most 1.5 times its seconds a step"
    return "efficient", rule, f"{share:.2f} of its state, {pace:.2f} times its step", verdict


def leaks() -> pd.DataFrame:
    """Share of an update outside the null space, in per cent, in the clean and the released form, on random gradients
    (`unisr.analysis.null_space.simulated_leakage`), beside what the audit of the released code expects."""
    rows = []
    for shape, rank, null, expected in EXPECTED_LEAKS:
        clean, released = (
            [simulated_leakage(shape, rank=rank, null=null, side=side, seed=seed) for seed in range(5)]
            for side in ("input", "output")
        )
        rows.append({"weight [o, i]": f"{shape[0]} x {shape[1]}", "rank": rank, "null space": null,
                     "inputs, last [%]": f"{100 * np.mean(clean):.2g}",
                     "outputs, before Adam (released) [%]": f"{100 * np.mean(released):.2g}",
                     "expected of the released form": expected})  # fmt: skip
    return pd.DataFrame(rows)


def turned(dataset: str, preset: Preset) -> pd.DataFrame:
    """Stored runs of the study `subspace`, one row per setting and value, means over seeds.

    Returns:
        columns setting (rank, gap, null space), value, seeds, rec, src (`METRIC`), nats (change of general knowledge
        per token), distance (see `kept_knowledge`); `attrs["own"]`: GEMS' own value of each setting. Where no run of
        the study is stored, GEMS alone.
    """
    runs = lineup.stored_variants(dataset, preset, "subspace")["uniform"]
    left = kept_knowledge(known(runs)).set_index("variant")
    space = runs[0].config.training.subspace
    own = {"rank": float(space.rank), "gap": float(space.gap), "null space": space.null_space.energy}
    rows = []
    for run in runs:
        variant = STUDIES["subspace"].name_of(run.config)
        setting, _, value = variant.rpartition(" ")
        for changed, at in own.items() if variant == WHOLE else [(setting, value)]:
            rows.append({"setting": changed, "value": float(at), "seed": run.config.seed,
                         **{task: run.metrics[task][METRIC] for task in TASK_TITLES},
                         **left.loc[name(run), ["nats", "distance"]]})  # fmt: skip
    groups = pd.DataFrame(rows).groupby(["setting", "value"])
    frame = groups[["rec", "src", "nats", "distance"]].mean()
    frame.insert(0, "seeds", groups["seed"].nunique())
    frame = frame.reset_index()
    frame.attrs["own"] = own
    return frame


def sliders(frame: pd.DataFrame) -> dict[str, SelectionSlider]:
    """A slider per setting of `turned` over its stored values, at GEMS' own."""
    own = frame.attrs["own"]
    return {
        setting.replace(" ", "_"): widgets.slider(setting, rows["value"].tolist(), own[setting])
        for setting, rows in frame.groupby("setting", sort=False)
    }


def at(frame: pd.DataFrame, **values: float) -> str:
    """HTML: the rows of `turned` at one value of each setting; each row has GEMS' own values of the others."""
    names = {"nats": "change [nats a token]", "distance": "last state moved [of its norm]"}
    names |= {task: f"{METRIC} {title}" for task, title in TASK_TITLES.items()}
    asked = [(setting.replace("_", " "), value) for setting, value in values.items()]
    rows = frame.set_index(["setting", "value"]).loc[asked].reset_index()
    own = [frame.attrs["own"][setting] for setting in rows["setting"]]
    rows.insert(2, "GEMS' own", own)
    return widgets.table(rows.rename(columns=names))
