"""Words and figures of gradient conflict, from frames whose numbers are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from unisr.errors import UnisrError
from unisr.random import generator
from unisr.report import conflict, conflict_figures
from unisr.report.conflict import PAPER_LAYER, PLAIN
from unisr.report.verdicts import UNDECIDED

PROBES = 100


def measured(method: str, cosines: np.ndarray, *, layer: bool = True, seed: int = 0) -> pd.DataFrame:
    """A watched training whose every part has the given cosine at each probe; two parts, 4 epochs."""
    parts = [("layer", "encoder.1", layer), ("group", "all", False), ("group", "embeddings", False)]
    steps = np.arange(len(cosines)) * 3
    rows = [
        {"method": method, "seed": seed, "step": step, "epoch": 1 + 4 * place // len(cosines), "kind": kind,
         "part": part, "paper": paper, "parameters": 10, "cosine": value, "across": value / 2, "within": value / 2,
         "noise_rec": 0.9, "noise_src": 0.7, "norm_ratio": 2.0, "trained_epochs": 4, "epoch_examples": 100}
        for place, (step, value) in enumerate(zip(steps, cosines, strict=True)) for kind, part, paper in parts
    ]  # fmt: skip
    return pd.DataFrame(rows)


def noisy(mean: float, spread: float, name: str, *, probes: int = PROBES) -> np.ndarray:
    return np.clip(generator(0, "cosines", name).normal(mean, spread, probes), -1, 1)


@pytest.fixture
def frame() -> pd.DataFrame:
    """As the paper has it: one method high and steady, the other all over."""
    return pd.concat([measured("GenSR", noisy(0.7, 0.05, "a")), measured("UniSAR", noisy(-0.1, 0.5, "b"))])


def verdicts(frame: pd.DataFrame) -> list[str]:
    return conflict.claims(frame)["verdict"].tolist()


def test_the_paper_s_picture_supports_the_paper(frame: pd.DataFrame) -> None:
    assert verdicts(frame) == ["supported"] * 5


def test_the_opposite_picture_refutes_it(frame: pd.DataFrame) -> None:
    swapped = frame.assign(method=frame["method"].map({"GenSR": "UniSAR", "UniSAR": "GenSR"}))
    assert verdicts(swapped) == ["not supported"] * 5


def test_equal_methods_are_undecided() -> None:
    same = noisy(0.2, 0.3, "a")
    frame = pd.concat([measured("GenSR", same), measured("UniSAR", noisy(0.2, 0.3, "c"))])
    assert verdicts(frame)[-2:] == [UNDECIDED] * 2


def test_few_probes_decide_nothing(frame: pd.DataFrame) -> None:
    few = frame[frame["step"] < 3 * (conflict.FEWEST - 1)]
    assert all(v.startswith(UNDECIDED) and "fewer than" in v for v in verdicts(few))


def test_one_method_alone_has_its_own_claims(frame: pd.DataFrame) -> None:
    assert len(conflict.claims(frame[frame["method"] == "GenSR"])) == 1
    assert len(conflict.claims(frame[frame["method"] == "UniSAR"])) == 2
    assert conflict.claims(frame.assign(method="JSR")).columns.tolist() == ["paper", "ours", "verdict", "rule"]


def test_shares_and_means_are_counted() -> None:
    values = np.r_[np.full(10, -0.6), np.full(10, -0.2), np.full(20, 0.4)]
    (row,) = conflict.summary(measured("UniSAR", values)).to_dict("records")
    assert row["probes"] == len(values) and row["seeds"] == 1
    # Wilson by hand: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n).
    z, n = 1.959964, 40
    for share, column in ((0.5, "negative"), (0.25, "at or below -0.5")):
        half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
        middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        assert row[column] == f"{share:.0%} ({middle - half:.0%} to {middle + half:.0%})"
    assert row["mean cosine"] == pytest.approx(values.mean()) and row["other users"] == pytest.approx(
        values.mean() / 2
    )


def test_contrasts_pair_probes_of_one_number_and_seed() -> None:
    """The same waves with a constant gap: unpaired they overlap, paired the gap is certain."""
    waves = noisy(0.0, 0.4, "waves")
    frame = pd.concat([
        measured(name, np.clip(waves + shift, -1, 1), seed=seed)
        for name, shift in (("UniSAR", -0.05), ("GenSR", 0.05)) for seed in (0, 1)
    ])  # fmt: skip
    less = conflict.claims(frame).set_index("paper").loc["GenSR has less conflict than UniSAR"]
    assert less["verdict"] == "supported"
    assert less["ours"].startswith("mean cosine +0.10")


def test_parts_are_those_of_all_methods(frame: pd.DataFrame) -> None:
    assert conflict.parts(frame) == [PAPER_LAYER, "all", "embeddings"]
    without = pd.concat([frame, measured("JSR", noisy(0.1, 0.1, "j"), layer=False)])
    assert conflict.parts(without) == ["all", "embeddings"]
    assert conflict.layers(without)["layer"].tolist()[-1].startswith("none")
    with pytest.raises(UnisrError, match="no method has the part 'heads'; there are"):
        conflict.of_part(frame, "heads")
    numbers = conflict.of_part(frame)["number"]
    assert sorted(numbers.unique()) == list(range(PROBES))


@pytest.mark.parametrize("values, noise, word", [
    (-0.5, 0.8, "opposes"), (0.5, 0.8, "helps"), (0.01, 0.8, "neither"), (0.5, 0.02, "noise hides"),
])  # fmt: skip
def test_the_reading_weighs_the_cosine_against_the_noise(values: float, noise: float, word: str) -> None:
    frame = measured("UniSAR", np.full(PROBES, values)).assign(noise_src=noise)
    assert word in conflict.reading(frame)


def test_the_reading_names_noise_that_both_tasks_share() -> None:
    frame = measured("UniSAR", np.full(PROBES, 0.6))
    assert "which both tasks share" not in conflict.reading(frame)
    assert "which both tasks share" in conflict.reading(frame.assign(across=0.1))


def test_figures_draw_every_method_and_their_twins_are_stable(frame: pd.DataFrame) -> None:
    plot = conflict_figures.curve(frame)
    lines = [trace for trace in plot.data if trace.mode == "lines+markers"]
    assert [len(line.x) for line in lines] == [PROBES, PROBES]
    assert lines[0].y == pytest.approx(noisy(0.7, 0.05, "a"), abs=1e-4)
    band = plot.data[0]
    assert set(band.y) == {0.9, 0.7}
    assert "step" in plot.layout.xaxis.title.text and "cosine" in plot.layout.yaxis.title.text
    svg = conflict_figures.curve_svg(frame, "all")
    assert svg == conflict_figures.curve_svg(frame, "all") and "UniSAR" in svg and svg.startswith("<svg")


def test_bars_are_one_epoch_s_means(frame: pd.DataFrame) -> None:
    own = frame[(frame["method"] == "UniSAR") & frame["paper"]]
    bars = conflict_figures.bars(frame, "UniSAR", 2).data[0]
    assert bars.y[0] == f"{PAPER_LAYER}: encoder.1"
    assert bars.x[0] == pytest.approx(own.loc[own["epoch"] == 2, "cosine"].mean(), abs=1e-4)
    assert conflict_figures.bars(frame, "UniSAR", 99).layout.title.text.startswith("UniSAR, epoch 4 of 4")
    assert "group: all" in conflict_figures.bars_svg(frame, "GenSR", 1)


def test_aggregators_are_told_against_the_plain_sum() -> None:
    tidy = pd.DataFrame({
        "method": [PLAIN, "PCGrad", "MGDA"], "metric": "NDCG@10", "value": [0.3, 0.35, 0.31], "seeds": 1,
        "difference": [np.nan, 0.05, 0.01], "significant": [False, True, False],
    })  # fmt: skip
    text = conflict.repair_reading({"rec": tidy})
    assert "PCGrad 0.350 (+0.050, clear)" in text and "MGDA 0.310 (+0.010)" in text and "Some differ" in text
    assert "None differs" in conflict.repair_reading({"rec": tidy.assign(significant=False)})
