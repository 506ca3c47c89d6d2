"""Verdicts and tables of mutual information from frames made by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest

from unisr.analysis.input_output import CONTROLS, QUANTITIES, RELEVANCE, RESPONSE, InputOutput
from unisr.analysis.mutual_information import ESTIMATORS
from unisr.errors import ConfigError
from unisr.report import information, information_figures
from unisr.report.verdicts import REFUSED, SUPPORTED, UNDECIDED


def row(method: str, value: float, **fields: object) -> dict[str, object]:
    given = {"method": method, "against": "", "control": "trained", "task": "src", "quantity": RELEVANCE,
             "estimator": "MINE", "seed": 0, "value": value, "low": value - 0.05, "high": value + 0.05,
             "trained_on": value + 0.1, "n": 300}  # fmt: skip
    return given | fields


def whole(gain: dict[str, float] | float = 0.1, seeds: tuple[int, ...] = (0, 1, 2)) -> pd.DataFrame:
    """GenSR above UniSAR by `gain` (of a task, or of both) everywhere."""
    gains = gain if isinstance(gain, dict) else {"rec": gain, "src": gain}
    rows = []
    for task, quantity, estimator, seed in product(("rec", "src"), QUANTITIES, ESTIMATORS, seeds):
        cell = {"task": task, "quantity": quantity, "estimator": estimator, "seed": seed}
        rows.append(row("UniSAR", 0.3, **cell))
        rows.append(row("GenSR", 0.3 + gains[task], **cell))
        rows.append(row("UniSAR", -gains[task], against="GenSR", **cell))
        if seed == seeds[0]:
            rows += [row(m, 0.0, **cell, control=c) for m in ("UniSAR", "GenSR") for c in CONTROLS[1:]]
    return pd.DataFrame(rows)


def test_the_claim_holds_where_every_seed_is_clear_in_both_tasks() -> None:
    found = information.verdicts(whole(0.1))
    assert len(found) == 2 * 2 * 4 and set(found["verdict"]) == {SUPPORTED} and set(found["seeds"]) == {3}
    assert np.allclose(found[["difference", "low", "high"]], [0.1, 0.05, 0.15])
    text = information.verdict(found)
    assert text.count(f"**{SUPPORTED}**") == 2 and "recommendation +0.100 (+0.050 to +0.150)" in text
    assert "3 of 3 other estimators decide both tasks alike: NWJ, InfoNCE, KSG." in text


@pytest.mark.parametrize(
    ("gain", "expected"),
    [(-0.1, REFUSED), (0.01, UNDECIDED), ({"rec": 0.1, "src": 0.02}, UNDECIDED), ({"rec": 0.1, "src": -0.2}, REFUSED)],
)
def test_anything_less_is_refused_or_undecided(gain: dict[str, float] | float, expected: str) -> None:
    assert information.verdict(information.verdicts(whole(gain))).count(f"**{expected}**") == 2


def test_one_unclear_seed_leaves_it_undecided() -> None:
    frame = whole(0.1)
    frame.loc[(frame["against"] != "") & (frame["seed"] == 1), ["value", "low", "high"]] = [0.0, -0.05, 0.05]
    assert set(information.verdicts(frame)["verdict"]) == {UNDECIDED}


def test_few_seeds_leave_it_undecided() -> None:
    found = information.verdicts(whole(0.1, seeds=(0, 1)))
    assert set(found["verdict"]) == {UNDECIDED} and (found["low"] > 0).all()


def test_the_claim_turned_round_is_refused() -> None:
    found = information.verdicts(whole(0.1), "UniSAR", "GenSR")
    assert set(found["verdict"]) == {REFUSED} and np.allclose(found["difference"], -0.1)


def test_without_both_methods_or_tasks_nothing_is_decided() -> None:
    frame = whole()
    assert information.verdicts(frame, "GenSR", "SASRec").empty
    assert UNDECIDED in information.verdict(information.verdicts(frame, "GenSR", "SASRec"), "GenSR", "SASRec")
    one = information.verdict(information.verdicts(frame[frame["task"] == "src"]))
    assert one.count(UNDECIDED) == 2 and f"**{SUPPORTED}**" not in one


def test_the_papers_values_exceed_ln_2_but_not_1() -> None:
    printed = information.paper()
    assert len(printed) == 8 and set(printed["task"]) == {"rec", "src"}
    text = information.unit_remark(printed)
    assert "8 values lie between 0.8475 and 0.9378" in text and "8 of them exceed" in text
    assert "all would keep to it in bits" in text
    assert "All of them keep" in information.unit_remark(printed.assign(value=printed["value"] / 2))


def test_the_paper_stands_beside_ours() -> None:
    shown = information.beside(whole(0.1)).set_index(["task", "method"])
    assert shown.loc[("search", "GenSR"), "paper, Amazon"] == "0.9378"
    assert shown.loc[("recommendation", "UniSAR"), "paper, KuaiSAR"] == "0.8475"
    assert shown.loc[("search", "GenSR"), f"{RESPONSE} [nats]"] == "0.400 (0.350 to 0.450)"
    assert set(shown["seeds"]) == {3}
    alone = information.beside(whole(0.1).query("method == 'UniSAR'")).set_index(["task", "method"])
    assert alone.loc[("search", "GenSR"), f"{RELEVANCE} [nats]"] == "–" and alone.loc[("search", "GenSR"), "seeds"] == 0


def test_views_show_what_they_are_asked_for() -> None:
    frame = whole(0.1)
    text = information.explore(frame, task="rec", quantity=RESPONSE, estimator="NWJ")
    assert "Recommendation, input and output, NWJ" in text and text.count("untrained") == 2
    assert f"{0.4 / np.log(2):.3f}" in text and "own pairs" in text
    silent = frame.assign(trained_on=np.nan)
    assert "own pairs" not in information.explore(silent, task="rec", quantity=RESPONSE, estimator="KSG")
    known = pd.DataFrame([row("", 0.9, estimator=name) | {"truth": 1.0} for name in ESTIMATORS])
    assert information.at_truth(known, 1.0).count("-0.100") == 4
    assert len(information_figures.on_gaussians(known).data) == 1 + len(ESTIMATORS)
    reading = information.reading(frame)
    assert "16 of 16 intervals hold 0" in reading and "GenSR search 0.400, untrained 0.000" in reading
    assert "GenSR 3" in information.about(frame, InputOutput()) and "35%" in information.about(frame, InputOutput())
    assert information.verdict_table(information.verdicts(frame)).count(SUPPORTED) == 16


def test_figures_have_a_panel_per_task_and_a_color_per_method() -> None:
    frame = whole(0.1)
    plot = information_figures.intervals(frame, RELEVANCE)
    assert len(plot.data) == 2 * 2 * len(CONTROLS)
    assert sum(len(trace.x) for trace in plot.data) == len(frame.query("against == '' and quantity == @RELEVANCE"))
    colors = {trace.name.split(",")[0]: trace.marker.color for trace in plot.data}
    assert len(set(colors.values())) == 2
    one, two = (information_figures.intervals_svg(frame, RELEVANCE) for _ in range(2))
    assert one == two and one.startswith("<svg")


def test_an_estimate_far_below_zero_does_not_squeeze_the_others() -> None:
    frame = whole(0.1)
    gone = frame.index[(frame["quantity"] == RELEVANCE) & (frame["against"] == "") & (frame["task"] == "rec")][0]
    plot = information_figures.intervals(frame.assign(**{
        name: frame[name].where(frame.index != gone, value) for name, value in {"value": -45.8, "low": -188.0}.items()
    }), RELEVANCE)  # fmt: skip
    assert plot.layout.xaxis.range[0] == information_figures.LOWEST and plot.layout.xaxis2.range is None
    assert [note.text for note in plot.layout.annotations if "◂" in note.text] == ["◂ -45.8"]


def test_the_check_does_not_depend_on_what_was_learned() -> None:
    assert information.check(whole(0.1)) == information.check(whole(-0.1, seeds=(0,)))


def test_two_methods_are_compared() -> None:
    assert information.compared("gensr, UniSAR,SASRec") == ("GenSR", "UniSAR")
    with pytest.raises(ConfigError, match="two are compared"):
        information.compared("GenSR")
