"""Figures and words on the simulated theorem: they follow the numbers."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from itertools import product

import numpy as np
import pandas as pd
import pytest

from unisr.analysis import expansion, theory
from unisr.report import proof, theorem

SETTING = theory.Setting(dimension=4, samples=12, repetitions=5)


def grid(signs: dict[str, float], count: int = 40) -> pd.DataFrame:
    """A table as of `theory.grid` whose differences have the given sign in every setting."""
    rows = []
    for n, (name, sign) in product(range(count), signs.items()):
        rows.append({"measure": name, "value": sign, "low": sign - 0.5, "high": sign + 0.5, "estimator": 9.0,
                     "shared": 1.0, "dimension": 4, "samples": 50, "noise": 1.0, "similarity": -1 + 2 * n / count})
    return pd.DataFrame(rows)


FOR = {"hessian": -1.0, "own": -1.0, "error": -1.0, "squared": 1.0, "label": 1.0, "printed": 1.0}


@pytest.fixture(scope="module")
def small() -> pd.DataFrame:
    return theory.grid(dimensions=[4], samples=[10, 40], noises=[1.0], similarities=[-1.0, 0.5, 1.0], repetitions=20)


def channel(**columns: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"w": [1.0, 2.0], "printed": [0.35, 0.55], "squared": [0.35, 0.8], "measured": [0.35, 0.8],
                         **columns})  # fmt: skip


def terms(kept: float, dropped: float) -> pd.DataFrame:
    return pd.DataFrame({"samples": [10, 20], "error": [1.0, 1.0], "kept": [kept, kept], "dropped": [dropped, dropped]})


def test_shares_count_clear_settings_only() -> None:
    frame = grid({"error": 0.0}, 10)
    frame.loc[:2, ["low", "high"]] = [[-2.0, -1.0]] * 3
    frame.loc[3, ["low", "high"]] = [1.0, 2.0]
    frame.loc[9, ["low", "high"]] = np.nan
    found = proof.shares(frame, "error", lower=True)
    assert (found.right, found.wrong, found.count) == pytest.approx((3 / 9, 1 / 9, 9))
    assert proof.shares(frame, "error", lower=False).right == pytest.approx(1 / 9)


@pytest.mark.parametrize(("right", "wrong", "word"), [
    (0.9, 0.05, "supported"), (0.9, 0.06, "not supported"), (0.4, 0.0, "undecided")])
def test_the_rule_of_verdicts(right: float, wrong: float, word: str) -> None:
    assert proof.Shares(right, wrong, 100).verdict == word


def test_steps_are_supported_where_the_numbers_do_and_refuted_where_they_do_not() -> None:
    good = proof.steps(grid(FOR), terms(0.9, 0.9), channel(printed=[0.35, 0.8])).set_index("step")["verdict"]
    assert set(good.drop("I(X; Ŷ) nears I(X; Y) from below")) == {"supported"}
    against = {name: -sign for name, sign in FOR.items()} | {"squared": -1.0, "error": -1.0}
    bad = proof.steps(grid(against), terms(0.1, 0.2), channel(squared=[0.35, np.nan])).set_index("step")["verdict"]
    assert set(bad) == {"not supported", "supported"}
    assert bad[bad == "supported"].index.tolist() == ["Eq. 14, both errors from the tasks' w_t"]


def test_the_verdict_needs_both_readings_of_the_conclusion() -> None:
    for label, word in ((1.0, "supported"), (-1.0, "not supported"), (0.0, "undecided")):
        table = proof.steps(grid({**FOR, "label": label}), terms(0.9, 0.9), channel())
        assert f"**{word}**" in proof.verdict(table)


def test_reading_tells_of_the_simulated_grid(small: pd.DataFrame) -> None:
    table = proof.steps(small, expansion.expansion([200], repetitions=3), theorem.channel())
    text = proof.reading(table, small)
    assert "Eq. 15 with w²" in text.split("**not supported**")[0]
    assert "inverse Hessian" in text.split("**not supported**")[1]


def test_the_view_has_a_figure_a_table_and_the_break_even() -> None:
    text = theorem.view(dimension=4, samples=12, noise=1.0, similarity=0.5, repetitions=5)
    svg = ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    assert svg.tag.endswith("svg")
    assert all(name in text for name in theorem.NAMES.values())
    assert f"{theory.break_even(4, 12, 1.0):.2f}" in text
    assert "not finite" in theorem.view(dimension=8, samples=8, noise=1.0, similarity=0.5, repetitions=5)
    assert theorem.errors_svg(SETTING) == theorem.errors_svg(SETTING)


def test_the_error_figure_shows_simulated_and_exact_lines() -> None:
    lines = [trace for trace in theorem.errors(SETTING).data if trace.mode == "lines"]
    expected = [theory.expected_error(SETTING.model_copy(update={"similarity": c}), "blocks")
                for c in theorem.SIMILARITIES]  # fmt: skip
    assert any(list(line.y) == pytest.approx(expected) for line in lines)
    bound = theorem.errors(SETTING, "squared").layout.shapes[0].y0
    assert bound == pytest.approx(2 * float(theory.information(1.0, 1.0)))


def test_the_map_puts_every_setting_into_one_group(small: pd.DataFrame) -> None:
    for measure in ("error", "squared"):
        marks = [trace for trace in theorem.winners(small, 1.0, measure).data if trace.mode == "markers"]
        assert sum(len(trace.x) for trace in marks) == 6
        told = [trace.name for trace in marks if trace.showlegend]
        assert sorted(told) == sorted({trace.name for trace in marks if len(trace.x)})
    named = {trace.name: set(trace.y) for trace in theorem.winners(small, 1.0).data if trace.mode == "markers"}
    assert 1.0 in named["the shared vector"] and -1.0 in named["a vector per task"]


def test_the_channel_leaves_out_what_has_no_value() -> None:
    frame = theorem.channel()
    assert frame["printed"].isna().any() and frame["measured"].notna().all()
    printed, squared, measured = theorem.channel_figure(frame).data
    assert min(printed.x) > -1 > min(squared.x) and len(measured.x) == len(frame)
